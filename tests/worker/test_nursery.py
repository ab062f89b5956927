"""Where the processes of a tree come from, without starting any."""

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.worker.child import Child
from jobs.worker.forkserver import STRANGER_SECONDS, CannotFork, NoAnswer, Strangers
from jobs.worker.nursery import AGAIN_SECONDS, START_SECONDS, Nursery

NEW: Any = "a process that is started anew"


@pytest.fixture(autouse=True)
def started(monkeypatch) -> list[Any]:
    """The processes that were asked for: NEW, or by whom they were forked."""
    found: list[Any] = []

    def start(birth: Any = NEW) -> Any:
        found.append(birth)
        return birth if birth is NEW else birth()

    monkeypatch.setattr("jobs.worker.nursery.Child", start)
    return found


def kept(*, ended: bool = False, loaded: bool = True, forks: bool = True, fork: str | OSError = "fork") -> Any:
    def bear() -> str:
        if isinstance(fork, OSError):
            raise fork
        return fork

    found = SimpleNamespace(
        process=SimpleNamespace(pid=4711, poll=lambda: 1 if ended else None),
        has_loaded=lambda: loaded,
        forks=forks,
        bear=bear,
        born_at=time.monotonic(),
        dismissed=False,
    )
    found.dismiss = lambda: setattr(found, "dismissed", True)
    return found


def test_a_fork_server_forks_one_after_another_and_is_kept():
    nursery = Nursery(server := kept())

    forked: list[Any] = [nursery.child(), nursery.child()]

    assert forked == ["fork", "fork"]
    assert nursery.kept is server


def test_a_spare_takes_a_seat_once():
    nursery = Nursery(spare := kept(forks=False))

    assert [nursery.child(), nursery.child()] == [spare, NEW]


@pytest.mark.parametrize("what", [{"ended": True}, {"loaded": False}])
def test_one_that_has_ended_or_still_loads_gives_no_process(what):
    assert Nursery(kept(**what)).child() == NEW


def test_a_fork_server_that_cannot_fork_is_ended_and_the_process_is_started_anew():
    nursery = Nursery(server := kept(fork=NoAnswer("timed out")))

    assert nursery.child() == NEW
    assert server.dismissed
    assert nursery.kept is None


def test_a_fork_server_that_is_well_but_may_not_fork_takes_the_seat_itself():
    nursery = Nursery(server := kept(fork=CannotFork("no more processes")))

    assert nursery.child() is server
    assert not server.dismissed
    assert nursery.kept is None


def test_a_process_that_hangs_while_loading_is_replaced():
    nursery = Nursery(hung := kept(loaded=False))
    nursery.look_after(may_start=True)
    assert nursery.kept is hung

    hung.born_at -= START_SECONDS + 1
    nursery.look_after(may_start=True)

    assert nursery.kept is None
    assert hung.dismissed


def test_a_host_that_allows_no_more_processes_keeps_those_that_work(monkeypatch):
    def refused() -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("jobs.worker.nursery.Child", refused)
    nursery = Nursery(renews=True)

    nursery.look_after(may_start=True)

    assert nursery.kept is None
    assert nursery.again_at > time.monotonic()


def test_the_first_that_is_lost_is_replaced_at_once_and_several_in_a_row_are_not(started):
    nursery = Nursery(kept(ended=True), renews=True)
    nursery.look_after(may_start=True)
    assert started == [NEW]

    for _ in range(5):
        nursery.kept = nursery.kept and kept(ended=True)
        nursery.look_after(may_start=True)
    assert started == [NEW]

    nursery.again_at -= AGAIN_SECONDS
    nursery.look_after(may_start=True)
    assert started == [NEW, NEW]


def test_nobody_is_kept_where_that_is_not_wanted_or_others_have_yet_to_start(started):
    Nursery(renews=False).look_after(may_start=True)
    Nursery(renews=True).look_after(may_start=False)

    assert started == []


