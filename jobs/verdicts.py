"""What an attempt's end means for its job: pure rules from exception to outcome, and from outcome to columns."""

import logging
import math
from datetime import datetime
from typing import Any

from . import exceptions
from .conf import Options
from .fingerprints import fingerprint
from .leases import Lease
from .models import Attempt
from .outcomes import (
    AttemptNote,
    Buried,
    Cancelled,
    Death,
    ErrorReport,
    Failed,
    Interrupted,
    Lost,
    Outcome,
    Released,
    Settlement,
    Snoozed,
    Succeeded,
    loggable,
)
from .retries import exponential
from .states import Reason, State

log = logging.getLogger("jobs")

HELD_SECONDS = 1.0, 60.0
# How soon a job comes back that is not to blame for its error: after a tenth of its age, within these bounds.
BLAMELESS_SECONDS = 10.0, 300.0
BLAMELESS_FOR_SECONDS = 86_400.0  # after its first start; then it spends attempts as for any other error


def age_of(lease: Lease) -> float:
    """Return the seconds since the first start of a job."""
    return (lease.claimed_at - (lease.started_at or lease.claimed_at)).total_seconds()


def judge(lease: Lease, task: Any, options: Options, error: BaseException, cancel_requested: bool = False) -> Outcome:
    """Return the outcome of a run that raised."""
    report = ErrorReport.of(error)
    match error:
        case exceptions.Snooze(seconds=seconds):
            return Snoozed(seconds)
        case exceptions.CancelJob() | exceptions.CancelRequested():
            return Cancelled(report)
        case exceptions.LeaseLost():
            # Should the lease hold after all, nobody is charged; if not, the fence refuses it.
            return Interrupted(report.message)
        case exceptions.Uncertain(retryable=False):
            return Failed(report, reason=Reason.UNCERTAIN, record_key=error.key, exception=error)
        case _ if cancel_requested:
            return Cancelled(report)
        case _ if (
            (breaker := getattr(task, "breaker", None))
            and isinstance(error, breaker.errors)
            # One job that fails so for long, while its queue is open because others do well, is to blame after all.
            and (lease.is_probe or age_of(lease) < BLAMELESS_FOR_SECONDS)
        ):
            shortest, longest = BLAMELESS_SECONDS
            age = (lease.claimed_at - lease.enqueued_at).total_seconds()
            log.warning(
                "attempt failed, not the job's fault", extra=lease.log_fields() | {"error": report.message[:200]}
            )
            return Snoozed(min(max(age / 10, shortest), longest), report)
        case exceptions.PermanentError():
            return Failed(report, reason=Reason.PERMANENT_ERROR, exception=error)
        case _ if isinstance(error, getattr(task, "permanent_errors", ())):
            return Failed(report, reason=Reason.PERMANENT_ERROR, exception=error)
    if lease.is_last_attempt:
        timed_out = isinstance(error, exceptions.TimedOut)
        return Failed(report, reason=Reason.TIMEOUT if timed_out else Reason.ATTEMPTS_EXHAUSTED, exception=error)
    return Failed(report, retry_in=retry_delay(lease, task, options, error), exception=error)


def retry_delay(lease: Lease, task: Any, options: Options, error: BaseException) -> float:
    """Return the seconds until the next attempt. Units: seconds."""
    if isinstance(error, exceptions.RetryLater):
        return error.seconds
    policy = getattr(task, "backoff", None) or options.backoff
    # A replay starts a new series of attempts, so that its first retry comes as soon as the job's first did.
    attempt = lease.attempt - lease.forgiven_attempts
    try:
        seconds = float(policy(attempt, error))
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, exceptions.MAX_DELAY_SECONDS)
        log.error("backoff returned no delay", extra=lease.log_fields() | {"returned": seconds})
    except Exception as raised:
        log.error("backoff raised", exc_info=loggable(raised), extra=lease.log_fields())
    return exponential()(attempt, error)


