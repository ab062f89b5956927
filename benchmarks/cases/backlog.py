"""Drain no-op jobs out of a table that holds much else, beside the same drain without it, in turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ..bench import Bench, Case
from ..databases import Database
from ..drains import Around, Drain, run_once
from ..measuring import Row
from ..seeding import Recipe

JOBS = 150_000
DRAIN = Drain()


def against_an_empty_table(
    bench: Bench, case: Case, *, waiting: int = 0, ballast: int = 0, state: str = "", queues: int = 1
) -> Row:
    """Compare the rates of the first `JOBS` jobs; `waiting` ready ones are there in all."""
    row = case.row(bench, "jobs/s", "without")
    jobs = bench.count(JOBS)
    plain = Recipe("noop", jobs)
    scaled = bench.count(ballast) if ballast else 0
    full = replace(plain, ballast=scaled, ballast_state=state, queues=queues)
    full = replace(full, jobs=max(jobs, bench.count(waiting)))
    measured = jobs if full.jobs > jobs else None
    with bench.prepared(full) as laden, bench.prepared(plain) as light:
        for _ in range(bench.runs):
            row.samples.append(run_once(bench, laden, DRAIN, measured))
            row.limits.append(run_once(bench, light, DRAIN).figure)
            bench.tell(row)
    return row


@contextmanager
def transaction_held(bench: Bench, database: Database) -> Iterator[None]:
    """Keep a snapshot open, so that no row version that ends meanwhile can be removed."""
    other = bench.databases.open(database.name)
    try:
        other.rows("BEGIN ISOLATION LEVEL REPEATABLE READ" if other.vendor == "postgresql" else "BEGIN")
        other.rows("SELECT id FROM jobs_job LIMIT 1")
        yield
        other.rows("ROLLBACK")
    finally:
        other.close()


def against_no_transaction(bench: Bench, case: Case) -> Row:
    row = case.row(bench, "jobs/s", "without", notes=("rate_1", "rate_10", "last_to_first"))
    held: Around = partial(transaction_held, bench)
    with bench.prepared(Recipe("noop", bench.count(200_000))) as prepared:
        for _ in range(bench.runs):
            row.samples.append(run_once(bench, prepared, DRAIN, around=held))
            row.limits.append(run_once(bench, prepared, DRAIN).figure)
            bench.tell(row)
    return row


million = partial(against_an_empty_table, ballast=1_000_000)

CASES = [
    Case("backlog.ready", "of 1,000,000 ready jobs", partial(against_an_empty_table, waiting=1_000_000)),
    Case("backlog.scheduled", "beside 1,000,000 scheduled, of higher priority", partial(million, state="scheduled")),
    Case(
        "backlog.finished",
        "beside 5,000,000 finished",
        partial(against_an_empty_table, ballast=5_000_000, state="succeeded"),
    ),
    Case("backlog.blocked", "beside 1,000,000 behind one key, of higher priority", partial(million, state="blocked")),
    Case("backlog.queues", "over 50 queues", partial(against_an_empty_table, queues=50)),
    Case("backlog.held", "while a transaction is held open elsewhere", against_no_transaction),
]