# What a process may have opened before it is asked; each is closed before the next.
OPENED = """
import fcntl, json, os, select, socket, sys, threading
from jobs.worker.forkserver import why_not_forkable

def locked(file):
    fcntl.flock(file, fcntl.LOCK_EX)
    return file

found = {"nothing": why_not_forkable()}
for name, open_it in {
    "a log file": lambda: open(sys.argv[1], "a"),
    "a source of random numbers": lambda: open("/dev/urandom", "rb"),
    "a file that is read": lambda: open(sys.argv[1], "rb"),
    "a file that is written": lambda: open(sys.argv[1], "w"),
    "a log file that is read, too": lambda: open(sys.argv[1], "a+"),
    "a lock": lambda: locked(open(sys.argv[1], "a")),
    "a connection": lambda: socket.socket(),
    "an event loop": lambda: select.epoll(),
}.items():
    with open_it():
        found[name] = why_not_forkable()
both = os.pipe()
found["a pipe"], found["a pipe of its own"] = why_not_forkable(), why_not_forkable(both)
for end in both:
    os.close(end)
gate = threading.Event()
threading.Thread(target=gate.wait).start()
found["a thread"] = why_not_forkable()
gate.set()
print(json.dumps(found))
"""


def test_a_process_is_forked_only_if_all_that_it_has_opened_can_be_shared(tmp_path):
    ran = subprocess.run([sys.executable, "-c", OPENED, str(tmp_path / "file")], capture_output=True, text=True)

    reasons = json.loads(ran.stdout or "{}")
    assert reasons["a thread"] == "loading the code has started a thread"
    assert f"cannot share: {tmp_path / 'file'}" in reasons["a lock"]
    assert {name: not why for name, why in reasons.items()} == {
        "nothing": True,
        "a log file": True,
        "a source of random numbers": True,
        "a file that is read": False,
        "a file that is written": False,
        "a log file that is read, too": False,
        "a lock": False,
        "a connection": False,
        "an event loop": False,
        "a pipe": False,
        "a pipe of its own": True,
        "a thread": False,
    }, ran.stderr


def test_the_dead_whom_nobody_knows_are_collected_and_others_are_left_to_who_waits_for_them():
    unknown = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, unknown.pid, os.WEXITED | os.WNOWAIT)
    strangers = Strangers()

    strangers.collect({unknown.pid}, 0.0)
    strangers.collect({unknown.pid}, 100.0)
    strangers.collect(set(), 100.0)
    strangers.collect(set(), 100.0 + STRANGER_SECONDS - 1)
    assert os.waitid(os.P_PID, unknown.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    strangers.collect(set(), 100.0 + STRANGER_SECONDS)
    with pytest.raises(ChildProcessError):
        os.waitpid(unknown.pid, 0)
    unknown.wait()


def test_many_dead_whom_nobody_knows_are_collected_at_once():
    unknown = [subprocess.Popen([sys.executable, "-c", ""]) for _ in range(3)]
    for process in unknown:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    strangers = Strangers()

    strangers.collect(set(), 0.0)
    strangers.collect(set(), STRANGER_SECONDS)

    for process in unknown:
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        process.wait()


@pytest.mark.parametrize("room", range(7))
def test_a_supervisor_that_may_open_no_more_keeps_its_fork_server_and_leaves_nothing_open(monkeypatch, room):
    monkeypatch.setattr("jobs.worker.nursery.Child", Child)
    nursery = Nursery(server := kept())
    before = set(os.listdir("/proc/self/fd"))
    files, limits = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, before)) + 1 + room
    try:
        # Whatever is free below the limit is taken, but for as many.
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
        with suppress(OSError):
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(room):
            os.close(files.pop())
        with pytest.raises(OSError, match="Too many open files"):
            nursery.child()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in files:
            os.close(file)

    assert set(os.listdir("/proc/self/fd")) == before
    assert nursery.kept is server
    assert not server.dismissed
