"""Drain jobs that sleep 10 ms, beside what would be if nothing but the sleeping took time."""

from functools import partial

from ..bench import Bench, Case
from ..drains import Drain, run_once, statements
from ..measuring import Row
from ..seeding import Recipe

SLEEPS_A_SECOND = 100  # of tasks.SLEEP_SECONDS


def against_the_ideal(bench: Bench, case: Case, *, task: str, at_once: int, threads: int) -> Row:
    row = case.row(bench, "jobs/s", "ideal")
    recipe, drain = Recipe(task, bench.count(at_once * SLEEPS_A_SECOND * 4), warm=1_000), Drain(threads=threads)
    with bench.prepared(recipe) as prepared:
        for _ in range(bench.runs):
            row.samples.append(run_once(bench, prepared, drain))
            row.limits.append(at_once * SLEEPS_A_SECOND)
            bench.tell(row)
    row.statements = statements(bench, recipe, drain)
    return row


threads = partial(against_the_ideal, task="sleep", at_once=20, threads=20)
coroutines = partial(against_the_ideal, task="asleep", at_once=200, threads=4)

CASES = [
    Case("drain.sleep.20_threads", "sleep 10 ms, 20 threads", threads),
    Case("drain.sleep.200_async", "sleep 10 ms, 200 coroutines in one process", coroutines),
]
