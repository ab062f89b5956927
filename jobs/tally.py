"""What a worker counts: a child tallies what its jobs did, the supervisor adds the children up for the metrics port.

Nothing here knows about HTTP or Prometheus; `metrics.py` turns a `Merged` into text.
"""

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

# Upper bounds in seconds; one more bucket holds what is longer than the last.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

# How an attempt ended, how a job ended, and what else is worth counting. "succeeded" and "cancelled" are both.
ATTEMPT_OUTCOMES = frozenset({"succeeded", "failed", "snoozed", "cancelled", "released", "interrupted", "lost"})
JOB_ENDS = frozenset({"succeeded", "dead", "cancelled"})
# How full queues turned jobs away that tasks of a worker enqueued.
TURNED_AWAY = frozenset({"rejected", "deferred", "shed"})
EVENTS = ATTEMPT_OUTCOMES | JOB_ENDS | TURNED_AWAY | {"retried", "lease_lost", "tripped", "limited"}

# Every distinct name costs a time series for ever: names beyond the limit are counted together.
MAX_NAMES = 200
OTHER = "other"
NOTHING: Mapping[str, Sequence[float]] = MappingProxyType({})


class Names:
    """The label values seen so far; once there are `MAX_NAMES` of them, every new one is `OTHER`."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def bounded(self, name: str) -> str:
        if name in self.known:
            return name
        if len(self.known) >= MAX_NAMES:
            return OTHER
        self.known.add(name)
        return name


class Histogram:
    """Observations by bucket, not cumulated; `seconds` is their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def observe(self, observed: Sequence[float]) -> None:
        # Two clocks may disagree on which came first; a negative wait is a wait of nothing.
        inorder = sorted(max(0.0, seconds) for seconds in observed)
        below = [bisect_right(inorder, bound) for bound in BUCKETS]
        places = pairwise([0, *below, len(inorder)])
        self.counts = [count + end - start for count, (start, end) in zip(self.counts, places, strict=True)]
        self.seconds += sum(inorder)

    def add(self, counts: list[int], seconds: float) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.seconds += seconds

    def copy(self) -> "Histogram":
        twin = Histogram()
        twin.add(self.counts, self.seconds)
        return twin


class Tally:
    """What happened in one process since the last `take()`.

    Threads: any may call; an uncontended lock is all that a call costs.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.names = Names()
        self.events: Counter[tuple[str, str, str]] = Counter()
        self.runs: dict[str, Histogram] = {}
        self.waits: dict[str, Histogram] = {}

    def count(self, event: str, task: str, queue: str, times: int = 1) -> None:
        """Count one of `EVENTS`."""
        self.add({(event, task, queue): times})

    def add(
        self,
        events: Mapping[tuple[str, str, str], int],
        runs: Mapping[str, Sequence[float]] = NOTHING,
        waits: Mapping[str, Sequence[float]] = NOTHING,
    ) -> None:
        """Count events by (event, task, queue); note by task how long attempts ran and their jobs had been ready.

        Units: seconds.
        """
        with self.lock:
            for (event, task, queue), times in events.items():
                self.events[event, self.names.bounded(task), queue] += times
            for histograms, found in ((self.runs, runs), (self.waits, waits)):
                for task, seconds in found.items():
                    histograms.setdefault(self.names.bounded(task), Histogram()).observe(seconds)

    def take(self) -> dict[str, Any]:
        """Return what happened since the last call, and start again from nothing.

        Shape: JSON; empty when nothing happened. `Merged.add` reads it, nothing else should.
        """
        with self.lock:
            if not (self.events or self.runs or self.waits):
                return {}
            events, runs, waits = self.events, self.runs, self.waits
            self.reset()
        return {
            "events": [[*labels, times] for labels, times in events.items()],
            "runs": [[task, seen.counts, seen.seconds] for task, seen in runs.items()],
            "waits": [[task, seen.counts, seen.seconds] for task, seen in waits.items()],
        }


class Merged:
    """The sum of what all children ever told: it outlives each of them, so that no counter goes back.

    Threads: `add` and the readers may be called from any.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tasks, self.queues = Names(), Names()
        self.events: Counter[tuple[str, str, str]] = Counter()
        self.runs: dict[str, Histogram] = {}
        self.waits: dict[str, Histogram] = {}

    def add(self, delta: dict[str, Any]) -> None:
        """Add what one `Tally.take()` returned."""
        with self.lock:
            for event, task, queue, times in delta.get("events", ()):
                known = event if event in EVENTS else OTHER
                self.events[known, self.tasks.bounded(task), self.queues.bounded(queue)] += times
            for mine, theirs in ((self.runs, delta.get("runs", ())), (self.waits, delta.get("waits", ()))):
                for task, counts, seconds in theirs:
                    mine.setdefault(self.tasks.bounded(task), Histogram()).add(counts, seconds)

    def snapshot(self) -> tuple[Counter[tuple[str, str, str]], dict[str, Histogram], dict[str, Histogram]]:
        """Return events by (event, task, queue), runs by task and waits by task, as of one moment."""
        with self.lock:
            return (
                self.events.copy(),
                {task: seen.copy() for task, seen in self.runs.items()},
                {task: seen.copy() for task, seen in self.waits.items()},
            )
