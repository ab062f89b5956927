"""Keeps a process's leases: one statement every third of a lease, on a connection of its own."""

import logging
import threading
import time

from django.db import Error as DatabaseFailure
from django.db import connections

from ..exceptions import LeaseLost
from ..leases import Lease
from ..runs import Run
from ..storage import Storage
from .connections import pause_after
from .engine import Engine
from .patience import Patience
from .slots import HEARTBEAT

log = logging.getLogger("jobs")

PROGRESS_SECONDS = 1.0
IDLE_LOOK_SECONDS = 1.0


class Heartbeat:
    """Threads: one of its own; `kept_until` may be read by any."""

    def __init__(self, engine: Engine, store: Storage, interval_seconds: float) -> None:
        self.engine = engine
        self.store = store
        self.interval_seconds = interval_seconds
        self.stopping = threading.Event()
        self.renewed_at = time.monotonic()
        self.due_at = 0.0
        self.strangers: set[tuple[int, int]] = set()
        self.patience = Patience("heartbeat", engine.plan.patience_seconds)
        self.thread = threading.Thread(target=self.run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()

    def run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            self.engine.desk.slots.beat(HEARTBEAT)
            try:
                with self.patience.waiting(self.store.alias):
                    delay = self.tick()
                failures = 0
            except Exception as error:
                failures += 1
                if not isinstance(error, DatabaseFailure):
                    log.exception("heartbeat failed in a way of its own")
                log.warning("heartbeat failed", extra={"error": repr(error), "failures": failures})
                self.store.drop_connection()
                delay = min(pause_after(failures), self.interval_seconds)
            self.stopping.wait(delay)
        connections.close_all()

    def tick(self) -> float:
        """Renew when due, write what running tasks say of themselves, and return the seconds until the next look."""
        now = time.monotonic()
        if not self.engine.held:
            self.due_at = now + self.interval_seconds
            return min(IDLE_LOOK_SECONDS, self.interval_seconds / 4)
        if now >= self.due_at:
            self.beat()
            self.due_at = now + self.interval_seconds
        self.write_progress()
        return min(PROGRESS_SECONDS, max(0.0, self.due_at - time.monotonic()))

    def beat(self) -> None:
        """Renew all leases of this process and act on those that are gone. A locked row is unknown, not gone."""
        asked = dict(self.engine.held)
        asked_at = time.monotonic()
        rows = {row.id: row for row in self.store.renew(self.engine.plan.worker_id, self.engine.plan.lease)}
        running = dict(self.engine.desk.runner.running)
        self.look_for_strangers({(row.id, row.token) for row in rows.values()})
        if all(row.renewed for row in rows.values()):
            self.renewed_at = asked_at
        for lease in asked.values():
            row, run = rows.get(lease.id), running.get(lease.key)
            if row is None or row.token != lease.token:
                self.give_up(lease, run)
            elif run is not None and row.renewed:
                run.kept_since = asked_at
                if row.cancel_requested:
                    ask_to_stop(run)

    def look_for_strangers(self, rows: set[tuple[int, int]]) -> None:
        """Have leases given back that nobody here knows: a claim may commit after its connection was given up.

        Only those seen at two beats: a claim whose reply is on its way is no stranger.
        """
        strangers = rows - set(self.engine.held.copy())
        if strangers & self.strangers:
            self.engine.suspect_leaks()
            self.engine.ring()
        self.strangers = strangers

    def give_up(self, lease: Lease, run: Run | None) -> None:
        """Act on a lease that is gone: what runs is stopped, what waits is not started."""
        if run is None and lease.key not in self.engine.held:
            return  # it was settled while the database was asked
        if run is None:
            self.engine.desk.lost.add(lease.key)
        else:
            lose(run, "its lease was taken back")

    def write_progress(self) -> None:
        for run in list(self.engine.desk.runner.running.values()):
            if (said := run.progress) is not None:
                run.progress = None
                self.store.note_progress(run.lease.worker_id, run.lease.id, run.lease.token, *said)


def lose(run: Run, why: str) -> None:
    """Stop a run whose lease is gone, or may be: what it writes would not count."""
    run.lease_lost = True
    if run.gate.interrupt(LeaseLost(why)):
        log.warning("run interrupted", extra=run.lease.log_fields() | {"why": why})


def ask_to_stop(run: Run) -> None:
    """Pass on that somebody asked for an end: a coroutine is cancelled, a thread has to look."""
    run.cancel_requested = True
    run.cancel()
