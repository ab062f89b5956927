"""The three things that are measured of each system, each in the same way for all."""

import tempfile
import time
from pathlib import Path

from benchmarks.measuring import percentile

from .bench import Bench, Failed, Worker

LOOK_SECONDS, LOOK_CLOSELY_SECONDS = 0.2, 0.02
# A run takes a few seconds; one that takes so long will not end.
LONGEST_SECONDS = 180.0
# Jobs of a pickup run that are not counted.
FIRST = 20


def enqueue_rate(bench: Bench, mode: str, jobs: int, calls: int) -> float:
    """Return how many jobs a second one producer enqueues while no worker runs."""
    bench.empty()
    bench.settle_down()
    return jobs * calls / float(bench.call("enqueue", mode, jobs, calls))


def drain_rate(bench: Bench, task: str, jobs: int, processes: int, threads: int) -> float:
    """Return jobs a second, from the start of the first to the moment when all are seen to be finished.

    The jobs are all there before a worker is started. The first start is what the system itself has recorded; on one
    host its clock is also ours.
    """
    bench.empty()
    bench.call("fill", task, jobs)
    bench.analyze()
    bench.settle_down()
    with bench.working(processes, threads, task) as worker:
        wait_for_the_last(bench, worker, jobs)
        end = time.time()
    check_each_ran_once(bench, task, jobs)
    return jobs / (end - bench.value(bench.system.first_start).timestamp())


def wait_for_the_last(bench: Bench, worker: Worker, jobs: int) -> None:
    """Look for the first job that is not finished, from the last such on: counting would slow down the server."""
    position, until = 0, time.monotonic() + LONGEST_SECONDS
    while row := bench.connection.execute(bench.system.pending, [position]).fetchone():
        worker.check()
        if time.monotonic() > until:
            raise Failed(f"the jobs do not get done; the worker says:\n{worker.said()}")
        position = row[0]
        is_far = bench.system.has_positions and position < jobs * 0.8
        time.sleep(LOOK_SECONDS if is_far else LOOK_CLOSELY_SECONDS)


def check_each_ran_once(bench: Bench, task: str, jobs: int) -> None:
    once = bench.value(bench.system.done_once)
    if once != jobs:
        raise Failed(f"{jobs} jobs were enqueued, and {once} ran exactly once")
    if task == "row":
        rows = bench.value("SELECT count(*) FROM effects_effect")
        different = bench.value("SELECT count(DISTINCT number) FROM effects_effect")
        if not rows == different == jobs:
            raise Failed(f"{jobs} jobs wrote {rows} rows, {different} of them different")


def pickup_latencies(bench: Bench, samples: int, interval: float, threads: int) -> list[float]:
    """Return how long jobs waited that one producer sends to one waiting worker process. Unit: ms.

    Five figures: the median, the 95th and the 99th percentile from the call of enqueue to the first line of the job;
    the median and the 99th from the return of that call, when the job is committed.
    """
    bench.empty()
    bench.settle_down()
    with tempfile.TemporaryDirectory(prefix="jobs-peers-") as directory:
        stamps = Path(directory) / "stamps"
        stamps.touch()
        with bench.working(1, threads, "stamp", stamps) as worker:
            bench.call("stamps", 1, 0)
            wait_for_stamps(stamps, 1, worker)
            calls = bench.call("stamps", FIRST + samples, interval)
            wait_for_stamps(stamps, 1 + FIRST + samples, worker)
        lines = [line.split() for line in stamps.read_text().splitlines()]
    started = {float(sent): float(moment) for sent, moment in lines}
    counted = calls[FIRST:]
    from_call = [1000 * (started[sent] - sent) for sent, _ in counted]
    from_return = [1000 * (started[sent] - returned) for sent, returned in counted]
    return [
        *(percentile(from_call, part) for part in (50, 95, 99)),
        *(percentile(from_return, part) for part in (50, 99)),
    ]


def wait_for_stamps(stamps: Path, count: int, worker: Worker) -> None:
    until = time.monotonic() + LONGEST_SECONDS
    while (found := len(stamps.read_text().splitlines())) < count:
        worker.check()
        if time.monotonic() > until:
            raise Failed(f"of {count} jobs {found} started; the worker says:\n{worker.said()}")
        time.sleep(LOOK_SECONDS)
    if found > count:
        raise Failed(f"{count} jobs started {found} times")
