"""What a driver is: one system's ways to set up, enqueue and work, run inside that system's own environment.

`python -m benchmarks.peers.NAME COMMAND ...` does one thing and prints one line of JSON. Only the standard library is
imported here: every environment has it.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import cache
from typing import Any

SLEEP_SECONDS = 0.01
# Calls before the clock starts: connections are open and statements prepared.
WARM_UP = 50
# Set in each of several processes that a driver starts.
CHILD = "PEERS_CHILD"

# Of an interval: enough that no other clock falls in step, and "every 50 ms" stays true.
JITTER = 0.25


class Driver:
    """One system. What it cannot do is left out here, and no case asks for it.

    Tasks: `noop`, `value` returns a small dict, `transactional`, `row` writes one row, `sleep` and `asleep` wait 10 ms,
    `stamp` says when it started.
    """

    # A command of its own starts several processes; otherwise they are started here.
    starts_processes = False

    def setup(self) -> None:
        """Create the system's tables, and the one that `row` writes, in the database of DATABASE_URL."""
        raise NotImplementedError

    def fill(self, task: str, jobs: int) -> None:
        """Enqueue jobs of a task in the fastest way there is."""
        raise NotImplementedError

    def enqueue_each(self, jobs: int) -> None:
        """Enqueue no-op jobs one at a time, each committed before the next."""
        raise NotImplementedError

    def enqueue_in_transaction(self, jobs: int) -> None:
        """Enqueue no-op jobs one at a time within one transaction."""
        raise NotImplementedError

    def enqueue_bulk(self, jobs: int) -> None:
        """Enqueue no-op jobs with one call."""
        self.fill("noop", jobs)

    def enqueue_stamp(self, sent: float) -> None:
        """Enqueue one job that calls `stamp(sent)`."""
        raise NotImplementedError

    def work(self, processes: int, threads: int, task: str) -> None:
        """Run jobs until SIGTERM, in this process or in what replaces it: one of so many processes, or all of them.

        `task` is the only kind of job that it will meet, for systems that are best tuned to what they run.
        """
        raise NotImplementedError


def stamp(sent: float) -> None:
    """Write when a job was sent and when it started, in one line. Clock: monotonic, the same in all processes."""
    os.write(stamps(), f"{sent!r} {time.monotonic()!r}\n".encode())


@cache
def stamps() -> int:
    return os.open(os.environ["PEERS_STAMPS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def main(driver: Driver) -> None:
    options = parser().parse_args()
    if options.command == "work":
        work(driver, options)
    else:
        print(json.dumps(answer(driver, options)), flush=True)


def parser() -> ArgumentParser:
    parser = ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    fill = commands.add_parser("fill")
    fill.add_argument("task")
    fill.add_argument("jobs", type=int)
    enqueue = commands.add_parser("enqueue")
    enqueue.add_argument("mode", choices=["each", "in_transaction", "bulk"])
    enqueue.add_argument("jobs", type=int)
    enqueue.add_argument("calls", type=int)
    stamps = commands.add_parser("stamps")
    stamps.add_argument("samples", type=int)
    stamps.add_argument("interval", type=float, help="seconds from one job to the next")
    work = commands.add_parser("work")
    work.add_argument("processes", type=int)
    work.add_argument("threads", type=int)
    work.add_argument("task")
    return parser


def answer(driver: Driver, options: Namespace) -> Any:
    match options.command:
        case "setup":
            return timed(driver.setup)
        case "fill":
            return timed(lambda: driver.fill(options.task, options.jobs))
        case "enqueue":
            return enqueue(getattr(driver, f"enqueue_{options.mode}"), options.jobs, options.calls)
        case _:
            return send_stamps(driver, options.samples, options.interval)


def timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def enqueue(action: Callable[[int], None], jobs: int, calls: int) -> float:
    action(WARM_UP)
    return timed(lambda: repeat(lambda: action(jobs), calls))


def repeat(action: Callable[[], None], calls: int) -> None:
    for _ in range(calls):
        action()


def send_stamps(driver: Driver, samples: int, interval: float) -> list[tuple[float, float]]:
    """Enqueue jobs at moments that no other clock's ticks can fall in with; return when each call began and ended."""
    start = time.monotonic()
    calls = []
    for number in range(samples):
        time.sleep(max(0.0, start + (number + JITTER * random.random()) * interval - time.monotonic()))
        sent = time.monotonic()
        driver.enqueue_stamp(sent)
        calls.append((sent, time.monotonic()))
    return calls


def work(driver: Driver, options: Namespace) -> None:
    if options.processes == 1 or driver.starts_processes or CHILD in os.environ:
        driver.work(options.processes, options.threads, options.task)
    else:
        supervise(options.processes)


def supervise(processes: int) -> None:
    """Run this same command in several processes and hand SIGTERM on."""
    module = sys.modules["__main__"].__spec__
    assert module is not None
    command = [sys.executable, "-m", module.name, *sys.argv[1:]]
    children = [subprocess.Popen(command, env=os.environ | {CHILD: "1"}) for _ in range(processes)]

    def hand_on(*_: Any) -> None:
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, hand_on)
    for child in children:
        child.wait()
