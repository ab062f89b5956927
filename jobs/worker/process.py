"""One worker process: it puts an engine, executors, a heartbeat and a watchdog together, and obeys its supervisor.

Started as `python -m jobs.worker.process FDS`, never by hand, or forked from one that has loaded the project's code.
"""

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from .child import BOOT
from .forkserver import Forked, bear, call_itself, why_not_forkable
from .plan import DRAIN, EXIT_CONFIGURATION, EXIT_DONE, EXIT_GRACE_OVER, STOP_NOW, Ends, Plan
from .slots import Slots

log = logging.getLogger("jobs")

REPORT_SECONDS = 0.5
ANNOUNCE_SECONDS = 5.0
YOUNG_OBJECTS = 10_000  # made since the last look for garbage; Python's own is 700
# The engine works in bursts of some milliseconds: a thread whose job wakes up meanwhile waits that long for the
# interpreter, not for Python's own 5 ms.
SWITCH_SECONDS = 0.0005
DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Reporter:
    """Sends what this process counted to its supervisor, from a thread that may block without harm."""

    def __init__(self, descriptor: int, tally: Any) -> None:
        from ..limits import door

        self.door = door
        self.descriptor = descriptor
        self.tally = tally
        self.turned_away = door.counts()  # as far as it was reported; a fork begins with what its parent counted
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="reporter", daemon=True)

    def run(self) -> None:
        self.send({"ready": True})
        while not self.stopping.wait(REPORT_SECONDS):
            self.report()
        self.report()

    def count_turned_away(self) -> None:
        """Count what full queues did not take of the jobs that tasks enqueue here."""
        counts = self.door.counts()
        for (queue_name, how), jobs in counts.items():
            if more := jobs - self.turned_away.get((queue_name, how), 0):
                self.tally.count(how, "", queue_name, more)
        self.turned_away = counts

    def report(self) -> None:
        self.count_turned_away()
        if delta := self.tally.take():
            self.send({"tally": delta})

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except OSError:
            self.stopping.set()  # the supervisor is gone; the end of the other pipe says so too

    def stop(self, seconds: float) -> None:
        self.stopping.set()
        self.thread.join(seconds)
        # What tells an end from a task that called os._exit(0).
        self.send({"goodbye": True})


def load() -> None:
    """Load all that a process runs by beside the project's own code."""
    from ..logs import speak_where_nobody_listens
    from ..storage import storage
    from . import announcer, engine, heartbeat, runner, wakeup, watchdog  # noqa: F401

    speak_where_nobody_listens()
    storage()


class Process:
    def __init__(self, plan: Plan, slots: Slots, orders: Any, report: int) -> None:
        from ..conf import options
        from ..storage import storage
        from ..tally import Tally
        from .announcer import Announcer
        from .engine import Engine
        from .heartbeat import Heartbeat
        from .runner import AsyncRunner
        from .wakeup import Wakeup
        from .watchdog import Watchdog

        self.plan, self.orders = plan, orders
        tally = Tally()
        self.announcer = Announcer()
        runner = AsyncRunner(options())
        runner.refreshed_at = 0.0
        self.engine = Engine(plan, storage(), self.announcer, tally, slots, runner)
        self.heartbeat = Heartbeat(self.engine, storage(), plan.heartbeat_seconds)
        self.wakeup = Wakeup(self.engine, storage())
        self.watchdog = Watchdog(self.engine, self.heartbeat, self.wakeup.patience)
        self.engine.desk.is_kept = self.watchdog.is_kept
        self.reporter = Reporter(report, tally)

    def run(self) -> int:
        threading.Thread(target=self.obey, name="orders", daemon=True).start()
        if self.plan.reload:
            from .reload import when_code_changes

            when_code_changes(lambda: self.engine.drain(self.plan.grace_seconds))
        for part in (self.announcer, self.engine.threads, self.watchdog, self.heartbeat, self.wakeup):
            part.start()
        self.reporter.thread.start()
        clean = self.engine.run()
        # From here on its loops may stand still.
        self.reporter.send({"ending": True})
        self.heartbeat.stop()
        self.wakeup.stop()
        self.announcer.stop(ANNOUNCE_SECONDS)
        self.reporter.stop(1.0)
        return EXIT_DONE if clean else EXIT_GRACE_OVER

    def obey(self) -> None:
        """Take orders until the pipe ends: its end means that the supervisor is gone, and this process with it."""
        for line in self.orders:
            order = line.decode().strip()
            if order == DRAIN:
                self.engine.drain(self.plan.grace_seconds)
            elif order == STOP_NOW:
                self.engine.drain(0)
        if not self.engine.draining:
            log.error("supervisor is gone, this process ends with its jobs", extra={"worker_id": self.plan.worker_id})
        self.engine.drain(self.plan.grace_seconds)


