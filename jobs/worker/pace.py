"""How many jobs to claim ahead, by Little's law: about 100 ms of work, so that a short job never waits for a claim
and a slow one is left for others."""

import sys

from .plan import MAX_AHEAD

AHEAD_SECONDS = 0.1
# A job that waits for anything outside takes longer; in a shorter one, a second thread only waits for the first.
ALONE_SECONDS = 0.0002
# Free-threaded builds of Python run threads side by side.
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
WEIGHT = 0.3  # by which older attempts lose with each batch
MEMORY = 50  # attempts at most, so that the first slow ones after a thousand short ones are noticed
OVERHEAD_SECONDS = 1e-5  # what a worker itself needs for each attempt


class Pace:
    """Running means of how long attempts, and claims, take. Units: seconds."""

    def __init__(self) -> None:
        self.seconds = self.jobs = 0.0  # of recent attempts, older ones counting ever less
        self.claim_seconds = 0.0

    @property
    def mean(self) -> float | None:
        return self.seconds / self.jobs if self.jobs else None

    def observe(self, seconds: float, jobs: int) -> None:
        """Take in a batch of `jobs` attempts that ran for `seconds` in all. One that was held up counts as one."""
        if jobs:
            kept = min(1 - WEIGHT, MEMORY / self.jobs) if self.jobs else 0.0
            self.seconds = self.seconds * kept + seconds
            self.jobs = self.jobs * kept + jobs

    def observe_claim(self, seconds: float) -> None:
        self.claim_seconds += WEIGHT * (seconds - self.claim_seconds)

    def soon(self, threads: int) -> int:
        """Return how many attempts begin while a claim is under way: what it brings is not ahead of those."""
        per_attempt = (self.mean or AHEAD_SECONDS) / threads + OVERHEAD_SECONDS
        return int(self.claim_seconds / per_attempt)

    def crew(self, threads: int) -> int:
        """Return how many threads are worth waking: very short jobs would only take the interpreter from each other."""
        if self.mean is None or self.mean > ALONE_SECONDS or not HAS_GIL:
            return threads
        return 1

    def stall(self) -> None:
        """Claim nothing ahead until attempts have shown again how long they take."""
        if (self.mean or 0.0) < AHEAD_SECONDS:
            self.seconds, self.jobs = AHEAD_SECONDS, 1.0

    def ahead(self, threads: int) -> int:
        """Return how many jobs may wait in the buffer. None until it is known how long a job takes."""
        if self.mean is None or self.mean >= AHEAD_SECONDS:
            return 0
        return min(MAX_AHEAD, int(threads * AHEAD_SECONDS / max(self.mean, 1e-6)))
