"""What a hostile reading found: each was a way to lose a worker, a record or a row."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from jobs import RetryLater, Snooze, lifecycle, once
from jobs.conf import Options, problems_of
from jobs.exceptions import MAX_DELAY_SECONDS, InvalidPayload, TimedOut
from jobs.idempotency import Guard
from jobs.models import DeadLetter, ErrorGroup, IdempotencyRecord, Job
from jobs.outcomes import Failed, storable
from jobs.runs import Run, current_run
from jobs.states import Reason, RecordState, State
from jobs.storage import storage
from jobs.verdicts import judge
from tests import tasks
from tests.gates import RecordingGate

pytestmark = pytest.mark.django_db


def claimed():
    tasks.add.enqueue(1)
    (lease,) = storage().claim("worker", "default", 1, Options().lease)
    return lease


@pytest.mark.parametrize("kind", [RetryLater, Snooze])
def test_a_delay_beyond_any_calendar_is_bounded(kind):
    assert kind(1e16).seconds == MAX_DELAY_SECONDS


def test_a_backoff_beyond_any_calendar_is_bounded():
    outcome = judge(claimed(), None, Options(backoff=lambda attempt, error: 1e15), ValueError("x"))

    assert isinstance(outcome, Failed)
    assert outcome.retry_in == MAX_DELAY_SECONDS


def test_options_beyond_what_columns_hold_are_refused_by_name():
    assert "'max_attempts'" in problems_of({"max_attempts": 2**40})[0]
    assert "'lease'" in problems_of({"lease": 8e13})[0]


@pytest.mark.parametrize("ttl", [0, -1, "1 day"])
def test_a_record_that_would_not_live_is_refused(ttl):
    with pytest.raises(ImproperlyConfigured, match="ttl"):
        once("k", lambda: None, ttl=ttl)


@pytest.mark.parametrize("queue_name", ["x" * 101, "with\x00nul"])
def test_a_queue_name_that_no_column_holds_is_refused_before_any_sql(queue_name, settings):
    settings.TASKS = {"default": settings.TASKS["default"] | {"QUEUES": []}}

    with pytest.raises(InvalidPayload, match="queue_name"):
        tasks.add.using(queue_name=queue_name).enqueue(1)
    assert not Job.objects.exists()


def test_progress_keeps_what_a_database_can_hold():
    run = Run(claimed(), RecordingGate())

    storage().note_progress("worker", run.lease.id, run.lease.token, 1, storable("half \udcff and \x00"))

    assert Job.objects.get().progress_message == "half \\udcff and \\x00"


def test_an_answer_does_not_touch_the_record_of_a_live_owner():
    dead = Job.objects.get(pk=tasks.add.enqueue(1).id)
    moment = storage().now()
    Job.objects.filter(pk=dead.pk).update(state=State.DEAD, finished_at=moment)
    group = ErrorGroup.objects.create(fingerprint="f", task_path="t", first_seen=moment, last_seen=moment)
    letter = DeadLetter.objects.create(job=dead, group=group, reason=Reason.UNCERTAIN, record_key="k", died_at=moment)
    live = claimed()
    IdempotencyRecord.objects.create(
        key="k", state=RecordState.PROCESSING, owner=f"job:{live.id}:{live.token}", created_at=moment
    )

    report = lifecycle.replay([letter], by="a person", happened=False)

    assert report.done == []
    assert "under way elsewhere" in report.skipped[0][1]
    assert IdempotencyRecord.objects.filter(key="k", state=RecordState.PROCESSING).exists()
    assert Job.objects.get(pk=dead.pk).state == State.DEAD


@pytest.mark.django_db(transaction=True)
def test_a_timeout_held_back_while_a_record_begins_leaves_no_record():
    run = Run(claimed(), RecordingGate())
    run.gate.error = TimedOut("while the record was written")
    token = current_run.set(run)
    ran = []

    try:
        with pytest.raises(TimedOut):
            Guard("k", None, "dead").run(lambda: ran.append(1))
    finally:
        current_run.reset(token)

    assert ran == []
    assert not IdempotencyRecord.objects.exists()
