"""What a worker tree costs that has nothing to do."""

import time

from ..bench import Bench, Case
from ..databases import PostgresDatabase
from ..measuring import Costs, Row, Sample, difference, scaled
from ..meters import Meter, meter_of
from ..trees import Tree, running
from ..watching import Watcher

CALM_SECONDS = 15.0  # by then it polls as seldom as it ever does
WINDOW_SECONDS = 60.0
NOTES = ("statements_a_minute", "server_percent")


def idle(bench: Bench, case: Case) -> Row:
    """Watch one tree for a window after the other."""
    row = case.row(bench, "% of a core", notes=NOTES)
    with bench.databases.copied(bench.base) as database:
        meter = meter_of(database)
        if isinstance(database, PostgresDatabase) and meter.log_size() is not None:
            database.log_statements()
        with running(database.url) as tree:
            Watcher(database, tree).wait_for(tree.is_ready)
            time.sleep(max(2.0, CALM_SECONDS * min(1.0, bench.scale)))
            for _ in range(bench.runs):
                row.samples.append(window(tree, meter, max(2.0, WINDOW_SECONDS * min(1.0, bench.scale))))
                bench.tell(row)
            tree.stop()
    return row


def window(tree: Tree, meter: Meter, seconds: float) -> Sample:
    log_size, server, worker, start = meter.log_size(), meter.cpu_seconds(), tree.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    worker, server = tree.cpu_seconds() - worker, difference(meter.cpu_seconds(), server)
    passed = time.monotonic() - start
    found = {
        "statements_a_minute": scaled(meter.statements_since(log_size), 60 / passed),
        "server_percent": scaled(server, 100 / passed),
    }
    extra = {name: value for name, value in found.items() if value is not None}
    return Sample(100 * worker / passed, Costs(1, peak=tree.peak_mib()), extra)


CASES = [Case("idle", "one worker tree on an empty queue", idle)]
