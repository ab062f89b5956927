"""Pickup latency: from the enqueueing of a job to its start, by the clock that stamps both."""

from functools import partial

from ..bench import Bench, Case
from ..databases import Database
from ..measuring import Costs, Row, Sample, difference, percentile
from ..meters import meter_of
from ..processes import reported_by, start
from ..trees import running
from ..watching import Watcher, check_each_ran_once, waits

WARM = 20  # jobs before those that count
NOTES = ("p95", "p99", "longest")


def pickup(bench: Bench, case: Case, *, jobs: int, rate: float) -> Row:
    row = case.row(bench, "ms p50", "bare notify + claim", NOTES)
    count = bench.count(jobs, least=40)
    for _ in range(bench.runs):
        row.samples.append(by_a_worker(bench, count, rate))
        row.limits.append(by_bare_sql(bench, count, rate))
        bench.tell(row)
    return row


def by_a_worker(bench: Bench, count: int, rate: float) -> Sample:
    with bench.databases.copied(bench.base) as database:
        meter = meter_of(database)
        with running(database.url) as tree:
            watcher = Watcher(database, tree)
            watcher.wait_for(tree.is_ready)
            worker, server, wal = tree.cpu_seconds(), meter.cpu_seconds(), meter.wal()
            reported_by("benchmarks.clients", database.url, "enqueue_paced", count + WARM, rate)
            first, last = ids(database)
            watcher.wait(first, last)
            worker, server = tree.cpu_seconds() - worker, difference(meter.cpu_seconds(), server)
            costs = Costs(count + WARM, worker, server, wal=difference(meter.wal(), wal), peak=tree.peak_mib())
            tree.stop()
        check_each_ran_once(database, first, last)
        return sample(waits(database, first + WARM, last), costs)


def by_bare_sql(bench: Bench, count: int, rate: float) -> float:
    with bench.databases.copied(bench.base) as database:
        with start("benchmarks.limits", database.url, "pick_up", count + WARM) as consumer:
            try:
                assert consumer.stdout
                consumer.stdout.readline()  # it listens
                reported_by("benchmarks.limits", database.url, "insert_paced", count + WARM, rate)
                consumer.wait(60)
            finally:
                consumer.kill()
        first, last = ids(database)
        check_each_ran_once(database, first, last)
        return sample(waits(database, first + WARM, last), Costs(count)).figure


def ids(database: Database) -> tuple[int, int]:
    first, last = database.rows("SELECT min(id), max(id) FROM jobs_job")[0]
    return first, last


def sample(seconds: list[float], costs: Costs) -> Sample:
    p50, p95, p99, longest = (1000 * percentile(seconds, percent) for percent in (50, 95, 99, 100))
    return Sample(p50, costs, {"p95": p95, "p99": p99, "longest": longest})


CASES = [
    Case("latency.idle", "pickup by an idle worker, a job every 50 ms", partial(pickup, jobs=200, rate=20)),
    Case("latency.steady", "pickup under a steady 200 jobs/s", partial(pickup, jobs=2_000, rate=200)),
]
