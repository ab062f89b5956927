"""Workers that die without a word: whose fault it was, and how soon their jobs go on."""

import os
import signal

import pytest
from django.db import transaction

from jobs import enqueue_many
from jobs.models import Attempt, DeadLetter, Job
from jobs.states import Reason, State
from tests.acceptance import tasks
from tests.acceptance.rows import have_state, have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)

# Long enough that nothing in these tests comes back because its lease expired.
LONG_LEASE = ("--lease", "60", "--poll-interval", "0.2")


def test_the_one_job_of_a_killed_process_is_charged_and_runs_again_at_once(worker, ledger, eventually):
    tree = worker(*LONG_LEASE, "--threads", "2").wait_ready()
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    eventually(lambda: ledger.has("held started"))
    (child,) = tree.children()

    child.send_signal(signal.SIGKILL)

    eventually(lambda: ledger.count("held started") == 2)
    assert outcomes_of(held) == ["lost"]
    assert row_of(held).crashes == 1
    neighbour = tasks.work.enqueue(ledger=str(ledger), name="neighbour")
    eventually(lambda: have_succeeded(neighbour))
    ledger.open()
    eventually(lambda: have_succeeded(held))
    assert (row_of(held).attempts, row_of(held).lease_token) == (1, 2)


def test_of_several_jobs_in_a_killed_process_none_is_charged_and_each_runs_alone_next(worker, ledger, eventually):
    tree = worker(*LONG_LEASE, "--threads", "3").wait_ready()
    names = ("one", "two", "three")
    held = [tasks.hold.enqueue(ledger=str(ledger), name=name) for name in names]
    eventually(lambda: ledger.has(*(f"{name} started" for name in names)))
    (child,) = tree.children()

    child.send_signal(signal.SIGKILL)

    eventually(lambda: Attempt.objects.filter(outcome="lost").count() == 3)
    eventually(lambda: len(ledger.lines()) == 4)
    # By now the killed process has a successor: an ordinary one, which leaves suspects alone.
    neighbour = tasks.work.enqueue(ledger=str(ledger), name="neighbour")
    eventually(lambda: have_succeeded(neighbour))
    assert Job.objects.running().count() == 1
    assert Job.objects.filter(state=State.READY, suspect=True).count() == 2
    ledger.open()
    eventually(lambda: have_succeeded(*held), within=10)
    assert set(Job.objects.values_list("crashes", "attempts")) == {(0, 1)}
    again = [line for line in ledger.lines()[3:] if line != "neighbour done"]
    assert [line.split()[1] for line in again] == ["started", "done"] * 3


def test_jobs_that_never_started_in_a_dead_process_are_released_uncharged(worker, ledger, eventually):
    worker(*LONG_LEASE, "--threads", "2").wait_ready()
    # Short jobs teach the worker to claim ahead.
    quick = enqueue_many(tasks.work, [{"ledger": str(ledger), "name": str(number)} for number in range(50)])
    eventually(lambda: have_succeeded(*quick))

    with transaction.atomic():
        killers = [
            tasks.die_once.enqueue(ledger=str(ledger), name=name, company=["left", "right"])
            for name in ("left", "right")
        ]
        waiting = [tasks.work.enqueue(ledger=str(ledger), name=f"waiting {number}") for number in range(10)]

    eventually(lambda: have_succeeded(*killers, *waiting), within=10)
    assert [row_of(killer).crashes for killer in killers] == [0, 0]
    # Claimed once in the buffer of the process that died, and once more by the next.
    assert [row_of(result).lease_token for result in waiting] == [2] * 10
    assert all(outcomes_of(result) == [] for result in waiting)
    assert all((row_of(result).crashes, row_of(result).attempts) == (0, 1) for result in waiting)


@pytest.mark.parametrize("how", ["exit", "exit as if done", "kill"])
def test_a_job_that_kills_its_worker_each_time_dies_and_no_neighbour_is_charged(worker, ledger, eventually, how):
    worker(*LONG_LEASE, "--threads", "2").wait_ready()
    neighbour = tasks.hold.enqueue(ledger=str(ledger), name="neighbour")
    eventually(lambda: ledger.has("neighbour started"))

    killer = tasks.die.enqueue(ledger=str(ledger), name="killer", how=how, company=["neighbour"])

    eventually(lambda: ledger.has("killer started"))
    ledger.open()
    eventually(lambda: have_state(State.DEAD, killer), within=15)
    eventually(lambda: have_succeeded(neighbour))
    letter = DeadLetter.objects.get()
    assert (letter.job_id, letter.reason) == (int(killer.id), Reason.WORKER_LOST)
    # Once with company, which is charged to nobody, then alone until its budget of two is spent.
    assert outcomes_of(killer) == ["lost"] * 3
    assert (row_of(killer).crashes, row_of(killer).attempts) == (2, 0)
    assert (row_of(neighbour).crashes, row_of(neighbour).attempts) == (0, 1)
    assert ledger.count("neighbour done") == 1


def test_every_job_of_a_killed_tree_ends_within_a_lease_and_five_seconds(worker, ledger, eventually):
    lease = 3
    arguments = ("--lease", str(lease), "--poll-interval", "0.2", "--processes", "2", "--threads", "2")
    tree = worker(*arguments).wait_ready()
    held = [tasks.hold.enqueue(ledger=str(ledger), name=str(number)) for number in range(4)]
    eventually(lambda: Job.objects.running().count() == 4)
    waiting = tasks.work.enqueue(ledger=str(ledger), name="waiting")
    second = worker(*arguments).wait_ready()
    eventually(lambda: have_succeeded(waiting))

    tree.kill_tree()
    ledger.open()

    eventually(lambda: have_succeeded(*held), within=lease + 5)
    assert set(Job.objects.values_list("crashes", "attempts")) == {(0, 1)}
    assert all(f"-{second.pid}-" in row_of(result).worker_ids[-1] for result in held)
    assert all(ledger.count(f"{number} done") == 1 for number in range(4))


def test_a_supervisor_that_is_killed_alone_leaves_children_that_finish_and_go(worker, ledger, eventually):
    tree = worker(*LONG_LEASE, "--processes", "2", "--threads", "1").wait_ready()
    held = [tasks.hold.enqueue(ledger=str(ledger), name=name) for name in ("one", "two")]
    eventually(lambda: ledger.has("one started", "two started"))

    os.kill(tree.pid, signal.SIGKILL)
    tree.supervisor.wait(5)
    waiting = tasks.work.enqueue(ledger=str(ledger), name="waiting")
    assert len(tree.children()) == 2
    ledger.open()

    eventually(lambda: not tree.children(), within=10)
    assert have_succeeded(*held)
    assert set(Job.objects.filter(state=State.SUCCEEDED).values_list("attempts", "crashes")) == {(1, 0)}
    assert (row_of(waiting).state, row_of(waiting).worker_ids) == (State.READY, []), tree.log()
