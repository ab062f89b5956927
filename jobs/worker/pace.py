"""How many jobs to claim ahead, by Little's law: about 100 ms of work, so that a short job never waits for a claim
and a slow one is left for others."""

import sys

from .plan import MAX_AHEAD

AHEAD_SECONDS = 0.1
# A job that waits for anything outside takes longer; in a shorter one, a second thread only waits for the first.
ALONE_SECONDS = 0.0002
# Free-threaded builds of Python run threads side by side.
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
WEIGHT = 0.3  # of the newest batch in the running mean


class Pace:
    """A running mean of how long attempts take. Units: seconds."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def observe(self, seconds: float, jobs: int) -> None:
        """Take in a batch of `jobs` attempts that ran for `seconds` in all."""
        if not jobs:
            return
        newest = seconds / jobs
        self.mean = newest if self.mean is None else self.mean + WEIGHT * (newest - self.mean)

    def crew(self, threads: int) -> int:
        """Return how many threads are worth waking: very short jobs would only take the interpreter from each other."""
        if self.mean is None or self.mean > ALONE_SECONDS or not HAS_GIL:
            return threads
        return 1

    def stall(self) -> None:
        """Claim nothing ahead until attempts have shown again how long they take."""
        self.mean = max(self.mean or 0.0, AHEAD_SECONDS)

    def ahead(self, threads: int) -> int:
        """Return how many jobs may wait in the buffer. None until it is known how long a job takes."""
        if self.mean is None or self.mean >= AHEAD_SECONDS:
            return 0
        return min(MAX_AHEAD, int(threads * AHEAD_SECONDS / max(self.mean, 1e-6)))
