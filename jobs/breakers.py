"""When a task pauses its queue by itself: after errors that only the configuration, or the other side, can mend."""

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured

from . import conf
from .outcomes import Failed, Outcome, Snoozed, Succeeded
from .states import Reason

LONGEST_PROBE = timedelta(minutes=15)  # between two tries, however often they fail
FORGOTTEN_SECONDS = 900.0  # what was seen so long ago says nothing of today


@dataclass(frozen=True)
class Breaker:
    """When to pause a task's queue, and how soon to try whether it may go on.

    `errors`: exceptions that no job is to blame for; a job that raises one comes back later, with no attempt spent
    within a day of its first start.
    After `after` of them with no success between them the queue is paused, or once so many of the newest `window`
    attempts have failed as `ratio` says. Then a job is tried after `probe`, and after twice as long each time that it
    fails.
    Units: `ratio` above 0, at most 1; `probe` in seconds, or a timedelta. Each worker process counts for itself.
    Raises: TypeError, ValueError for what cannot work.
    """

    errors: tuple[type[Exception], ...] = (ImproperlyConfigured,)
    after: int = 3
    ratio: float | None = None
    window: int = 20
    probe: float | timedelta = 60

    def __post_init__(self) -> None:
        if not isinstance(self.errors, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in self.errors
        ):
            raise TypeError(f"Breaker.errors takes a tuple of exception classes, not {self.errors!r}")
        for name, read in (("after", conf.count), ("window", conf.count), ("probe", conf.length)):
            try:
                read(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"Breaker.{name} {error}") from None
        if self.ratio is None:
            return
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, int | float):
            raise TypeError(f"Breaker.ratio takes a number, not {self.ratio!r}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"Breaker.ratio must be above 0 and at most 1, not {self.ratio!r}")

    @property
    def probe_length(self) -> timedelta:
        return min(conf.length(self.probe), LONGEST_PROBE)


@dataclass
class Count:
    """What a process has seen of a task in a queue."""

    breaker: Breaker
    in_a_row: int = 0
    newest: deque[bool] = field(default_factory=deque)  # whether attempts failed
    seen_at: float = field(default_factory=time.monotonic)

    def take(self, outcome: Outcome) -> str:
        """Count an outcome; return why the queue is to be paused, if it is. Then it counts anew."""
        failed = has_failed(outcome)
        if failed is None:
            return ""
        if (now := time.monotonic()) - self.seen_at > FORGOTTEN_SECONDS:
            self.forget()
        self.seen_at = now
        error = outcome.error if isinstance(outcome, Failed | Snoozed) else None
        if not failed:
            self.in_a_row = 0
        elif isinstance(outcome, Snoozed) or (
            isinstance(outcome, Failed) and isinstance(outcome.exception, self.breaker.errors)
        ):
            self.in_a_row += 1
        self.newest.append(failed)
        if len(self.newest) > self.breaker.window:
            self.newest.popleft()
        why = self.why(error.message or error.exception_class) if failed and error else ""
        if why:
            self.forget()
        return why

    def forget(self) -> None:
        self.in_a_row = 0
        self.newest.clear()

    def why(self, said: str) -> str:
        breaker, seen = self.breaker, len(self.newest)
        if self.in_a_row >= breaker.after:
            return said
        if breaker.ratio is None or seen < breaker.window or sum(self.newest) < breaker.ratio * seen:
            return ""
        return f"{sum(self.newest)} of the newest {seen} attempts failed, the last with: {said}"


def has_failed(outcome: Outcome) -> bool | None:
    """Say whether an outcome speaks against the other side; None when it says nothing of it.

    An error that no retry can help is the job's own, and may have come up before the other side was asked.
    """
    match outcome:
        case Succeeded():
            return False
        case Failed(reason=reason) if reason != Reason.PERMANENT_ERROR:
            return True
        case Snoozed(error=error) if error is not None:
            return True
    return None
