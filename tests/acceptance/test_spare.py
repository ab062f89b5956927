"""The process that a tree keeps ready: loaded, idle, and in the place of one that dies before a new one could be."""

import os
import signal
import time

import psutil
import pytest

from jobs.models import Worker
from tests.acceptance import tasks
from tests.acceptance.rows import have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)

LONG_LEASE = ("--lease", "60", "--poll-interval", "0.2")


@pytest.fixture
def tree(worker, eventually):
    found = worker(*LONG_LEASE, "--threads", "3", spare=True).wait_ready()
    eventually(lambda: len(found.children()) == 2 and waits(spare_of(found)), within=15)
    return found


def at_work() -> set[int]:
    return set(Worker.objects.values_list("pid", flat=True))


def spare_of(tree) -> psutil.Process:
    (spare,) = [process for process in tree.children() if process.pid not in at_work()]
    return spare


def waits(spare: psutil.Process) -> bool:
    """Say whether a process has loaded all that it can, and does nothing any more."""
    before = spare.cpu_times()
    time.sleep(0.3)
    return spare.cpu_times() == before and before.user > 0.2


def test_a_spare_runs_on_what_a_process_that_died_was_running_and_another_is_kept(tree, ledger, eventually):
    spare = spare_of(tree)
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    eventually(lambda: ledger.has("held started"))
    (dead,) = at_work()

    os.kill(dead, signal.SIGKILL)

    eventually(lambda: ledger.count("held started") == 2)
    pid = Worker.objects.get(worker_id=row_of(held).leased_by).pid
    assert pid == spare.pid
    ledger.open()
    eventually(lambda: have_succeeded(held))
    assert outcomes_of(held) == ["lost"]
    known = {spare.pid, dead}
    eventually(lambda: {process.pid for process in tree.children()} - at_work() - known, within=15)


def test_a_spare_runs_the_suspects_alone_while_a_new_process_is_still_starting(tree, ledger, eventually):
    spare = spare_of(tree)
    held = [tasks.hold.enqueue(ledger=str(ledger), name=name) for name in ("one", "two")]
    eventually(lambda: ledger.has("one started", "two started"))
    (dead,) = at_work()

    os.kill(dead, signal.SIGKILL)

    eventually(lambda: len(ledger.lines()) == 3)
    (leased_by,) = {row_of(result).leased_by for result in held} - {""}
    assert Worker.objects.get(worker_id=leased_by).pid == spare.pid
    ledger.open()
    eventually(lambda: have_succeeded(*held), within=10)
    assert {row_of(result).crashes for result in held} == {0}


def test_a_spare_that_waits_takes_no_job_and_no_connection(tree, ledger, eventually):
    spare = spare_of(tree)
    results = [tasks.work.enqueue(ledger=str(ledger), name=str(number)) for number in range(20)]
    eventually(lambda: have_succeeded(*results))

    assert {row_of(result).worker_ids[-1] for result in results} == set(
        Worker.objects.values_list("worker_id", flat=True)
    )
    assert spare.num_threads() == 1
    assert spare.net_connections("all") == []
    assert not [file for file in spare.open_files() if "sqlite" in file.path]


def test_a_tree_that_is_told_to_stop_takes_its_spare_along(tree):
    tree.terminate()

    assert tree.exit_code() == 0
    assert tree.children() == []


def test_a_spare_whose_supervisor_is_killed_ends_by_itself(tree, eventually):
    os.kill(tree.pid, signal.SIGKILL)
    tree.supervisor.wait(5)

    eventually(lambda: not tree.children(), within=10)
    assert "Traceback" not in tree.log()


def test_a_spare_that_is_killed_costs_nobody_anything(tree, ledger, eventually):
    spare = spare_of(tree)

    spare.kill()
    spare.wait(5)

    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    eventually(lambda: ledger.has("held started"))
    (dead,) = at_work()
    os.kill(dead, signal.SIGKILL)
    eventually(lambda: ledger.count("held started") == 2, within=10)
    ledger.open()
    eventually(lambda: have_succeeded(held))


@pytest.mark.parametrize("arguments", [("--no-spare",), ("--drain",), ("--max-jobs", "5")])
def test_a_tree_that_does_not_last_or_must_save_memory_keeps_no_spare(worker, ledger, eventually, arguments):
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    tree = worker(*LONG_LEASE, *arguments, spare=True).wait_ready()
    eventually(lambda: ledger.has("held started"))
    done = tasks.work.enqueue(ledger=str(ledger), name="meanwhile")
    eventually(lambda: have_succeeded(done))

    assert len(tree.children()) == 1

    ledger.open()
    eventually(lambda: have_succeeded(held))
