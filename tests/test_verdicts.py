"""What an attempt's end means for its job: rules without a database and without a clock."""

import json
from datetime import timedelta

import pytest

from jobs import CancelJob, PermanentError, RetryLater, Snooze, Uncertain
from jobs.conf import Options
from jobs.exceptions import LeaseLost, TimedOut
from jobs.outcomes import (
    KEPT_MESSAGE,
    KEPT_TRACEBACK,
    Buried,
    Cancelled,
    ErrorReport,
    Failed,
    Interrupted,
    Lost,
    Released,
    Snoozed,
    Succeeded,
)
from jobs.retries import fixed
from jobs.states import Reason, State
from jobs.verdicts import hold, judge, settlement
from tests import tasks
from tests.leases import MOMENT, a_lease

OPTIONS = Options(backoff=fixed(9, jitter=False))
LAST = {"attempts": 4, "max_attempts": 5}
REPORT = ErrorReport("builtins.ValueError", "boom", "Traceback")


class Task:
    """A task with options, as far as a verdict looks at one."""

    def __init__(self, **options):
        vars(self).update(options)


def verdict(error, lease=None, task=None, **more):
    return judge(lease or a_lease(), task, OPTIONS, error, **more)


def row(outcome, **fields):
    lease = a_lease(**fields)
    return settlement(lease, outcome, MOMENT + timedelta(seconds=1), MOMENT + timedelta(seconds=3))


# From an exception to an outcome


def test_error_is_retried_after_the_backends_backoff():
    outcome = verdict(ValueError("boom"))

    assert isinstance(outcome, Failed)
    assert (outcome.retry_in, outcome.reason, outcome.error.message) == (9, None, "boom")
    assert outcome.error.exception_class == "builtins.ValueError"


def test_tasks_own_backoff_comes_first():
    assert verdict(ValueError(), task=Task(backoff=fixed(4, jitter=False))).retry_in == 4


def test_backoff_is_asked_with_the_attempt_and_the_exception():
    asked = []
    error = ValueError("boom")

    verdict(error, a_lease(attempts=2), Task(backoff=lambda *given: asked.append(given) or 1))

    assert asked == [(3, error)]


def test_replay_starts_a_new_series_of_delays():
    asked = []

    lease = a_lease(attempts=5, forgiven_attempts=5, max_attempts=5)
    verdict(ValueError(), lease, Task(backoff=lambda attempt, error: asked.append(attempt) or 1))

    assert asked == [1]


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "soon", None])
def test_backoff_that_returns_no_delay_does_not_lose_the_job(bad):
    outcome = verdict(ValueError(), task=Task(backoff=lambda attempt, error: bad))

    assert 0 <= outcome.retry_in <= 5


def test_backoff_that_raises_does_not_lose_the_job():
    def broken(attempt, error):
        raise KeyError("oops")

    assert 0 <= verdict(ValueError(), task=Task(backoff=broken)).retry_in <= 5


def test_last_attempt_is_dead_by_exhaustion():
    outcome = verdict(ValueError("boom"), a_lease(**LAST))

    assert (outcome.reason, outcome.retry_in) == (Reason.ATTEMPTS_EXHAUSTED, None)


def test_attempts_before_a_replay_do_not_count():
    lease = a_lease(attempts=7, forgiven_attempts=5, max_attempts=5)

    assert not lease.is_last_attempt
    assert verdict(ValueError(), lease).retry_in == 9


def test_timeout_is_a_failed_attempt_that_retries():
    assert verdict(TimedOut("too long")).retry_in == 9


def test_reason_is_timeout_when_the_last_attempt_timed_out():
    assert verdict(TimedOut("too long"), a_lease(**LAST)).reason == Reason.TIMEOUT


@pytest.mark.parametrize(
    "steering",
    [
        (PermanentError("no"), Failed, {"reason": Reason.PERMANENT_ERROR, "retry_in": None}),
        (RetryLater(77), Failed, {"retry_in": 77, "reason": None}),
        (Snooze(66), Snoozed, {"seconds": 66}),
        (CancelJob("no longer wanted"), Cancelled, {}),
        (LeaseLost("gone"), Interrupted, {"note": "gone"}),
    ],
)
def test_task_steers_its_job_by_what_it_raises(steering):
    error, kind, fields = steering

    outcome = verdict(error)

    assert isinstance(outcome, kind)
    assert {name: getattr(outcome, name) for name in fields} == fields


