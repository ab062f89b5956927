"""The process that a tree keeps beside its workers: loaded, idle, and there to fork who takes the place of the dead."""

import os
import signal

import psutil
import pytest

from jobs.models import Worker
from tests.acceptance import tasks
from tests.acceptance.rows import have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)

LONG_LEASE = ("--lease", "60", "--poll-interval", "0.2")
# What a project may do when it is loaded, and no fork may inherit.
UNFORKABLE = {
    "a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "a connection": "import socket\nserver = socket.create_server(('127.0.0.1', 0))",
    "a file that is read": "table = open(__file__)",
}


# What a project may do at each fork, from the moment that a file is there. An agent starts a thread.
AT_FORK = {
    "starts a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "hangs": "time.sleep(60)",
}


@pytest.fixture
def tree(worker, eventually):
    found = with_one_waiting(worker(*LONG_LEASE, "--threads", "3", typed=True).wait_ready(), eventually)
    # Housekeeping lists those who work a moment later.
    eventually(at_work)
    return found


def with_one_waiting(tree, eventually):
    eventually(tree.waiting, within=15)
    return tree


def at_work() -> set[int]:
    return set(Worker.objects.values_list("pid", flat=True))


def one_that_waits(tree) -> psutil.Process:
    (found,) = tree.waiting()
    return found


def who_runs(held, eventually) -> int:
    """Return the process that runs a job; a new one is in the list of workers a moment after its first job began."""
    workers = Worker.objects.filter(worker_id=row_of(held).leased_by)
    eventually(workers.exists)
    return workers.get().pid


def hold_and_kill(tree, ledger, eventually, name: str = "held"):
    """Kill the process that runs a job, and see another run it."""
    held = tasks.hold.enqueue(ledger=str(ledger), name=name)
    eventually(lambda: ledger.has(f"{name} started"))
    os.kill(who_runs(held, eventually), signal.SIGKILL)
    eventually(lambda: ledger.count(f"{name} started") == 2, within=10)
    return held, who_runs(held, eventually)


def test_a_fork_runs_on_what_a_process_that_died_was_running(tree, ledger, eventually):
    server = one_that_waits(tree)

    held, pid = hold_and_kill(tree, ledger, eventually)

    assert psutil.Process(pid).ppid() == tree.pid
    assert psutil.Process(pid).name() == "jobs-worker"
    assert one_that_waits(tree) == server
    assert "exit_code=-9" in tree.log()
    ledger.open()
    eventually(lambda: have_succeeded(held))
    assert outcomes_of(held) == ["lost"]


def test_suspects_run_alone_each_in_a_process_that_is_there_at_once(tree, ledger, eventually):
    held = [tasks.hold.enqueue(ledger=str(ledger), name=name) for name in ("one", "two")]
    eventually(lambda: ledger.has("one started", "two started"))
    (dead,) = at_work()

    os.kill(dead, signal.SIGKILL)

    eventually(lambda: len(ledger.lines()) == 3)
    (running,) = [result for result in held if row_of(result).leased_by]
    assert who_runs(running, eventually) != dead
    ledger.open()
    eventually(lambda: have_succeeded(*held), within=10)
    assert {row_of(result).crashes for result in held} == {0}


def test_the_fork_server_takes_no_job_and_no_connection(tree, ledger, eventually):
    server = one_that_waits(tree)
    results = [tasks.work.enqueue(ledger=str(ledger), name=str(number)) for number in range(20)]
    eventually(lambda: have_succeeded(*results))

    assert {row_of(result).worker_ids[-1] for result in results} == set(
        Worker.objects.values_list("worker_id", flat=True)
    )
    assert server.num_threads() == 1
    # Nothing but what it is asked over.
    assert len(server.net_connections("all")) == 1
    assert not [file for file in server.open_files() if "sqlite" in file.path]


def test_a_process_that_works_holds_nothing_of_the_fork_server_or_of_its_supervisor(worker, eventually):
    tree = with_one_waiting(
        worker(*LONG_LEASE, "--processes", "3", "--threads", "1", typed=True).wait_ready(), eventually
    )

    pipes = {process: pipes_of(process) for process in [*tree.children(), one_that_waits(tree)]}

    shared = [pipe for pipe in set.union(*pipes.values()) if sum(pipe in found for found in pipes.values()) > 1]
    assert shared == []


