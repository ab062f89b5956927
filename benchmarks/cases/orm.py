"""Drain jobs that write one row through the ORM, beside the same calls from as many threads with no queue."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ..bench import Bench, Case
from ..databases import Database
from ..drains import Drain, run_once, statements
from ..measuring import Row
from ..processes import reported_by
from ..seeding import Recipe, Seeded


def against_plain_calls(bench: Bench, case: Case, *, threads: int) -> Row:
    row = case.row(bench, "jobs/s", f"create() from {threads} threads")
    recipe, drain = Recipe("write_row", bench.count(40_000), warm=1_000), Drain(threads=threads)
    with bench.prepared(recipe) as prepared:
        for _ in range(bench.runs):
            row.samples.append(run_once(bench, prepared, drain, around=partial(rows_checked, prepared)))
            row.limits.append(plain_calls(bench, prepared, threads))
            bench.tell(row)
    row.statements = statements(bench, recipe, drain)
    return row


def plain_calls(bench: Bench, prepared: Seeded, threads: int) -> float:
    with bench.databases.copied(prepared.template) as database:
        found = reported_by("benchmarks.limits", database.url, "create_rows", threads, prepared.recipe.jobs)
        check_rows(database, prepared.recipe.jobs)
        return found["jobs"] / found["seconds"]


@contextmanager
def rows_checked(prepared: Seeded, database: Database) -> Iterator[None]:
    yield
    check_rows(database, prepared.recipe.jobs)


def check_rows(database: Database, jobs: int) -> None:
    """Raises: RuntimeError when not each job has left its row; those of the warm-up have negative numbers."""
    found = database.value("SELECT count(*) FROM auth_group WHERE name LIKE 'job %%' AND name NOT LIKE 'job -%%'")
    if found != jobs:
        raise RuntimeError(f"{jobs} rows were to be written, {found} are there")


CASES = [
    Case("drain.orm.1x4", "one row through the ORM, 1 process x 4 threads", partial(against_plain_calls, threads=4)),
]