def hold(lease: Lease, options: Options, why: str) -> Outcome:
    """Return the outcome for a job that this worker does not know how to run: it waits for one that does."""
    since = lease.held_since or lease.claimed_at
    age = lease.claimed_at - since
    if age > options.unknown_task_ttl:
        report = ErrorReport(message=f"{why}; no worker knew it for {options.unknown_task_ttl}")
        return Buried(Reason.UNKNOWN_TASK, report)
    shortest, longest = HELD_SECONDS
    return Released(seconds=min(max(age.total_seconds(), shortest), longest), held=True)


def expiry(lease: Lease) -> Outcome:
    """Return the outcome of a job that did not start in time, as its task wanted it when it was enqueued."""
    report = ErrorReport(message=f"it did not start before it expired, at {lease.expires_at:%Y-%m-%d %H:%M:%S %Z}")
    return Cancelled(report) if lease.drop_expired else Buried(Reason.EXPIRED, report)


def settlement(lease: Lease, outcome: Outcome, started_at: datetime | None, finished_at: datetime) -> Settlement:
    """Return what the job's row becomes.

    Clock: both moments by the database's clock; `started_at` None when nobody knows that it ran.
    """
    same = Settlement(
        lease=lease,
        state=State.READY,
        attempts=lease.attempts,
        crashes=lease.crashes,
        suspect=False,
        worker_ids=lease.worker_ids,
        # The claim wrote its own moment; a first run knows better when it started.
        started_at=(started_at or lease.started_at) if lease.never_counted else lease.started_at,
        last_attempted_at=started_at,
        finished_at=finished_at,
    )
    # The moment of the claim stands in a row that was never started before.
    unstarted = same._replace(started_at=None if lease.never_counted else lease.started_at, last_attempted_at=None)
    ran = same._replace(worker_ids=lease.worker_ids_after)
    counted = ran._replace(attempts=lease.attempts + 1)
    match outcome:
        case Succeeded(value):
            return counted._replace(state=State.SUCCEEDED, return_value=value)
        case Failed(error, retry_in=seconds, reason=None):
            note = AttemptNote(Attempt.Outcome.FAILED, error, started_at, finished_at)
            return counted._replace(state=State.SCHEDULED, delay=seconds, attempt=note)
        case Failed(error, reason=reason, record_key=key):
            note = AttemptNote(Attempt.Outcome.FAILED, error, started_at, finished_at)
            return counted._replace(state=State.DEAD, attempt=note, death=death(lease, reason, error, key))
        case Cancelled(error):
            note = AttemptNote(Attempt.Outcome.CANCELLED, error, started_at, finished_at)
            return counted._replace(state=State.CANCELLED, attempt=note)
        case Snoozed(seconds=seconds):
            return same._replace(state=State.SCHEDULED, delay=seconds)
        case Released(seconds, held):
            state = State.SCHEDULED if seconds else State.READY
            return unstarted._replace(state=state, delay=seconds or None, held=held, suspect=lease.suspect)
        case Interrupted(why):
            note = AttemptNote(Attempt.Outcome.INTERRUPTED, ErrorReport(message=why), started_at, finished_at)
            return ran._replace(suspect=lease.suspect, attempt=note)
        case Lost(charged):
            return lost(ran, charged, started_at, finished_at)
        case Buried(reason, error):
            return unstarted._replace(state=State.DEAD, death=death(lease, reason, error))


def lost(ran: Settlement, charged: bool, started_at: datetime | None, finished_at: datetime) -> Settlement:
    """A lost worker has its own budget, and only a loss that must be this job's doing is charged to it."""
    lease = ran.lease
    crashes = lease.crashes + charged
    charge = f"charged: loss {crashes} of {lease.max_crashes}" if charged else "not charged: it runs alone next"
    error = ErrorReport(message=f"worker {lease.worker_id} was lost while it held the job ({charge})")
    note = AttemptNote(Attempt.Outcome.LOST, error, started_at, finished_at)
    after = ran._replace(crashes=crashes, suspect=True, attempt=note)
    if charged and crashes >= lease.max_crashes:
        return after._replace(state=State.DEAD, death=death(lease, Reason.WORKER_LOST, error))
    return after


def death(lease: Lease, reason: Reason | None, error: ErrorReport, record_key: str = "") -> Death:
    assert reason is not None
    print_ = fingerprint(lease.task_path, error.exception_class, error.message)
    return Death(reason, error, print_, record_key)
