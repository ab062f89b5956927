"""How long to wait before the next attempt: pure policies, `(attempt, exception) -> seconds`."""

import random
from dataclasses import dataclass

from .exceptions import not_negative


@dataclass(frozen=True)
class Backoff:
    """One retry policy. Units: seconds. `attempt` counts from 1: the attempt that has just failed.

    Source: "full jitter" as in the AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): uniform
    between 0 and the delay, so that jobs that failed together do not come back together.
    """

    shape: str
    base: float
    cap: float
    factor: float = 2.0
    jitter: bool = True

    def __post_init__(self) -> None:
        for name in ("base", "cap", "factor"):
            not_negative(f"backoff {name}", getattr(self, name))

    def __call__(self, attempt: int, exception: BaseException | None = None) -> float:
        longest = self.longest(attempt)
        return random.uniform(0, longest) if self.jitter else longest

    def longest(self, attempt: int) -> float:
        """Return the delay before jitter."""
        match self.shape:
            case "exponential":
                # The exponent is bounded so that a large attempt number cannot overflow a float.
                return min(self.cap, self.base * self.factor ** min(attempt - 1, 64))
            case "linear":
                return min(self.cap, self.base * attempt)
            case _:
                return min(self.cap, self.base)


def exponential(base: float = 5, cap: float = 600, *, factor: float = 2, jitter: bool = True) -> Backoff:
    """Wait up to `base`, `base * factor`, `base * factor ** 2` ... seconds, never more than `cap`."""
    return Backoff("exponential", base, cap, factor, jitter)


def linear(step: float = 10, cap: float = 600, *, jitter: bool = True) -> Backoff:
    """Wait up to `step`, `2 * step`, `3 * step` ... seconds, never more than `cap`."""
    return Backoff("linear", step, cap, 1, jitter)


def fixed(seconds: float = 30, *, jitter: bool = True) -> Backoff:
    """Wait up to `seconds` each time."""
    return Backoff("fixed", seconds, seconds, 1, jitter)