def test_retry_later_spends_an_attempt_and_so_ends_on_the_last_one():
    assert verdict(RetryLater(77), a_lease(**LAST)).reason == Reason.ATTEMPTS_EXHAUSTED


def test_snooze_on_the_last_attempt_is_still_a_snooze():
    assert isinstance(verdict(Snooze(1), a_lease(**LAST)), Snoozed)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "5", None, True])
@pytest.mark.parametrize("kind", [RetryLater, Snooze])
def test_steering_with_no_length_of_time_is_refused(kind, seconds):
    with pytest.raises(ValueError, match=kind.__name__):
        kind(seconds)


def test_permanent_errors_of_the_task_go_straight_to_the_dead_letters():
    class NotFoundHere(tasks.NoSuchCustomer):
        pass

    task = Task(permanent_errors=(tasks.NoSuchCustomer,))

    assert verdict(NotFoundHere(), task=task).reason == Reason.PERMANENT_ERROR
    assert verdict(KeyError(), task=task).reason is None


def test_uncertain_that_the_task_left_to_a_person_is_dead_with_its_record():
    error = Uncertain("after the data")
    error.key = "charge:1"

    outcome = verdict(error)

    assert (outcome.reason, outcome.record_key) == (Reason.UNCERTAIN, "charge:1")


def test_uncertain_that_a_retry_may_take_over_is_retried():
    error = Uncertain("after the data")
    error.retryable = True

    assert verdict(error).retry_in == 9
    assert verdict(error, a_lease(**LAST)).reason == Reason.ATTEMPTS_EXHAUSTED


def test_error_of_a_task_that_was_asked_to_stop_is_a_cancellation():
    assert isinstance(verdict(ValueError(), cancel_requested=True), Cancelled)
    assert isinstance(verdict(KeyboardInterrupt(), cancel_requested=True), Cancelled)


def test_uncertain_effect_is_not_hidden_by_a_cancellation():
    assert verdict(Uncertain(), cancel_requested=True).reason == Reason.UNCERTAIN


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_even_what_is_no_exception_is_a_failed_attempt(error):
    assert verdict(error).retry_in == 9


# A task that this worker does not know


def test_unknown_task_is_released_with_a_growing_delay_up_to_a_minute():
    waits = [
        hold(a_lease(held_since=MOMENT - timedelta(seconds=age)), OPTIONS, "no task").seconds
        for age in (0, 0.5, 1, 20, 60, 3600)
    ]

    assert waits == [1, 1, 1, 20, 60, 60]


def test_unknown_task_is_held_from_its_first_claim():
    outcome = hold(a_lease(held_since=None), OPTIONS, "no task")

    assert outcome == Released(seconds=1, held=True)


def test_unknown_task_is_a_dead_letter_after_its_limit():
    outcome = hold(a_lease(held_since=MOMENT - timedelta(hours=25)), OPTIONS, "no task at a.b")

    assert isinstance(outcome, Buried)
    assert outcome.reason == Reason.UNKNOWN_TASK
    assert "no task at a.b" in outcome.error.message


# From an outcome to columns


@pytest.mark.parametrize(
    ("outcome", "state", "attempts", "crashes", "workers"),
    [
        (Succeeded("1"), State.SUCCEEDED, 3, 1, ["w0", "w1"]),
        (Failed(REPORT, retry_in=5), State.SCHEDULED, 3, 1, ["w0", "w1"]),
        (Failed(REPORT, reason=Reason.TIMEOUT), State.DEAD, 3, 1, ["w0", "w1"]),
        (Cancelled(REPORT), State.CANCELLED, 3, 1, ["w0", "w1"]),
        (Snoozed(5), State.SCHEDULED, 2, 1, ["w0"]),
        (Released(), State.READY, 2, 1, ["w0"]),
        (Released(5), State.SCHEDULED, 2, 1, ["w0"]),
        (Interrupted(), State.READY, 2, 1, ["w0", "w1"]),
        (Lost(charged=False), State.READY, 2, 1, ["w0", "w1"]),
        (Lost(charged=True), State.READY, 2, 2, ["w0", "w1"]),
        (Buried(Reason.UNKNOWN_TASK, REPORT), State.DEAD, 2, 1, ["w0"]),
    ],
)
def test_raised_errors_and_lost_workers_have_separate_budgets(outcome, state, attempts, crashes, workers):
    found = row(outcome, attempts=2, crashes=1, worker_ids='["w0"]')

    assert (found.state, found.attempts, found.crashes) == (state, attempts, crashes)
    assert json.loads(found.worker_ids) == workers


