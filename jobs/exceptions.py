"""What a task raises to steer its job, what enqueue refuses with, and what the queue raises inside a running task."""

from typing import Any


class PermanentError(Exception):
    """Raise in a task: no retry can help; the job goes straight to the dead-letter queue."""


class RetryLater(Exception):
    """Raise in a task: this attempt failed, retry after `seconds`."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"retry in {seconds} s")
        self.seconds = not_negative("RetryLater", seconds)


class Snooze(Exception):
    """Raise in a task: not now; come back after `seconds`. No attempt is spent."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"snooze for {seconds} s")
        self.seconds = not_negative("Snooze", seconds)


class CancelJob(Exception):
    """Raise in a task: the work is no longer wanted; the job ends as cancelled, without a dead letter."""


class Uncertain(Exception):
    """Raise in the work of `once`: nobody can know whether the effect happened.

    `key` names the idempotency record, once `once` has seen the error. `retryable` is what the task chose:
    False sends the job to the dead-letter queue for a person, True lets a retry take the record over.
    """

    def __init__(self, reason: str = "it is not known whether the effect happened") -> None:
        super().__init__(reason)
        self.key = ""
        self.retryable = False


class QueueFull(Exception):
    """Enqueue was refused: the queue holds `depth` jobs; try again after `retry_after` seconds.

    Jobs are counted as far as it takes to see that there are too many. `why` says which limit it is.
    """

    def __init__(self, queue: str, depth: int, retry_after: float, why: str = "") -> None:
        super().__init__(f"queue {queue!r} is full ({why or f'jobs that wait: {depth}'}); retry after {retry_after} s")
        self.queue, self.depth, self.retry_after, self.why = queue, depth, retry_after, why

    def __reduce__(self) -> Any:
        return type(self), (self.queue, self.depth, self.retry_after, self.why)


class DuplicateJob(Exception):
    """Enqueue was refused: job `job_id` holds the dedupe key `key` until it ends. None: it cannot be seen from here."""

    def __init__(self, key: str, job_id: int | None, held: str) -> None:
        super().__init__(f"dedupe key {key!r} is held {held}")
        self.key, self.job_id, self.held = key, job_id, held

    def __reduce__(self) -> Any:
        return type(self), (self.key, self.job_id, self.held)


class JobEnded(Exception):
    """What `task_finished` is sent with when a job failed without an exception of its own: its worker was lost, say."""


class InvalidPayload(TypeError, ValueError):
    """The arguments cannot become a payload; the message names the task and the argument."""


class Interruption(BaseException):
    """Raised by the queue inside a running task. No `Exception`: `except Exception` in a task must not swallow it."""


class TimedOut(Interruption):
    """The attempt ran longer than the task's `timeout`."""


class CancelRequested(Interruption):
    """Somebody asked for an end of a running coroutine."""


class LeaseLost(Interruption):
    """Another worker may own the job now: nothing was, and nothing may be, written for it."""


# Ten years: beyond it a timedelta, or a date that a database accepts, may not hold the moment any more.
MAX_DELAY_SECONDS = 10 * 365 * 86400.0


def not_negative(name: str, seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} takes seconds, a number not below 0, not {seconds!r}")
    return min(float(seconds), MAX_DELAY_SECONDS)
