"""One run of a drain: by a real worker tree, or by the bare SQL that is its limit."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from .bench import Bench
from .databases import Database, PostgresDatabase
from .measuring import Costs, Sample, difference
from .meters import Meter, meter_of
from .processes import reported_by
from .seeding import Recipe, Seeded, release
from .trees import Tree, running
from .watching import Watcher, check_each_ran_once, span, tenths

STATEMENT_JOBS = 10_000  # in the run that counts statements


@dataclass(frozen=True)
class Drain:
    """A worker tree to let loose on prepared jobs; `options` are of the SQLite URL."""

    processes: int = 1
    threads: int = 4
    options: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--processes", str(self.processes), "--threads", str(self.threads))


@dataclass
class Stretch:
    """What was read while the jobs ran: their end by the database's clock, and what they cost till then."""

    ended: float = 0.0
    worker_cpu: float = 0.0
    server_cpu: float | None = None
    wal: float | None = None
    peaks: list[float] = field(default_factory=list)  # MiB after each tenth


@contextmanager
def warm_tree(database: Database, prepared: Seeded, drain: Drain) -> Iterator[tuple[Tree, Watcher]]:
    """Start a tree, wait until all its processes are there and have run the warm-up jobs, and stop it at the end."""
    with running(database.url, *drain.arguments) as tree:
        watcher = Watcher(database, tree)
        watcher.wait_for(tree.is_ready)
        watcher.wait(prepared.first - prepared.recipe.warm, prepared.first - 1)
        time.sleep(0.3)
        yield tree, watcher
        tree.stop()


def stretch(tree: Tree, watcher: Watcher, meter: Meter, first: int, last: int) -> Stretch:
    """Release the jobs and wait until all from `first` to `last` are settled."""
    wal, server, worker = meter.wal(), meter.cpu_seconds(), tree.cpu_seconds()
    release(watcher.database)
    found = Stretch()
    found.ended = watcher.wait(first, last, lambda tenth: found.peaks.append(tree.peak_mib()))
    found.worker_cpu = tree.cpu_seconds() - worker
    found.server_cpu = difference(meter.cpu_seconds(), server)
    found.wal = difference(meter.wal(), wal)
    return found


def drained(database: Database, prepared: Seeded, drain: Drain, measured: int | None = None) -> Sample:
    """Let a worker tree run the jobs, and return the rate from the start of the first to the moment at which all, or
    the first `measured` of them, were settled. Each must have run once.
    """
    meter = meter_of(database)
    jobs = measured or prepared.recipe.jobs
    last = prepared.first + jobs - 1
    before = meter.commits()
    with warm_tree(database, prepared, drain) as (tree, watcher):
        found = stretch(tree, watcher, meter, prepared.first, last)
    check_each_ran_once(database, prepared.first, last)
    # Of the tree's whole life: its processes report their transactions when they end.
    commits = difference(meter.commits(), before)
    if commits is not None:
        commits = commits / (jobs + prepared.recipe.warm) if measured is None else None
    times = span(database, prepared.first, last)
    costs = Costs(jobs, found.worker_cpu, found.server_cpu, None, commits, found.wal, found.peaks[-1])
    return Sample(
        jobs / (max(found.ended, times.finished) - times.started),
        costs,
        extras(found.peaks, tenths(database, prepared.first, last)),
    )


def extras(peaks: list[float], rates: list[float]) -> dict[str, float]:
    named = {f"peak_{tenth}": value for tenth, value in enumerate(peaks, 1)}
    named |= {f"rate_{tenth}": value for tenth, value in enumerate(rates, 1)}
    return named | {"peak_growth": peaks[-1] / peaks[0], "last_to_first": rates[-1] / rates[0]}


Around = Callable[[Database], AbstractContextManager[object]]


def run_once(
    bench: Bench,
    prepared: Seeded,
    drain: Drain,
    measured: int | None = None,
    around: Around = lambda database: nullcontext(),
) -> Sample:
    """Drain a copy of the prepared database, inside what `around` makes of it."""
    with bench.databases.copied(prepared.template, drain.options) as database, around(database):
        return drained(database, prepared, drain, measured)


def bare_once(
    bench: Bench, prepared: Seeded, *arguments: str, name: str = "drain", most: int | None = None, options: str = ""
) -> float:
    """Return the rate at which bare SQL drains a copy of the prepared database."""
    if name == "drain":
        arguments = (str(most or ""), *arguments)
    with bench.databases.copied(prepared.template, options) as database:
        found = reported_by("benchmarks.limits", database.url, name, *arguments)
        jobs = int(found["jobs"])
        if most is None and jobs != prepared.recipe.jobs:
            raise RuntimeError(f"the bare drain found {jobs} of {prepared.recipe.jobs} jobs")
        check_each_ran_once(database, prepared.first, prepared.first + jobs - 1)
        return jobs / found["seconds"]


def statements(bench: Bench, recipe: Recipe, drain: Drain) -> float | None:
    """Count the statements a job in a small run of its own, whose time does not count: it is slowed down by a log."""
    small = replace(recipe, jobs=min(recipe.jobs, STATEMENT_JOBS))
    with bench.prepared(small) as prepared, bench.databases.copied(prepared.template) as database:
        meter = meter_of(database)
        if not isinstance(database, PostgresDatabase) or meter.log_size() is None:
            return None
        database.log_statements()
        with warm_tree(database, prepared, drain) as (_, watcher):
            log_size = meter.log_size()
            release(database)
            watcher.wait(prepared.first, prepared.last)
            found = meter.statements_since(log_size)
        return None if found is None else found / small.jobs
