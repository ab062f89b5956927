"""The life of one attempt, from a lease to an outcome."""

import asyncio
import logging
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db.models import F

from jobs import lifecycle, registry
from jobs.compat import task_started
from jobs.conf import Options
from jobs.exceptions import InvalidPayload, LeaseLost, TimedOut
from jobs.models import Attempt, DeadLetter, Job
from jobs.outcomes import Buried, Cancelled, Failed, Interrupted, Released, Snoozed, Succeeded
from jobs.payload import upgraded
from jobs.runs import current_run
from jobs.states import Reason, State
from jobs.storage import storage
from jobs.testing import run_jobs
from jobs.worker.runner import AsyncRunner, Runner, is_async
from tests import tasks

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)
OPTIONS = Options()


@pytest.fixture(autouse=True)
def nothing_done():
    tasks.done.clear()
    registry.forget()


def lease_of(task, *args, **kwargs):
    task.enqueue(*args, **kwargs)
    [lease] = storage().claim("w1", task.queue_name, 1, LEASE)
    return lease


def outcome_of(task, *args, **kwargs):
    return Runner(OPTIONS).run(lease_of(task, *args, **kwargs)).outcome


def take_lease_away() -> None:
    """Let another worker reap and claim the job."""
    Job.objects.update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))
    lifecycle.reap()
    storage().claim("w2", "default", 1, LEASE, suspects=True)


# What comes out


def test_result_is_json_text():
    finished = Runner(OPTIONS).run(lease_of(tasks.add, 1, b=2))

    assert finished.outcome == Succeeded("3")
    assert finished.started is not None
    assert finished.started <= finished.finished
    assert not finished.settled


def test_runner_writes_nothing_itself():
    lease = lease_of(tasks.fail)
    before = Job.objects.values().get()

    Runner(OPTIONS).run(lease)

    assert Job.objects.values().get() == before
    assert not Attempt.objects.exists()


@pytest.mark.parametrize(
    ("what", "kind"), [("permanent", Failed), ("later", Failed), ("snooze", Snoozed), ("cancel", Cancelled)]
)
def test_task_steers_its_job(what, kind):
    assert isinstance(outcome_of(tasks.say, what), kind)


def test_return_value_that_json_cannot_hold_is_permanent_because_the_work_is_done():
    outcome = outcome_of(tasks.unstorable)

    assert isinstance(outcome, Failed)
    assert outcome.reason == Reason.PERMANENT_ERROR
    assert "set" in outcome.error.message
    assert tasks.done == ["ran"]


def test_run_is_known_while_it_lasts_and_forgotten_after_it():
    runner, seen = Runner(OPTIONS), []
    lease = lease_of(tasks.add, 1)

    runner.run(lease, lambda run: seen.append((set(runner.running), current_run.get() is run)))

    assert seen == [({lease.key}, True)]
    assert runner.running == {}
    assert current_run.get() is None


def test_timeout_of_the_call_comes_before_the_tasks_own():
    deadlines = []

    for task in (tasks.detailed, tasks.detailed.using(timeout=99)):
        lease = lease_of(task, delivery_id="d")
        Runner(OPTIONS).run(lease, lambda run: deadlines.append(run.timeout_seconds))

    assert deadlines == [12.5, 99]


@pytest.mark.parametrize(
    ("interruption", "kind"), [(TimedOut("ran longer than 5 s"), Failed), (LeaseLost("gone"), Interrupted)]
)
def test_interruption_before_the_task_begins_is_an_outcome_and_no_failure_of_the_runner(interruption, kind):
    lease = lease_of(tasks.add, 1)

    finished = Runner(OPTIONS).run(lease, lambda run: run.gate.interrupt(interruption))

    assert isinstance(finished.outcome, kind)
    assert tasks.done == []


def test_interruption_in_a_receiver_of_the_start_is_an_outcome_too():
    runs = []

    def slow(**kwargs):
        runs[0].gate.interrupt(TimedOut("ran longer than 5 s"))
        for _ in range(1000):
            pass

    task_started.connect(slow)
    try:
        finished = Runner(OPTIONS).run(lease_of(tasks.add, 1), runs.append)
    finally:
        task_started.disconnect(slow)

    assert isinstance(finished.outcome, Failed)
    assert finished.outcome.error.message == "ran longer than 5 s"
    assert finished.outcome.retry_in is not None
    assert tasks.done == []


def test_coroutine_interrupted_before_it_begins_does_not_run():
    lease = lease_of(tasks.aadd, 1)

    run = async_to_sync(AsyncRunner(OPTIONS).arun)
    finished = run(lease, lambda run: run.gate.interrupt(TimedOut("ran longer than 5 s")))

    assert isinstance(finished.outcome, Failed)
    assert tasks.done == []


