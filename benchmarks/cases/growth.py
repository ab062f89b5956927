"""How the rate of a drain depends on how many jobs wait: 10^3 to 10^6, as points of a curve."""

import json
import subprocess
from functools import partial

from ..bench import Bench, Case
from ..databases import Database
from ..drains import Drain, bare_once, run_once, warm_tree
from ..measuring import Costs, Row, Sample
from ..processes import start
from ..seeding import QUEUE, Recipe, Seeded, add, last_id, pause, release
from ..watching import Watcher, check_each_ran_once, span

DEPTHS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
MEASURED = 100_000  # jobs of a run at most
SHORT = 20_000  # fewer jobs than this are over too soon: their runs are several rounds in a row
DRAIN = Drain()


def at_depth(bench: Bench, case: Case, *, depth: int) -> Row:
    row = case.row(bench, "jobs/s", "bare claim + settle")
    depth = bench.count(depth)
    most = bench.count(MEASURED)
    measured = most if most < depth else None
    with bench.prepared(Recipe("noop", depth)) as prepared:
        for _ in range(bench.runs):
            if depth < SHORT * min(1.0, bench.scale):
                row.samples.append(in_rounds(bench, prepared))
                row.limits.append(bare_in_rounds(bench, prepared))
            else:
                row.samples.append(run_once(bench, prepared, DRAIN, measured))
                row.limits.append(bare_once(bench, prepared, most=measured))
            bench.tell(row)
    return row


def rounds(bench: Bench, prepared: Seeded) -> range:
    return range(max(2, round(SHORT * min(1.0, bench.scale) / prepared.recipe.jobs)))


def in_rounds(bench: Bench, prepared: Seeded) -> Sample:
    """Drain the same number again and again, and return the rate of all rounds together."""
    jobs, seconds = prepared.recipe.jobs, 0.0
    with (
        bench.databases.copied(prepared.template) as database,
        warm_tree(database, prepared, DRAIN) as (tree, watcher),
    ):
        first = prepared.first
        for _ in rounds(bench, prepared):
            release(database)
            seconds += drained_in(watcher, first, first + jobs - 1)
            first = refilled(database, prepared)
        peak = tree.peak_mib()
    return Sample(jobs * len(rounds(bench, prepared)) / seconds, Costs(jobs, peak=peak))


def drained_in(watcher: Watcher, first: int, last: int) -> float:
    ended = watcher.wait(first, last)
    check_each_ran_once(watcher.database, first, last)
    times = span(watcher.database, first, last)
    return max(ended, times.finished) - times.started


def refilled(database: Database, prepared: Seeded) -> int:
    """Add the jobs once more, held back again, and return the first id."""
    pause(database, prepared.recipe)
    add(database, prepared.recipe.task, prepared.recipe.jobs, f"'{QUEUE}'")
    return last_id(database) - prepared.recipe.jobs + 1


def bare_in_rounds(bench: Bench, prepared: Seeded) -> float:
    seconds = 0.0
    with (
        bench.databases.copied(prepared.template) as database,
        start("benchmarks.limits", database.url, "drain_on_demand") as process,
    ):
        answer(process)
        for _ in rounds(bench, prepared):
            seconds += json.loads(answer(process, b"go\n"))["seconds"]
            refilled(database, prepared)
        process.communicate(timeout=60)
    return prepared.recipe.jobs * len(rounds(bench, prepared)) / seconds


def answer(process: "subprocess.Popen[bytes]", question: bytes = b"") -> bytes:
    assert process.stdin
    assert process.stdout
    process.stdin.write(question)
    process.stdin.flush()
    return process.stdout.readline()


CASES = [Case(f"growth.{depth}", f"no-op, {depth:,} jobs waiting", partial(at_depth, depth=depth)) for depth in DEPTHS]
