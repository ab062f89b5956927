"""Watches a drain from outside, without getting in its way, and checks afterwards that each job ran once.

Counting rows, or asking an index of states that a drain fills with dead entries, would slow down what is watched. So
the watcher asks for single rows by primary key: jobs end nearly in the order of their ids.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .databases import Database
from .trees import Tree

SHORTEST_LOOK_SECONDS, LOOK_SECONDS = 0.001, 0.025
PRECISION = 0.004  # of a run's length: what is over soon is watched closely, and nothing is slowed down by watching
STRAGGLERS = 20_000  # ids before the end among which the last job to end is looked for
STUCK_SECONDS = 120.0  # no progress for so long: something is wrong

EPOCH = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM {}) AS DOUBLE PRECISION)",
    "sqlite": "CAST(strftime('%%s', substr({0}, 1, 19)) AS INTEGER) + CAST('0' || substr({0}, 20) AS REAL)",
}


def epoch(database: Database, column: str) -> str:
    """Return SQL for a moment as seconds since 1970."""
    return EPOCH[database.vendor].format(column)


def now(database: Database) -> float:
    """Return the clock by which jobs are stamped: the server's, or on SQLite this host's."""
    if database.vendor == "sqlite":
        return time.time()
    return float(database.value(f"SELECT {epoch(database, 'clock_timestamp()')}"))


def pause_since(began: float) -> float:
    return min(LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, PRECISION * (time.monotonic() - began)))


@dataclass
class Watcher:
    """Waits for the jobs from `first` to `last`, as long as the tree that should run them lives."""

    database: Database
    tree: Tree

    def wait(self, first: int, last: int, on_tenth: Callable[[int], None] = lambda tenth: None) -> float:
        """Return the moment, by the database's clock, at which all had been settled."""
        jobs, began = last - first + 1, time.monotonic()
        for tenth in range(1, 11):
            probe = first - 1 + -(-jobs * tenth // 10)
            self.wait_for(partial(self.has_ended, probe), partial(pause_since, began))
            on_tenth(tenth)
        pointer = max(first, last - STRAGGLERS)
        while (pointer := self.first_open(pointer, last)) <= last:
            self.tree.check()
            time.sleep(pause_since(began))
        return now(self.database)

    def wait_for(self, condition: Callable[[], bool], pause: Callable[[], float] = lambda: LOOK_SECONDS) -> None:
        until = time.monotonic() + STUCK_SECONDS
        while not condition():
            self.tree.check()
            if time.monotonic() > until:
                raise RuntimeError(f"the jobs do not get done; the worker says:\n{self.tree.said()}")
            time.sleep(pause())

    def has_ended(self, job_id: int) -> bool:
        return bool(self.database.value("SELECT state = 'succeeded' FROM jobs_job WHERE id = %s", job_id))

    def first_open(self, pointer: int, last: int) -> int:
        """Return the first id from `pointer` on that has not succeeded, or the one after `last`."""
        rows = self.database.rows(
            "SELECT id FROM jobs_job WHERE id >= %s AND id <= %s AND state <> 'succeeded' ORDER BY id LIMIT 1",
            pointer,
            last,
        )
        return int(rows[0][0]) if rows else last + 1


@dataclass(frozen=True)
class Span:
    """When the first of some jobs started and the last was finished. Units: seconds since 1970."""

    started: float
    finished: float


def span(database: Database, first: int, last: int) -> Span:
    started, finished = (epoch(database, f"{name}(%s)" % column) for name, column in ENDS)
    sql = f"SELECT {started}, {finished} FROM jobs_job WHERE id >= %s AND id <= %s"
    return Span(*map(float, database.rows(sql, first, last)[0]))


ENDS = (("min", "started_at"), ("max", "finished_at"))


def check_each_ran_once(database: Database, first: int, last: int) -> None:
    """Raises: RuntimeError when any of the jobs did not succeed at its only attempt, under its only lease."""
    good = "state = 'succeeded' AND attempts = 1 AND lease_token = 1 AND settled_token = 1"
    sql = f"SELECT count(*), count(CASE WHEN {good} THEN 1 END) FROM jobs_job WHERE id >= %s AND id <= %s"
    found, well = database.rows(sql, first, last)[0]
    if not found == well == last - first + 1:
        raise RuntimeError(f"{last - first + 1} jobs were enqueued, {found} are there, {well} ran exactly once")


def tenths(database: Database, first: int, last: int) -> list[float]:
    """Return the rate of each tenth of the jobs, in the order in which they ended. Units: jobs/s."""
    jobs = last - first + 1
    sql = (
        f"SELECT {epoch(database, 'finished_at')} FROM jobs_job WHERE id >= %s AND id <= %s "
        "ORDER BY finished_at LIMIT 1 OFFSET %s"
    )
    ends = [float(database.value(sql, first, last, jobs * tenth // 10 - 1)) for tenth in range(1, 11)]
    starts = [span(database, first, last).started, *ends]
    return [jobs / 10 / (end - start) for start, end in zip(starts, ends, strict=False)]


def waits(database: Database, first: int, last: int) -> list[float]:
    """Return how long each job waited from its enqueueing to its start. Units: seconds."""
    moments = [epoch(database, name) for name in ("started_at", "enqueued_at")]
    sql = f"SELECT {moments[0]}, {moments[1]} FROM jobs_job WHERE id >= %s AND id <= %s"
    return [float(started) - float(enqueued) for started, enqueued in database.rows(sql, first, last)]