def pipes_of(process: psutil.Process) -> set[str]:
    """Return the pipes and sockets that a process has open, but for its standard streams."""
    directory = f"/proc/{process.pid}/fd"
    found = {os.readlink(f"{directory}/{name}") for name in os.listdir(directory) if int(name) > 2}
    return {target for target in found if target.startswith(("pipe:", "socket:"))}


def test_a_tree_that_is_told_to_stop_takes_its_fork_server_along(tree):
    tree.terminate()

    assert tree.exit_code() == 0
    assert tree.processes() == []


def test_a_fork_server_whose_supervisor_is_killed_ends_by_itself(tree, eventually):
    os.kill(tree.pid, signal.SIGKILL)
    tree.supervisor.wait(5)

    eventually(lambda: not tree.processes(), within=10)
    assert "Traceback" not in tree.log()
    assert "supervisor is gone" in tree.log()


def test_a_fork_server_that_is_killed_costs_nobody_anything(tree, ledger, eventually):
    server = one_that_waits(tree)
    (worker,) = at_work()

    server.kill()
    server.wait(5)

    with_one_waiting(tree, eventually)
    assert "fork server lost" in tree.log()
    assert at_work() == {worker}
    # Who was forked by the dead one is still a child of the supervisor, which sees what it dies of.
    held, pid = hold_and_kill(tree, ledger, eventually)
    assert "exit_code=-9" in tree.log()
    assert psutil.Process(pid).ppid() == tree.pid
    ledger.open()
    eventually(lambda: have_succeeded(held))


def test_a_fork_server_that_does_not_answer_is_replaced_and_holds_up_nobody_for_long(tree, ledger, eventually):
    server = one_that_waits(tree)
    server.suspend()

    held, _ = hold_and_kill(tree, ledger, eventually)

    assert "fork server replaced" in tree.log()
    ledger.open()
    eventually(lambda: have_succeeded(held))
    eventually(lambda: tree.waiting() and one_that_waits(tree) != server, within=15)


@pytest.mark.parametrize("what", UNFORKABLE)
def test_where_loading_the_code_opens_what_no_fork_may_inherit_a_spare_is_kept(
    worker, ledger, tmp_path, eventually, what
):
    (tmp_path / "unforkable.py").write_text(f"from tests.settings import *\n{UNFORKABLE[what]}\n")
    environ = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "unforkable"}
    tree = with_one_waiting(worker(*LONG_LEASE, **environ).wait_ready(), eventually)
    spare = one_that_waits(tree)
    assert spare.name() == "jobs-spare"
    assert "each process loads the code anew, as none can be forked" in tree.log()

    held, pid = hold_and_kill(tree, ledger, eventually)

    assert pid == spare.pid
    ledger.open()
    eventually(lambda: have_succeeded(held))
    eventually(lambda: tree.waiting() and one_that_waits(tree) != spare, within=15)


@pytest.mark.parametrize("what", AT_FORK)
def test_a_fork_server_that_what_is_done_at_a_fork_keeps_from_forking_takes_the_seat(
    worker, ledger, tmp_path, eventually, what
):
    now = tmp_path / "now"
    (tmp_path / "at_fork.py").write_text(
        "import os, threading, time\n"
        "from tests.settings import *\n"
        f"os.register_at_fork(after_in_child=lambda: os.path.exists({str(now)!r}) and {AT_FORK[what]})\n"
    )
    environ = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "at_fork"}
    tree = with_one_waiting(worker(*LONG_LEASE, **environ).wait_ready(), eventually)
    server = one_that_waits(tree)
    assert server.name() == "jobs-forkserver"
    now.touch()

    held, pid = hold_and_kill(tree, ledger, eventually)

    assert pid == server.pid
    assert "fork server takes a seat" in tree.log()
    now.unlink()
    ledger.open()
    eventually(lambda: have_succeeded(held))
    # Nobody is left of those who were on their way.
    eventually(lambda: tree.waiting() and len(tree.processes()) == 3, within=15)


def test_a_tree_that_is_to_load_the_code_anew_keeps_nobody(worker, ledger, eventually):
    tree = worker(*LONG_LEASE, "--no-spare", typed=True).wait_ready()
    done = tasks.work.enqueue(ledger=str(ledger), name="meanwhile")
    eventually(lambda: have_succeeded(done))

    assert tree.waiting() == []
    assert len(tree.processes()) == 2
