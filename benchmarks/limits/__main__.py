"""`python -m benchmarks.limits NAME ARGUMENTS`: measure one limit on the database of DATABASE_URL, and report."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..processes import paced, report, timed
from ..seeding import QUEUE, WARM_QUEUE
from . import LONGEST_DRAIN, postgresql, sqlite

TASK = "benchmarks.tasks.noop"
DURABLE = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
# Rows are found by their keys, whatever the planner's statistics say of a table that changes completely in seconds.
PROBING = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
WARM = 200


def connected() -> tuple[Any, Any]:
    """Return the bare SQL for this database, and a connection."""
    url = os.environ["DATABASE_URL"]
    if not url.startswith("sqlite"):
        import psycopg

        return postgresql, psycopg.connect(url, autocommit=True, options=PROBING)
    import sqlite3

    parts = urlsplit(url)
    connection = sqlite3.connect(parts.path, isolation_level=None, timeout=60)
    connection.executescript(parse_qs(parts.query).get("init_command", [DURABLE])[0])
    return sqlite, connection


def drain(most: str = "", *options: str) -> None:
    """Claim and settle all jobs, or the first `most`, after the warm-up jobs."""
    bare, connection = connected()
    given = dict.fromkeys(options, True)
    bare.drain(connection, WARM_QUEUE, **given)
    timed(lambda: bare.drain(connection, QUEUE, int(most or LONGEST_DRAIN), **given))


def drain_on_demand() -> None:
    """Drain, and report, once for each line of the input."""
    bare, connection = connected()
    bare.drain(connection, WARM_QUEUE)
    print("warm", flush=True)
    for _ in sys.stdin:
        timed(lambda: bare.drain(connection, QUEUE))


def drain_together() -> None:
    """Do as `drain` does, but settle a batch and claim the next one in one trip and one transaction."""
    bare, connection = connected()
    bare.drain(connection, WARM_QUEUE)
    timed(lambda: bare.drain_together(connection, QUEUE))


def insert(count: str) -> None:
    """Insert one at a time, each committed."""
    bare, connection = connected()

    def work(count: int) -> int:
        for n in range(count):
            bare.insert(connection, TASK, n)
        return count

    work(WARM)
    timed(lambda: work(int(count)))


def insert_in_transaction(count: str) -> None:
    bare, connection = connected()

    def work(count: int) -> int:
        with bare.transaction(connection):
            for n in range(count):
                bare.insert(connection, TASK, n)
        return count

    work(WARM)
    timed(lambda: work(int(count)))


def insert_many(count: str, size: str) -> None:
    """Insert `count` jobs, `size` in a call."""
    bare, connection = connected()

    def work(count: int, size: int) -> int:
        return sum(len(bare.insert_many(connection, TASK, range(n, n + size))) for n in range(0, count, size))

    work(WARM, WARM)
    timed(lambda: work(int(count), int(size)))


def insert_paced(count: str, rate: str) -> None:
    bare, connection = connected()
    paced(lambda n: bare.insert_and_notify(connection, TASK, n), int(count), float(rate))
    report(jobs=int(count))


def pick_up(count: str) -> None:
    """Wait, claim what has come, settle, and so on, until `count` jobs are done."""
    bare, connection = connected()
    bare.listen(connection)
    print("listening", flush=True)
    left = int(count)
    while left > 0:
        bare.wait(connection, 1.0)
        left -= bare.drain(connection, QUEUE)
    report(jobs=int(count), seconds=time.monotonic())


def create_rows(threads: str, count: str) -> None:
    from .orm import create_rows

    create_rows(int(threads), int(count))


LIMITS: dict[str, Callable[..., None]] = {
    "drain": drain,
    "drain_on_demand": drain_on_demand,
    "drain_together": drain_together,
    "insert": insert,
    "insert_in_transaction": insert_in_transaction,
    "insert_many": insert_many,
    "insert_paced": insert_paced,
    "pick_up": pick_up,
    "create_rows": create_rows,
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    LIMITS[name](*arguments)
