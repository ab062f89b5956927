"""Drain jobs that do nothing: what the queue itself costs."""

from functools import partial

from ..bench import Bench, Case
from ..drains import Drain, bare_once, run_once, statements
from ..measuring import Costs, Row, Sample
from ..seeding import Recipe

LIMIT = "bare claim + settle"
NORMAL = "?init_command=PRAGMA+journal_mode%3DWAL%3B+PRAGMA+synchronous%3DNORMAL"


def against_bare_sql(
    bench: Bench,
    case: Case,
    *,
    task: str,
    jobs: int,
    drain: Drain,
    how: tuple[str, ...] = (),
    warm: int = 5_000,
    notes: tuple[str, ...] = (),
) -> Row:
    """Drain in turn by a worker tree and by bare SQL; `how`: what the bare SQL is told."""
    row = case.row(bench, "jobs/s", LIMIT, notes)
    recipe = Recipe(task, bench.count(jobs), warm=warm)
    with bench.prepared(recipe) as prepared:
        for _ in range(bench.runs):
            row.samples.append(run_once(bench, prepared, drain))
            row.limits.append(bare_once(bench, prepared, *how, options=drain.options))
            bench.tell(row)
    row.statements = statements(bench, recipe, drain)
    return row


def together(bench: Bench, case: Case) -> Row:
    """Measure what the limit would gain, were it to settle a batch and claim the next one in one transaction."""
    row = case.row(bench, "jobs/s", LIMIT)
    with bench.prepared(Recipe("noop", bench.count(120_000))) as prepared:
        for _ in range(bench.runs):
            rate = bare_once(bench, prepared, name="drain_together")
            row.samples.append(Sample(rate, Costs(prepared.recipe.jobs)))
            row.limits.append(bare_once(bench, prepared))
            bench.tell(row)
    return row


noop = partial(against_bare_sql, task="noop", jobs=120_000)
answer = partial(against_bare_sql, task="answer", jobs=120_000, how=("answers",))
transactional = partial(against_bare_sql, task="noop_transactional", jobs=8_000, how=("singly",), warm=1_000)
million = partial(noop, jobs=1_000_000, notes=("peak_1", "peak_10", "rate_1", "rate_10"))

CASES = [
    Case("drain.noop.1x1", "no-op, 1 process x 1 thread", partial(noop, drain=Drain(threads=1))),
    Case("drain.noop.1x4", "no-op, 1 process x 4 threads", partial(noop, drain=Drain())),
    Case("drain.noop.2x4", "no-op, 2 processes x 4 threads", partial(noop, drain=Drain(processes=2))),
    Case(
        "drain.noop.normal",
        "no-op, 1 process x 4 threads, synchronous=NORMAL",
        partial(noop, drain=Drain(options=NORMAL)),
        vendors=("sqlite",),
    ),
    Case("drain.values.1x4", "return values, 1 process x 4 threads", partial(answer, drain=Drain())),
    Case("drain.transactional.1x4", "transactional=True, 1 process x 4 threads", partial(transactional, drain=Drain())),
    Case("drain.bare.together", "the limit itself, settling and claiming in one transaction", together),
    Case("drain.million.1x4", "1,000,000 no-op jobs to the end: memory", partial(million, drain=Drain())),
]
