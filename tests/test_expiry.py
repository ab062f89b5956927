"""A job that did not start in time is not run any more: a dead letter, or dropped, as its task wants it."""

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from jobs import enqueue_many, lifecycle, task
from jobs.compat import InvalidTask
from jobs.conf import options
from jobs.models import Attempt, DeadLetter, Job
from jobs.outcomes import Buried
from jobs.states import Reason, State
from jobs.storage import storage
from jobs.testing import run_jobs
from jobs.worker.housekeeping import Housekeeping
from jobs.worker.runner import Call, prepared
from tests import tasks
from tests.worker.test_housekeeping import keeper

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def nothing_done():
    tasks.done.clear()


def perishable(expires_after: Any = HOUR, **options: Any) -> Any:
    return tasks.say_in_time.using(expires_after=expires_after, **options)


def let_it_expire() -> None:
    Job.objects.update(expires_at=storage().now() - timedelta(seconds=1))


def test_the_time_counts_from_enqueue_or_from_when_the_job_is_due():
    perishable().enqueue("at once")
    perishable(run_after=2 * HOUR).enqueue("later")
    perishable(90, run_after=storage().now() - HOUR).enqueue("due long ago")
    enqueue_many(perishable(), [{"what": "one of many"}])
    moment = storage().now() + 5 * HOUR
    perishable(moment).enqueue("by the clock")

    *jobs, by_the_clock = Job.objects.order_by("pk")
    lives = [job.expires_at - job.enqueued_at for job in jobs]
    assert lives == [HOUR, 3 * HOUR, timedelta(seconds=90), HOUR]
    assert by_the_clock.expires_at == moment


def test_a_job_that_starts_in_time_runs():
    perishable().enqueue("in time")

    assert run_jobs() == 1
    assert tasks.done == ["in time"]


def test_a_worker_does_not_run_what_has_expired_but_leaves_a_dead_letter():
    perishable().enqueue("late")
    let_it_expire()
    run_jobs()

    job = Job.objects.get()
    assert (job.state, job.attempts, job.started_at, job.leased_by) == (State.DEAD, 0, None, "")
    letter = DeadLetter.objects.get()
    assert letter.reason == Reason.EXPIRED
    assert "did not start before it expired, at 20" in letter.group.sample
    assert not tasks.done


def test_what_expires_while_it_is_claimed_ahead_is_not_run_either():
    perishable().enqueue("late")
    [lease] = storage().claim("w", "default", 1, HOUR)

    assert isinstance(prepared(lease, options()), Call)
    late = prepared(lease._replace(claimed_monotonic=lease.claimed_monotonic - 7200), options())

    assert isinstance(late, Buried)
    assert late.reason == Reason.EXPIRED


def test_a_task_may_want_it_dropped():
    tasks.say_or_drop.enqueue("late")
    let_it_expire()
    run_jobs()

    assert Job.objects.get().state == State.CANCELLED
    assert not DeadLetter.objects.exists()
    assert Attempt.objects.get().message.startswith("it did not start before it expired")
    assert not tasks.done


def house() -> Housekeeping:
    return keeper()


def test_housekeeping_ends_what_nobody_claims():
    lifecycle.pause("default")
    perishable().enqueue("paused")
    perishable(run_after=HOUR).enqueue("scheduled")
    tasks.say_or_drop.enqueue("dropped")
    perishable(5 * HOUR).enqueue("alive")
    settled: list[Any] = []
    Job.objects.exclude(args=["alive"]).update(expires_at=storage().now() - timedelta(seconds=1))

    keeping = house()
    keeping.on_settled = settled.extend
    keeping.tick()

    states = {args[0]: state for args, state in Job.objects.values_list("args", "state")}
    assert states == {"paused": "dead", "scheduled": "dead", "dropped": "cancelled", "alive": "ready"}
    assert len(settled) == 3
    assert set(DeadLetter.objects.values_list("reason", flat=True)) == {Reason.EXPIRED}
    assert not Job.objects.exclude(leased_by="").exists()


def test_a_batch_expires_at_each_beat_and_the_next_beat_comes_at_once():
    enqueue_many(perishable(), [{"what": str(n)} for n in range(450)])
    let_it_expire()
    keeping = house()

    assert [keeping.tick() == 0.0 for _ in range(3)] == [True, True, False]

    assert Job.objects.dead().count() == 450


def test_what_has_started_once_does_not_expire():
    perishable().enqueue("retried")
    Job.objects.update(started_at=storage().now(), attempts=1, worker_ids=["w0"])
    let_it_expire()

    house().tick()
    assert Job.objects.get().state == State.READY

    run_jobs()
    assert tasks.done == ["retried"]


def test_a_released_job_has_not_started_and_expires():
    perishable().enqueue("released")
    storage().claim("w", "default", 1, HOUR)
    lifecycle.take_back_stopped("w", lifecycle.Remains(), "shutdown")
    let_it_expire()

    house().tick()

    assert Job.objects.get().state == State.DEAD


def test_a_replayed_job_runs_whatever_its_time_was():
    perishable().enqueue("wanted after all")
    let_it_expire()
    house().tick()

    assert lifecycle.replay(DeadLetter.objects.all(), by="somebody").done
    run_jobs()

    assert tasks.done == ["wanted after all"]


def test_a_job_whose_task_is_unknown_here_expires_as_it_was_enqueued():
    perishable().enqueue("dead")
    tasks.say_or_drop.enqueue("dropped")
    Job.objects.update(task_path="nowhere.task")
    let_it_expire()

    house().tick()

    assert DeadLetter.objects.get().reason == Reason.EXPIRED
    assert Job.objects.get(drop_expired=True).state == State.CANCELLED


def test_replace_renews_the_time():
    perishable(dedupe_key="k").enqueue("old")
    first = Job.objects.get().expires_at

    perishable(5 * HOUR, dedupe_key="k", on_duplicate="replace").enqueue("new")

    assert Job.objects.get().expires_at - first >= 4 * HOUR


@pytest.mark.django_db(transaction=True)
def test_a_job_that_is_claimed_at_the_moment_it_expires_ends_once():
    enqueue_many(perishable(), [{"what": str(n)} for n in range(200)])
    let_it_expire()
    claimed: list[Any] = []

    def claim() -> None:
        while len(found := storage().claim("w", "default", 7, HOUR)):
            claimed.extend(found)
        connection.close()

    thread = threading.Thread(target=claim)
    thread.start()
    expired = []
    while batch := lifecycle.expire(5):
        expired.extend(batch)
    thread.join(30)

    assert len(claimed) + len(expired) == 200
    assert Job.objects.dead().count() == len(expired) == DeadLetter.objects.count()
    assert Job.objects.running().count() == len(claimed)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"expires_after": 0}, "expires_after must be longer than 0"),
        ({"expires_after": "soon"}, "expires_after takes seconds or a timedelta"),
        ({"expires_after": datetime(2999, 1, 1)}, "expires_after takes seconds or a timedelta"),
        ({"on_expired": "ignore"}, "on_expired must be 'dead' or 'drop', not 'ignore'"),
    ],
)
def test_options_that_cannot_work_are_refused_where_they_are_written(wrong, problem):
    with pytest.raises(ImproperlyConfigured, match=problem):
        task(**wrong)(tasks.add.func)


def test_a_moment_without_a_time_zone_is_refused():
    with pytest.raises(InvalidTask, match="aware datetime"):
        perishable(datetime(2999, 1, 1)).enqueue("x")