# What cannot be run


def test_unknown_task_is_released_uncharged():
    lease = lease_of(tasks.add, 1)._replace(task_path="tests.tasks.gone")

    finished = Runner(OPTIONS).run(lease)

    assert finished.outcome == Released(seconds=1, held=True)
    assert finished.started is None


def reminder_of(schema_version, args="[]", kwargs="{}"):
    return lease_of(tasks.remind, to=["new@example.com"], days=1)._replace(
        schema_version=schema_version, args=args, kwargs=kwargs
    )


@pytest.mark.parametrize(
    ("version", "args", "kwargs", "result"),
    [
        (1, '["a@example.com"]', "{}", '[["a@example.com"],7]'),
        (1, "[]", '{"address":"a@example.com"}', '[["a@example.com"],7]'),
        (2, "[]", '{"to":["a@example.com"]}', '[["a@example.com"],7]'),
        (3, "[]", '{"to":["a@example.com"],"days":2}', '[["a@example.com"],2]'),
    ],
)
def test_an_older_payload_is_upgraded_step_by_step(version, args, kwargs, result):
    assert Runner(OPTIONS).run(reminder_of(version, args, kwargs)).outcome == Succeeded(result)


@pytest.mark.parametrize(
    ("version", "kwargs", "said"),
    [
        (1, '{"wrong":1}', "remind: the upgrade from schema version 1 failed: TypeError"),
        (1, '{"address":"nothing"}', "remind: the upgrade from schema version 1 must return a dict"),
        (2, '{"to":["a@example.com"],"more":1}', "unexpected keyword argument 'more'"),
    ],
)
def test_a_payload_that_no_upgrade_can_take_is_dead_and_says_why(version, kwargs, said):
    outcome = Runner(OPTIONS).run(reminder_of(version, kwargs=kwargs)).outcome

    assert isinstance(outcome, Buried)
    assert outcome.reason == Reason.INVALID_PAYLOAD
    assert said in outcome.error.message


def test_a_payload_older_than_the_oldest_upgrade_is_dead():
    with pytest.raises(InvalidPayload, match="from schema version 1 is gone; the oldest is from 2"):
        upgraded("remind", {2: dict}, 1, [], {})


def test_newer_schema_version_waits_for_a_worker_that_knows_it():
    lease = lease_of(tasks.detailed, delivery_id="d")

    assert Runner(OPTIONS).run(lease._replace(schema_version=3)).outcome == Released(seconds=1, held=True)
    assert isinstance(Runner(OPTIONS).run(lease._replace(schema_version=1)).outcome, Succeeded)


def test_payload_that_no_longer_fits_the_task_is_a_dead_letter():
    lease = lease_of(tasks.add, 1)._replace(kwargs='{"c": 1}')

    outcome = Runner(OPTIONS).run(lease).outcome

    assert isinstance(outcome, Buried)
    assert outcome.reason == Reason.INVALID_PAYLOAD
    assert "'c'" in outcome.error.message
    assert tasks.done == []


def test_cancelled_job_does_not_start():
    lease = lease_of(tasks.add, 1)._replace(cancel_requested=True)

    assert isinstance(Runner(OPTIONS).run(lease).outcome, Cancelled)
    assert tasks.done == []


# Transactional tasks


@pytest.mark.django_db(transaction=True)
def test_writes_of_a_transactional_task_and_its_success_commit_together():
    finished = Runner(OPTIONS).run(lease_of(tasks.write, "a"))

    job = Job.objects.get()
    assert finished.settled
    assert (job.state, job.return_value) == (State.SUCCEEDED, Group.objects.get(name="a").pk)
    assert job.settled_token == finished.lease.token


@pytest.mark.django_db(transaction=True)
def test_writes_of_a_transactional_task_that_raises_are_taken_back():
    finished = Runner(OPTIONS).run(lease_of(tasks.write, "a", then="raise"))

    assert isinstance(finished.outcome, Failed)
    assert not finished.settled
    assert not Group.objects.exists()
    assert Job.objects.get().state == State.RUNNING


@pytest.mark.django_db(transaction=True)
def test_transactional_task_rolls_back_when_its_lease_is_lost():
    lease = lease_of(tasks.write, "a")
    take_lease_away()

    finished = Runner(OPTIONS).run(lease)

    assert not finished.settled
    assert not isinstance(finished.outcome, Succeeded)
    assert not Group.objects.exists()
    assert Job.objects.get().leased_by == "w2"


