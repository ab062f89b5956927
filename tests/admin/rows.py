"""Rows as the queue leaves them, for looking at and acting on."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from jobs.models import Attempt, DeadLetter, ErrorGroup, IdempotencyRecord, Job
from jobs.states import Reason, RecordState, State

TASK = "shop.tasks.charge"
SECRET = "order-4711"


def a_job(state: State = State.READY, **fields: Any) -> Job:
    now = timezone.now()
    by_state: dict[str, Any] = {
        State.READY: {"ready_at": now},
        State.SCHEDULED: {"run_after": now + timedelta(hours=1)},
        State.RUNNING: {"leased_by": "w1", "lease_expires_at": now + timedelta(minutes=1), "last_attempted_at": now},
        State.SUCCEEDED: {"finished_at": now, "return_value": {"receipt": SECRET}},
        State.DEAD: {"finished_at": now, "attempts": 5},
        State.CANCELLED: {"finished_at": now},
    }
    values: dict[str, Any] = {"task_path": TASK, "queue_name": "default", "state": state, "enqueued_at": now}
    return Job.objects.create(**values | {"kwargs": {"order": SECRET}} | by_state[state] | fields)


def a_dead_letter(
    reason: Reason = Reason.ATTEMPTS_EXHAUSTED, *, task: str = TASK, message: str = "boom\nsecond line", **fields: Any
) -> DeadLetter:
    now = timezone.now()
    job = fields.pop("job", None) or a_job(State.DEAD, task_path=task)
    group, _new = ErrorGroup.objects.get_or_create(
        fingerprint=f"{task}:{reason}",
        defaults={"task_path": task, "exception_class": "builtins.ValueError", "first_seen": now, "last_seen": now},
    )
    Attempt.objects.create(
        job=job,
        number=5,
        lease_token=5,
        outcome="failed",
        worker_id="w1",
        started_at=now,
        finished_at=now,
        exception_class="builtins.ValueError",
        message=message,
        traceback='  File "charge.py", line 7\nValueError: boom',
    )
    return DeadLetter.objects.create(
        job=job,
        group=group,
        reason=reason,
        exception_class="builtins.ValueError",
        message=message,
        died_at=timezone.now(),
        **fields,
    )


def an_uncertain_letter() -> DeadLetter:
    """Return a letter whose idempotency record nobody can settle but a person."""
    letter = a_dead_letter(Reason.UNCERTAIN, record_key="charge:1")
    a_record(RecordState.PROCESSING, key="charge:1", job=letter.job)
    return letter


def a_record(state: RecordState = RecordState.DONE, **fields: Any) -> IdempotencyRecord:
    values: dict[str, Any] = {"key": "charge:1", "state": state, "owner": "1:1", "created_at": timezone.now()}
    return IdempotencyRecord.objects.create(**values | {"result": {"receipt": SECRET}} | fields)