def be_deaf() -> None:
    """Leave signals to the supervisor: a Ctrl-C reaches the whole group and still counts once.

    A handler that does nothing, rather than SIG_IGN, which programs that a task starts would inherit.
    """
    for number in DEAF_TO:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def spare_the_collector(first_collect: bool) -> None:
    """Keep what every process has loaded out of garbage collection, and collect less often.

    A batch of leases is thousands of objects that live for milliseconds and make no cycles; looking through all of
    them, and through Django, took a tenth of a worker's time.
    """
    if first_collect:
        gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()


def tidy_up_while_waiting() -> None:
    """Collect what loading has left, which forks then need not, and keep no connection open meanwhile."""
    from django.db import connections

    connections.close_all()
    gc.collect()
    gc.freeze()
    gc.enable()


def wait_for_plan(ends: Ends) -> tuple[Ends, Any, bytes]:
    """Fork others until a plan comes; return it with what it came by, which in a fork are other ends than those given.

    The plan is empty where none is to come.
    """
    orders = os.fdopen(ends.orders, "rb", buffering=0)
    with socket.socket(fileno=ends.births) as births:
        forks = not why_not_forkable(ends)
        if not select.select([ends.orders], [], [], 0)[0]:
            tidy_up_while_waiting()
            call_itself("jobs-forkserver" if forks else "jobs-spare")
        born = None
        # Either error means that the supervisor is gone, which the end of the orders says too.
        with contextlib.suppress(EOFError, OSError):
            os.write(ends.reports, json.dumps({"loaded": True, "forks": forks}).encode() + b"\n")
            while not born and ends.orders not in select.select([ends.orders, ends.births], [], [])[0]:
                born = bear(births)
    if born:
        orders.close()
        os.close(ends.reports)
        os.close(ends.slots)
        os.close(born.births)
        ends, orders = born, os.fdopen(born.orders, "rb", buffering=0)
        call_itself("jobs-worker")
    return ends, orders, orders.readline()


def live(ends: Ends) -> int:
    """Wait for a plan and work by it; return the exit code."""
    ends, orders, line = wait_for_plan(ends)
    if not line:
        return EXIT_DONE  # one that was never needed, or the supervisor is gone
    call_itself("jobs-worker")
    plan = Plan.from_line(line)
    from .connections import keep_connections

    keep_connections(plan.lease_seconds)
    process = Process(plan, Slots(ends.slots, plan.slots, plan.rings), orders, ends.reports)
    sys.setswitchinterval(SWITCH_SECONDS)
    # Somebody waits for a process for suspects, which does not live for long.
    spare_the_collector(first_collect=not plan.solo)
    return process.run()


def main(argv: list[str]) -> int:
    # What is loaded now is here to stay: looking through it again and again is a sixth of the start.
    gc.disable()
    be_deaf()
    boot = json.loads(os.environ.pop(BOOT))
    sys.path[:] = boot["path"]
    # It was widened only so that this module could be found; programs that a task starts get the original.
    if boot["PYTHONPATH"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = boot["PYTHONPATH"]
    import django

    django.setup()
    load()
    return live(Ends(*map(int, argv[1:])))


def fork_here(ends: Ends, others: list[int]) -> Forked:
    """Fork this process, which has loaded all, into one that waits for its plan as if it had been started anew."""
    flush()
    # A Ctrl-C between the fork and its deafness would end it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF_TO)
    try:
        if pid := os.fork():
            return Forked(pid)
        run_and_leave(lambda: wake_up(ends, others))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wake_up(ends: Ends, others: list[int]) -> int:
    signal.set_wakeup_fd(-1)
    be_deaf()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEAF_TO)
    for descriptor in others:
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return live(ends)


def run_and_leave(act: Callable[[], int]) -> NoReturn:
    code = EXIT_CONFIGURATION
    try:
        try:
            code = act()
        except BaseException:
            traceback.print_exc()
        logging.shutdown()
        flush()
    finally:
        # Threads may still be inside tasks: leaving through the interpreter would wait for them, or run their finally
        # blocks while another worker may already own their jobs. A fork would go on in the program that it is one of.
        os._exit(code)


def flush() -> None:
    """Write out what was printed, where there is something to print to."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


if __name__ == "__main__":
    run_and_leave(lambda: main(sys.argv))
