"""Enqueue: one at a time, in a transaction, and many at once."""

from functools import partial

from ..bench import Bench, Case
from ..enqueues import STATEMENT_JOBS, enqueued, inserted, statements
from ..measuring import Row


def against_bare_insert(bench: Bench, case: Case, *, client: str, limit: str, jobs: int, size: int = 0) -> Row:
    """`size`: jobs in one call."""
    row = case.row(bench, "jobs/s", "bare INSERT")
    count = bench.count(jobs)
    size = min(size, count)
    count -= count % size if size else 0
    arguments = [size] if size else []
    for _ in range(bench.runs):
        row.samples.append(enqueued(bench, client, count, *arguments))
        row.limits.append(inserted(bench, limit, count, *arguments))
        bench.tell(row)
    row.statements = statements(bench, client, count if size else min(count, STATEMENT_JOBS), *arguments)
    return row


one = partial(against_bare_insert, client="enqueue", limit="insert", jobs=5_000)
inside = partial(against_bare_insert, client="enqueue_in_transaction", limit="insert_in_transaction", jobs=20_000)
many = partial(against_bare_insert, client="enqueue_many", limit="insert_many", jobs=100_000)

CASES = [
    Case("enqueue.one", "one at a time, autocommit", one),
    Case("enqueue.transaction", "one at a time inside one transaction", inside),
    Case("enqueue.many.1000", "enqueue_many, 1,000 in a call", partial(many, size=1_000)),
    Case("enqueue.many.100000", "enqueue_many, 100,000 in a call", partial(many, size=100_000)),
]