@pytest.mark.parametrize(
    ("outcome", "noted"),
    [
        (Succeeded(), None),
        (Snoozed(1), None),
        (Released(), None),
        (Buried(Reason.UNKNOWN_TASK, REPORT), None),
        (Failed(REPORT, retry_in=1), "failed"),
        (Failed(REPORT, reason=Reason.TIMEOUT), "failed"),
        (Cancelled(REPORT), "cancelled"),
        (Interrupted("shutdown"), "interrupted"),
        (Lost(charged=False), "lost"),
    ],
)
def test_failed_lost_interrupted_and_cancelled_runs_leave_an_attempt(outcome, noted):
    found = row(outcome).attempt

    assert (found and found.outcome) == noted


@pytest.mark.parametrize(
    ("outcome", "suspect"),
    [
        (Succeeded(), False),
        (Failed(REPORT, retry_in=1), False),
        (Snoozed(1), False),
        (Released(), True),
        (Interrupted(), True),
        (Lost(charged=True), True),
    ],
)
def test_suspicion_ends_with_the_first_run_that_ended_by_itself(outcome, suspect):
    assert row(outcome, suspect=True).suspect is suspect


def test_charged_loss_beyond_the_budget_is_a_dead_letter():
    found = row(Lost(charged=True), crashes=2, max_crashes=3)

    assert (found.state, found.crashes) == (State.DEAD, 3)
    assert found.death is not None
    assert found.death.reason == Reason.WORKER_LOST


def test_uncharged_loss_never_kills():
    assert row(Lost(charged=False), crashes=99, max_crashes=3).state == State.READY


def test_retry_is_delayed_and_success_is_not():
    assert row(Failed(REPORT, retry_in=5)).delay == 5
    assert row(Snoozed(6)).delay == 6
    assert row(Succeeded()).delay is None
    assert row(Released()).delay is None


def test_first_run_says_when_it_started_and_a_later_one_keeps_that():
    first = row(Succeeded(), worker_ids="[]")
    later = row(Succeeded(), worker_ids='["w0"]', attempts=1)

    assert (first.started_at, first.last_attempted_at) == (MOMENT + timedelta(seconds=1),) * 2
    assert (later.started_at, later.last_attempted_at) == (MOMENT, MOMENT + timedelta(seconds=1))


def test_release_of_what_never_started_leaves_no_trace_of_a_start():
    assert row(Released(), worker_ids="[]").started_at is None


def test_release_keeps_the_start_of_an_earlier_attempt():
    assert row(Released(), worker_ids='["w0"]').started_at == MOMENT


# What is kept of an error


def report_of(error: BaseException) -> ErrorReport:
    try:
        raise error
    except BaseException as raised:
        return ErrorReport.of(raised)


def test_traceback_is_kept_in_full_when_it_is_short():
    report = report_of(tasks.NoSuchCustomer("7"))

    assert report.exception_class == "tests.tasks.NoSuchCustomer"
    assert report.traceback.startswith("Traceback")
    assert report.traceback.endswith("NoSuchCustomer: 7\n")


def test_of_a_long_traceback_the_first_and_last_8_kib_are_kept():
    report = report_of(ValueError("ü" * 50_000))

    assert len(report.traceback.encode()) <= 2 * KEPT_TRACEBACK + 100
    assert report.traceback.startswith("Traceback")
    assert "bytes left out" in report.traceback
    assert report.traceback.endswith("ü\n")


def test_message_is_shortened():
    assert len(report_of(ValueError("x" * 50_000)).message) == KEPT_MESSAGE


def test_text_that_postgresql_cannot_hold_is_escaped():
    report = report_of(ValueError("a\x00b\ud800c"))

    assert report.message == "a\\x00b\\ud800c"
    assert "\x00" not in report.traceback
    report.traceback.encode()


def test_error_whose_text_cannot_be_had_is_still_reported():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    report = report_of(Broken())

    assert "RuntimeError in __str__" in report.message
    assert report.exception_class.endswith("Broken")


# A lease


def test_attempt_is_counted_from_one():
    assert [a_lease(attempts=n).attempt for n in (0, 1)] == [1, 2]


def test_database_time_follows_the_monotonic_clock_and_never_goes_before_the_claim():
    lease = a_lease()

    assert lease.database_time(1002.5) == MOMENT + timedelta(seconds=2.5)
    assert lease.database_time(999.0) == MOMENT
