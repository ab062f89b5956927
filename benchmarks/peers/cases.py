"""What is measured, and which systems can do it, each in its own best layout with as many jobs as take some seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

from . import measures
from .bench import Bench

JOBS_PER_SECOND, MILLISECONDS = "jobs/s", "ms"


@dataclass(frozen=True)
class Case:
    """One thing that is measured, giving one figure or several; `titles` names each, a row of the table.

    `layouts`: processes and threads of each system, or jobs at a time where it has no threads; one that cannot do it
    is not there.
    """

    name: str
    titles: tuple[str, ...]
    layouts: Mapping[str, tuple[int, int]]
    unit: str = JOBS_PER_SECOND

    def takes(self, system: str) -> bool:
        return system in self.layouts

    def figures(self, bench: Bench, scale: float) -> list[float]:
        raise NotImplementedError

    def size(self, system: str, scale: float) -> str:
        """Say how much work it is for a system."""
        raise NotImplementedError


@dataclass(frozen=True)
class Enqueue(Case):
    mode: str = ""  # the driver's method behind `enqueue_`
    jobs: int = 0
    calls: int = 1

    def figures(self, bench: Bench, scale: float) -> list[float]:
        return [measures.enqueue_rate(bench, self.mode, *self.scaled(scale))]

    def scaled(self, scale: float) -> tuple[int, int]:
        """Return how many jobs a call enqueues and how many calls there are: fewer calls, when there are several."""
        if self.calls > 1:
            return self.jobs, max(1, int(self.calls * scale))
        return max(1, int(self.jobs * scale)), 1

    def size(self, system: str, scale: float) -> str:
        jobs, calls = self.scaled(scale)
        return f"{jobs * calls:,} jobs"


@dataclass(frozen=True)
class Drain(Case):
    task: str = "noop"
    jobs: Mapping[str, int] = field(default_factory=dict)

    def figures(self, bench: Bench, scale: float) -> list[float]:
        name = bench.system.name
        return [measures.drain_rate(bench, self.task, self.scaled(name, scale), *self.layouts[name])]

    def scaled(self, system: str, scale: float) -> int:
        return max(50, int(self.jobs[system] * scale))

    def size(self, system: str, scale: float) -> str:
        return f"{self.scaled(system, scale):,} jobs"


@dataclass(frozen=True)
class Pickup(Case):
    unit: str = MILLISECONDS
    interval: float = 0.05
    samples: int = 200

    def figures(self, bench: Bench, scale: float) -> list[float]:
        _, threads = self.layouts[bench.system.name]
        return measures.pickup_latencies(bench, self.scaled(scale), self.interval, threads)

    def scaled(self, scale: float) -> int:
        return max(20, int(self.samples * scale))

    def size(self, system: str, scale: float) -> str:
        return f"{self.scaled(scale)} jobs"


OURS, PGQUEUER, PROCRASTINATE, TASKS_DB, OX = "jobs", "pgqueuer", "procrastinate", "django-tasks-db", "django-ox"
# What each does best with was tried out; the drivers say what the figures were.
PRODUCER = dict.fromkeys([OURS, PGQUEUER, PROCRASTINATE, TASKS_DB, OX], (1, 1))
BULK_PRODUCER = dict.fromkeys([OURS, PGQUEUER, PROCRASTINATE, OX], (1, 1))
ONE_THREAD = {OURS: (1, 1), PGQUEUER: (1, 1), PROCRASTINATE: (1, 10), TASKS_DB: (1, 1), OX: (1, 1)}
FOUR_THREADS = {OURS: (1, 4), PGQUEUER: (1, 1), PROCRASTINATE: (1, 10), TASKS_DB: (1, 1), OX: (1, 4)}
TWO_PROCESSES = {OURS: (2, 4), PGQUEUER: (2, 1), PROCRASTINATE: (2, 10), TASKS_DB: (2, 1), OX: (2, 2)}
NOOPS = {OURS: 120_000, PGQUEUER: 90_000, PROCRASTINATE: 2_500, TASKS_DB: 1_500, OX: 2_500}
MORE_NOOPS = {OURS: 200_000, PGQUEUER: 120_000, PROCRASTINATE: 3_500, TASKS_DB: 2_500, OX: 3_000}
ROWS = {OURS: 15_000, PGQUEUER: 15_000, PROCRASTINATE: 2_000, TASKS_DB: 1_200, OX: 1_800}
MORE_ROWS = {OURS: 20_000, PGQUEUER: 15_000, PROCRASTINATE: 2_500, TASKS_DB: 2_000, OX: 2_500}
PICKUP = {OURS: (1, 4), PGQUEUER: (1, 4), PROCRASTINATE: (1, 10), TASKS_DB: (1, 1), OX: (1, 4)}


def only(mapping: Mapping[str, tuple[int, int]], *systems: str) -> dict[str, tuple[int, int]]:
    return {name: mapping[name] for name in systems}


def pickup_titles(load: str) -> tuple[str, ...]:
    from_call, from_return = f"pickup {load}", f"pickup {load}, from enqueue's return"
    return (*(f"{from_call}, {part}" for part in ("p50", "p95", "p99")), f"{from_return}, p50", f"{from_return}, p99")


ALL: Sequence[Case] = [
    Enqueue("enqueue.each", ("enqueue one at a time, autocommit",), PRODUCER, mode="each", jobs=3_000),
    Enqueue("enqueue.transaction", ("enqueue in one transaction",), PRODUCER, mode="in_transaction", jobs=5_000),
    Enqueue("enqueue.bulk.1000", ("enqueue in bulk, 1,000",), BULK_PRODUCER, mode="bulk", jobs=1_000, calls=20),
    Enqueue("enqueue.bulk.100000", ("enqueue in bulk, 100,000",), BULK_PRODUCER, mode="bulk", jobs=100_000),
    Drain("drain.noop.1x1", ("no-op, 1 process, 1 thread",), ONE_THREAD, jobs=NOOPS),
    Drain("drain.noop.1x4", ("no-op, 1 process, 4 threads",), FOUR_THREADS, jobs=NOOPS),
    Drain("drain.noop.2", ("no-op, 2 processes",), TWO_PROCESSES, jobs=MORE_NOOPS),
    Drain(
        "drain.value", ("returns a value, 1 process",), only(FOUR_THREADS, OURS, TASKS_DB, OX), task="value", jobs=NOOPS
    ),
    Drain(
        "drain.transactional",
        ("completes in its own transaction, 1 process",),
        only(FOUR_THREADS, OURS),
        task="transactional",
        jobs={OURS: 5_000},
    ),
    Drain("drain.row.1", ("writes a row, 1 process",), FOUR_THREADS, task="row", jobs=ROWS),
    Drain("drain.row.2", ("writes a row, 2 processes",), TWO_PROCESSES, task="row", jobs=MORE_ROWS),
    Drain(
        "drain.sleep.20",
        ("sleeps 10 ms, 20 threads",),
        dict.fromkeys([OURS, PGQUEUER, PROCRASTINATE, OX], (1, 20)),
        task="sleep",
        jobs={OURS: 7_000, PGQUEUER: 6_000, PROCRASTINATE: 2_000, OX: 2_500},
    ),
    Drain(
        "drain.asleep.200",
        ("sleeps 10 ms, 200 async in 1 process",),
        dict.fromkeys([OURS, PGQUEUER, PROCRASTINATE], (1, 200)),
        task="asleep",
        jobs={OURS: 50_000, PGQUEUER: 50_000, PROCRASTINATE: 2_000},
    ),
    Pickup("pickup.idle", pickup_titles("idle"), PICKUP, interval=0.05, samples=200),
    Pickup("pickup.steady", pickup_titles("at 200 jobs/s"), PICKUP, interval=0.005, samples=1_000),
]


def matching(patterns: Sequence[str]) -> list[Case]:
    """Return the cases of these names, or groups of names: `drain`, `drain.noop.2`, `drain.*.1`; all for none."""
    return [case for case in ALL if not patterns or any(fits(case.name, pattern) for pattern in patterns)]


def fits(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
