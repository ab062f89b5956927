"""A producer that asks for twice what the workers can do, of a queue that says when it is full."""

import subprocess
import time

from ..bench import Bench, Case
from ..databases import Database
from ..measuring import Costs, Row, Sample, percentile
from ..processes import report_of, start
from ..trees import running
from ..watching import Watcher, check_each_ran_once, waits
from .latency import ids

MAX_DEPTH = 500
THREADS = 2
CAPACITY = 100 * THREADS  # jobs a second: each sleeps for `tasks.SLEEP_SECONDS`
SECONDS = 60
LOOK_SECONDS = 0.05
NOTES = ("accepted", "refused", "rate", "p50", "p99", "longest")

LIMIT = "INSERT INTO jobs_queue (name, paused, paused_reason, max_depth) VALUES ('default', FALSE, '', %s)"
DEPTH = "SELECT count(*) FROM (SELECT 1 FROM jobs_job WHERE state = 'ready' LIMIT 100000) AS ready"


def twice_the_capacity(bench: Bench, case: Case) -> Row:
    """Measure how deep the queue gets. Units of the notes: jobs, jobs/s, and seconds from enqueue to start."""
    row = case.row(bench, "jobs deep", "max_depth", NOTES)
    attempts = bench.count(2 * CAPACITY * SECONDS)
    for _ in range(bench.runs):
        row.samples.append(flooded(bench, attempts))
        row.limits.append(MAX_DEPTH)
        bench.tell(row)
    return row


def flooded(bench: Bench, attempts: int) -> Sample:
    with bench.databases.copied(bench.base) as database:
        database.rows(LIMIT, MAX_DEPTH)
        with running(database.url, "--threads", str(THREADS)) as tree:
            watcher = Watcher(database, tree)
            watcher.wait_for(tree.is_ready)
            began, cpu = time.monotonic(), tree.cpu_seconds()
            with start("benchmarks.clients", database.url, "enqueue_flood", attempts, 2 * CAPACITY) as producer:
                deepest = watched(database, producer)
                told = report_of(producer)
            first, last = ids(database)
            watcher.wait(first, last)
            seconds, cpu = time.monotonic() - began, tree.cpu_seconds() - cpu
            costs = Costs(int(told["accepted"]), cpu, peak=tree.peak_mib())
            tree.stop()
        check_each_ran_once(database, first, last)
        if last - first + 1 != told["accepted"]:
            raise RuntimeError(f"{told['accepted']} jobs were accepted, {last - first + 1} are there")
        waited = waits(database, first, last)
    found = {name: percentile(waited, percent) for name, percent in (("p50", 50), ("p99", 99), ("longest", 100))}
    return Sample(deepest, costs, told | found | {"rate": told["accepted"] / seconds})


def watched(database: Database, producer: "subprocess.Popen[bytes]") -> int:
    """Return the greatest depth that was seen while the producer ran."""
    deepest = 0
    while producer.poll() is None:
        deepest = max(deepest, int(database.value(DEPTH)))
        time.sleep(LOOK_SECONDS)
    return deepest


CASES = [Case("overload.max_depth", "twice what the workers can do, for a minute", twice_the_capacity)]