@pytest.mark.django_db(transaction=True)
def test_on_commit_hook_that_raises_is_logged_and_never_an_outcome(caplog):
    with caplog.at_level(logging.ERROR, logger="jobs"):
        finished = Runner(OPTIONS).run(lease_of(tasks.write, "a", then="hook"))

    assert finished.settled
    assert isinstance(finished.outcome, Succeeded)
    assert tasks.done == ["hook"]
    assert Job.objects.get().state == State.SUCCEEDED
    assert Group.objects.count() == 1
    assert any("on_commit hook raised" in record.message for record in caplog.records)


@pytest.mark.django_db(transaction=True)
def test_transactional_task_that_marks_its_transaction_for_rollback_fails():
    finished = Runner(OPTIONS).run(lease_of(tasks.write, "a", then="rollback"))

    assert isinstance(finished.outcome, Failed)
    assert "rollback" in finished.outcome.error.message
    assert not finished.settled
    assert not Group.objects.exists()
    assert Job.objects.get().state == State.RUNNING


@pytest.mark.django_db(transaction=True)
def test_transactional_task_whose_value_cannot_be_stored_takes_its_writes_back():
    finished = Runner(OPTIONS).run(lease_of(tasks.write, "a", then="unstorable"))

    assert isinstance(finished.outcome, Failed)
    assert finished.outcome.reason == Reason.PERMANENT_ERROR
    assert not Group.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_interruption_during_the_settle_of_a_transactional_task_comes_too_late(monkeypatch):
    runs, answers = [], []
    store = storage()
    settle = store.settle

    def interrupted(settlements, by_holder=True):
        answers.append(runs[0].gate.interrupt(TimedOut("too late")))
        return settle(settlements, by_holder)

    monkeypatch.setattr(store, "settle", interrupted)
    finished = Runner(OPTIONS).run(lease_of(tasks.write, "a"), runs.append)

    assert answers == [False]
    assert finished.settled
    assert Group.objects.count() == 1


def test_transactional_task_works_inside_a_test_cases_own_transaction():
    tasks.write.enqueue("a")

    run_jobs()

    assert (Job.objects.get().state, Group.objects.count()) == (State.SUCCEEDED, 1)


# Coroutines


def test_coroutine_is_told_from_a_function():
    assert is_async(lease_of(tasks.aadd, 1))
    assert not is_async(lease_of(tasks.add, 1))


def test_coroutine_runs_in_the_loop():
    lease = lease_of(tasks.aadd, 1, b=2)

    assert async_to_sync(AsyncRunner(OPTIONS).arun)(lease).outcome == Succeeded("3")


async def sleep_long() -> None:
    await asyncio.sleep(60)


def interrupted_coroutine(interrupt):
    """Run a coroutine that sleeps, and interrupt it as soon as it does."""
    lease = lease_of(tasks.aadd, 1)
    object.__setattr__(tasks.aadd, "func", stuck)

    async def both():
        runs = []
        attempt = asyncio.create_task(AsyncRunner(OPTIONS).arun(lease, runs.append))
        while not runs:
            await asyncio.sleep(0)
        interrupt(runs[0])
        return await attempt

    return async_to_sync(both)()


async def stuck(a: int, b: int = 0) -> None:
    await sleep_long()


@pytest.fixture
def stuck_aadd():
    original = tasks.aadd.func
    yield
    object.__setattr__(tasks.aadd, "func", original)


def test_coroutine_that_times_out_is_cancelled_and_fails(stuck_aadd):
    finished = interrupted_coroutine(lambda run: run.gate.interrupt(TimedOut("too long")))

    assert isinstance(finished.outcome, Failed)
    assert finished.outcome.error.message == "too long"
    assert finished.outcome.retry_in is not None


def test_coroutine_that_somebody_cancelled_ends_as_cancelled(stuck_aadd):
    def cancel(run):
        run.cancel_requested = True
        run.cancel()

    assert isinstance(interrupted_coroutine(cancel).outcome, Cancelled)


# Settled


def test_job_with_an_invalid_payload_ends_as_a_dead_letter():
    tasks.add.enqueue(1)
    Job.objects.update(kwargs={"c": 1})

    run_jobs()

    assert DeadLetter.objects.get().reason == Reason.INVALID_PAYLOAD
    assert not Attempt.objects.exists()


def test_unknown_task_is_a_dead_letter_after_its_limit():
    tasks.add.enqueue(1)
    Job.objects.update(task_path="tests.tasks.gone")
    run_jobs()
    assert Job.objects.get().state == State.SCHEDULED

    Job.objects.update(held_since=F("held_since") - timedelta(hours=25))
    run_jobs(advance=True)

    assert DeadLetter.objects.get().reason == Reason.UNKNOWN_TASK
    assert Job.objects.get().attempts == 0
