"""The clock and real workers: each time once, in whatever tree, also after a pause."""

import itertools
from datetime import timedelta

import pytest

from jobs import schedules
from jobs.models import Job, Schedule, Tick
from jobs.states import State
from jobs.storage import storage

pytestmark = pytest.mark.django_db(transaction=True)


def every_second(ledger, **fields) -> Schedule:
    kwargs = {"ledger": str(ledger), "name": "tick"}
    made = Schedule(
        name="s", task_path="tests.acceptance.tasks.work", kwargs=kwargs, every=timedelta(seconds=1), **fields
    )
    schedules.plan(made)
    made.save()
    return made


def test_two_trees_enqueue_each_time_once_and_run_its_job(worker, ledger, eventually):
    every_second(ledger, missed="all")
    for tree in (worker(), worker()):
        tree.wait_ready()

    eventually(lambda: len(ledger.lines()) >= 5, within=15)

    ticks = list(Tick.objects.order_by("at"))
    assert {later.at - earlier.at for earlier, later in itertools.pairwise(ticks)} == {timedelta(seconds=1)}
    assert len({tick.job_id for tick in ticks}) == len(ticks)
    assert Job.objects.count() >= len(ledger.lines())
    late = [tick.enqueued_at - tick.at for tick in ticks[1:]]
    assert sorted(late)[len(late) // 2] < timedelta(seconds=1)


def test_what_was_missed_while_no_worker_ran_is_one_job(worker, ledger, eventually):
    schedule = every_second(ledger)
    Schedule.objects.update(every=timedelta(hours=1), next_at=storage().now() - timedelta(hours=5))

    worker().wait_ready()

    eventually(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == 1)
    schedule.refresh_from_db()
    assert schedule.next_at > storage().now()
    assert ledger.lines() == ["tick done"]


def test_a_broken_schedule_takes_no_worker_along(worker, ledger, eventually):
    broken = every_second(ledger)
    Schedule.objects.update(kwargs=broken.kwargs | {"nobody": 1})
    tree = worker().wait_ready()

    eventually(lambda: Schedule.objects.exclude(problem="").exists(), within=10)

    broken.refresh_from_db()
    assert "nobody" in broken.problem
    assert "schedule disabled itself" in tree.log()
    tree.terminate()
    assert tree.exit_code() == 0
