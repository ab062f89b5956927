"""Watches running attempts against this host's monotonic clock: their timeouts, and leases that could not be renewed.

It needs no database, so that it works when the database does not.
"""

import logging
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..exceptions import TimedOut
from ..leases import Lease
from ..runs import Run, ThreadGate
from .connections import connections_of
from .engine import REST_SECONDS, Engine
from .heartbeat import Heartbeat, lose
from .patience import Patience, end_soon
from .slots import ENGINE, HEARTBEAT, WATCHDOG

log = logging.getLogger("jobs")

LOOK_SECONDS = 0.1
IDLE_LOOK_SECONDS = 1.0  # with nothing to watch but the loops; the engine rouses it when there is more
WEIGH_SECONDS = 1.0
# A run whose lease was not renewed stops while a sixth of the lease is left.
MARGIN = 1 / 6


class Watchdog:
    def __init__(self, engine: Engine, heartbeat: Heartbeat, *others: Patience) -> None:
        self.engine, self.heartbeat = engine, heartbeat
        self.patiences = (engine.patience, heartbeat.patience, *others)
        self.weigh_at = 0.0
        # Since when runs have been interrupted, with the connections that they had then.
        self.unreached: dict[tuple[int, int], tuple[float, list[Any]]] = {}
        self.sure_seconds = engine.plan.lease_seconds * (1 - MARGIN)
        # A task that has ignored its timeout for this long makes its process take nothing new.
        self.patience_seconds = min(1.0, engine.plan.timeout_grace_seconds / 2)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="watchdog", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.engine.roused.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            self.engine.roused.wait(self.tick())
            self.engine.roused.clear()

    def tick(self) -> float:
        """Interrupt what is over its time and return the seconds until the next look."""
        now = time.monotonic()
        self.engine.desk.slots.beat(WATCHDOG)
        for patience in self.patiences:
            patience.look(now)
        self.vouch(now)
        if self.engine.plan.max_memory and now >= self.weigh_at and self.engine.pace.mean is not None:
            self.weigh_at = now + WEIGH_SECONDS
            self.weigh(self.engine.plan.max_memory)
        runs = list(self.engine.desk.runner.running.values())
        for run in runs:
            self.check(run, now)
        if self.unreached:
            self.unreached = {run.key: self.unreached[run.key] for run in runs if run.key in self.unreached}
        stuck = any(run.deadline and now > run.deadline + self.patience_seconds for run in runs)
        if stuck != self.engine.retired:
            self.engine.retired = stuck
            self.engine.ring()
        nearest = min((run.deadline - now for run in runs if run.deadline and run.deadline > now), default=LOOK_SECONDS)
        # Not yet when the engine would no longer rouse it.
        return IDLE_LOOK_SECONDS if self.engine.has_rested(2 * REST_SECONDS) else min(LOOK_SECONDS, nearest)

    def vouch(self, now: float) -> None:
        """Let a loop that waits for what ends by itself count as going on: a slow name server loses no outcomes."""
        for loop, patience in ((ENGINE, self.engine.patience), (HEARTBEAT, self.heartbeat.patience)):
            if patience.is_excused(now):
                self.engine.desk.slots.beat(loop)

    def weigh(self, most: int) -> None:
        """Have the process end when it has taken too much memory, once all that it holds is done."""
        if not self.engine.draining and (taken := resident_mib()) > most:
            told = {"worker_id": self.engine.plan.worker_id, "mib": taken, "max_memory": most}
            log.warning("process has taken its memory, and is replaced once its jobs are done", extra=told)
            self.engine.draining = True
            self.engine.ring()

    def check(self, run: Run, now: float) -> None:
        if run.deadline and now >= run.deadline:
            run.gate.interrupt(TimedOut(f"ran longer than its timeout of {run.timeout_seconds:g} s"))
        if now >= self.kept_until(run.lease, run.kept_since):
            lose(run, "its lease could not be renewed in time")
        if run.gate.error is not None and isinstance(run.gate, ThreadGate):
            self.reach(run, run.gate, now)

    def reach(self, run: Run, gate: ThreadGate, now: float) -> None:
        """Hang up for a run whose interruption does not arrive: its own connection may have fallen silent.

        Its process would be replaced for it soon. Its connections are given up after an interruption anyway.
        """
        began_at, its_own = self.unreached.setdefault(run.key, (now, connections_of(gate.thread_id)))
        if gate.sent and now - began_at > self.engine.plan.timeout_grace_seconds / 2:
            while its_own:
                end_soon(its_own.pop())

    def kept_until(self, lease: Lease, kept_since: float) -> float:
        """Return until when, in monotonic seconds, nobody else can own the job."""
        if lease.claimed_monotonic <= self.heartbeat.renewed_at:
            # It was renewed while it waited to start.
            kept_since = max(kept_since, self.heartbeat.renewed_at)
        return kept_since + self.sure_seconds

    def is_kept(self, lease: Lease, now: float) -> bool:
        """Say whether a lease that waits to start is surely ours: after a pause or an outage it may not be."""
        if now < lease.claimed_monotonic + self.sure_seconds:
            return True
        return now < self.kept_until(lease, lease.claimed_monotonic)


def resident_mib() -> int:
    """Return the memory that this process has now; where the system does not tell, the most that it has had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() >> 20
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most >> 20 if sys.platform == "darwin" else most >> 10
