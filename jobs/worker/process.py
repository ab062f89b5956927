"""One worker process: it puts an engine, executors, a heartbeat and a watchdog together, and obeys its supervisor.

Started as `python -m jobs.worker.process FDS`, never by hand.
"""

import contextlib
import gc
import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from typing import Any

from .plan import DRAIN, EXIT_CONFIGURATION, EXIT_DONE, EXIT_GRACE_OVER, STOP_NOW, Plan
from .slots import Slots

log = logging.getLogger("jobs")

REPORT_SECONDS = 0.5
ANNOUNCE_SECONDS = 5.0
YOUNG_OBJECTS = 10_000  # made since the last look for garbage; Python's own is 700
# The engine works in bursts of some milliseconds: a thread whose job wakes up meanwhile waits that long for the
# interpreter, not for Python's own 5 ms.
SWITCH_SECONDS = 0.0005


class Reporter:
    """Sends what this process counted to its supervisor, from a thread that may block without harm."""

    def __init__(self, descriptor: int, tally: Any) -> None:
        self.descriptor = descriptor
        self.tally = tally
        self.turned_away: dict[tuple[str, str], int] = {}  # as far as it was reported
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="reporter", daemon=True)

    def run(self) -> None:
        self.send({"ready": True})
        while not self.stopping.wait(REPORT_SECONDS):
            self.report()
        self.report()

    def count_turned_away(self) -> None:
        """Count what full queues did not take of the jobs that tasks enqueue here."""
        from ..limits import door

        counts = door.counts()
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
    """Load the project and all that a process runs by: what takes nine tenths of a start, and needs no plan."""
    import django

    django.setup()
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
        self.engine.drain(self.plan.grace_seconds)


def be_deaf() -> None:
    """Leave signals to the supervisor: a Ctrl-C reaches the whole group and still counts once.

    A handler that does nothing, rather than SIG_IGN, which programs that a task starts would inherit.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


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
    """Nobody waits for a spare: collect what loading has left now, and keep no connection open meanwhile."""
    from django.db import connections

    connections.close_all()
    gc.collect()
    gc.freeze()
    gc.enable()


def main(argv: list[str]) -> int:
    # What is loaded now is here to stay: looking through it again and again is a sixth of the start.
    gc.disable()
    be_deaf()
    orders_fd, report_fd, slots_fd = (int(number) for number in argv[1:4])
    orders = os.fdopen(orders_fd, "rb", buffering=0)
    boot = json.loads(orders.readline())
    sys.path[:] = boot["path"]
    # It was widened only so that this module could be found; programs that a task starts get the original.
    if boot["PYTHONPATH"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = boot["PYTHONPATH"]
    load()
    with contextlib.suppress(OSError):  # the supervisor may be gone: the end of the other pipe says so too
        os.write(report_fd, b'{"loaded": true}\n')
    if not select.select([orders], [], [], 0)[0]:
        tidy_up_while_waiting()
    if not (line := orders.readline()):
        return EXIT_DONE  # a spare that was never needed, or the supervisor is gone
    plan = Plan.from_line(line)
    from .connections import keep_connections

    keep_connections(plan.lease_seconds)
    process = Process(plan, Slots(slots_fd, plan.slots, plan.rings), orders, report_fd)
    sys.setswitchinterval(SWITCH_SECONDS)
    # Somebody waits for a process for suspects, which does not live for long.
    spare_the_collector(first_collect=not plan.solo)
    return process.run()


if __name__ == "__main__":
    code = EXIT_CONFIGURATION
    try:
        code = main(sys.argv)
    except BaseException:
        traceback.print_exc()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads may still be inside tasks: leaving through the interpreter would wait for them, or run their finally
    # blocks while another worker may already own their jobs.
    os._exit(code)
