"""The engine of a process: one thread and one connection that claim for all executors and write all their outcomes."""

import logging
import random
import threading
import time
from collections.abc import Sequence

from django.db import Error as DatabaseFailure
from django.db import connections
from django.db.utils import InterfaceError, OperationalError

from ..leases import Lease
from ..outcomes import ErrorReport, Failed, Outcome, Released, Settlement, Succeeded
from ..states import Reason
from ..storage import Storage
from ..tally import Tally
from ..verdicts import settlement
from ..wake import WINDOW_SECONDS
from .announcer import Announcer
from .connections import pause_after
from .executors import Desk, Loop, Threads
from .pace import Pace
from .plan import Plan
from .rota import Rota
from .runner import Finished, is_async

log = logging.getLogger("jobs")

BATCH = 500
BUSY_SECONDS = 0.05  # how long an outcome may wait for company
LOOK_SECONDS = 0.005  # how often a worker that was just woken looks
RESCAN_SECONDS = 0.25  # how often a busy worker asks which queues have work
STALE_SECONDS = 1.0  # how long the buffer may stand still before it is given back
IDLE_FACTOR = 5  # an idle worker polls up to so many times less often


class Engine:
    """Moves leases from the database to executors, and outcomes back.

    Threads: `run` has its own; `ring`, `drain` and `woken` may be called by any.
    """

    def __init__(self, plan: Plan, store: Storage, announcer: Announcer, tally: Tally) -> None:
        self.plan, self.store, self.announcer, self.tally = plan, store, announcer, tally
        self.bell = threading.Event()
        self.rota = Rota(frozenset(plan.queues), plan.solo)
        self.pace = Pace()
        self.desk: Desk
        self.threads: Threads
        self.loop: Loop
        self.held: dict[tuple[int, int], Lease] = {}
        self.unwritten: list[Finished] = []
        self.claimed = 0  # net of what was released: what counts against max_jobs
        self.failures = 0
        self.leak_suspected = False
        self.coroutines_seen = False  # in the newest claim
        self.claimed_at = 0.0
        self.draining = False
        self.retired = False  # a job ignores its timeout: nothing new starts here
        self.drain_by = float("inf")
        self.look_until = 0.0
        self.scanned_at = 0.0
        self.idle_seconds = plan.poll_seconds
        self.poll_at = 0.0
        self.idle_since = time.monotonic()

    def attach(self, desk: Desk, threads: Threads, loop: Loop) -> None:
        self.desk, self.threads, self.loop = desk, threads, loop

    # What other threads say

    def ring(self) -> None:
        self.bell.set()

    def woken(self) -> None:
        """There may be new work: look now, and keep looking for as long as a notification may have been swallowed."""
        self.look_until = time.monotonic() + 2 * WINDOW_SECONDS
        self.poll_at = 0.0
        self.bell.set()

    def drain(self, grace_seconds: float) -> None:
        """Claim nothing more, give back what has not started, and end when the rest is done or the grace is over."""
        self.drain_by = min(self.drain_by, time.monotonic() + grace_seconds)
        self.draining = True
        self.bell.set()

    # The loop

    def run(self) -> bool:
        """Work until drained. Returns whether everything that was claimed has been settled."""
        while True:
            self.bell.clear()
            try:
                delay = self.tick()
                self.failures = 0
            except DatabaseFailure as error:
                delay = self.recover(error)
            if self.draining and (not self.held or time.monotonic() >= self.drain_by):
                return self.last_words()
            self.bell.wait(min(delay, max(0.0, self.drain_by - time.monotonic())))

    def tick(self) -> float:
        """Write what is finished, claim what there is room for, and return the seconds until the next look."""
        self.settle_finished()
        if self.leak_suspected:
            self.release_leaked()
        if self.draining or self.retired:
            self.release(self.threads.take_unstarted() + self.loop.take_unstarted())
            return BUSY_SECONDS
        if not self.release_stale():
            self.claim()
        return self.delay()

    def delay(self) -> float:
        now = time.monotonic()
        if now < self.look_until:
            return LOOK_SECONDS
        if self.held:
            self.idle_since = now
            return BUSY_SECONDS
        if self.has_served():
            self.draining = True
        return max(0.0, self.poll_at - now)

    def has_served(self) -> bool:
        """Say whether this process, with nothing in hand, has done what it was started for."""
        if self.plan.max_jobs is not None and self.claimed >= self.plan.max_jobs:
            return True
        return self.plan.solo and time.monotonic() - self.idle_since > self.plan.poll_seconds

    def recover(self, error: DatabaseFailure) -> float:
        """Drop the connection, forget nothing, and return how long to wait before trying again."""
        self.failures += 1
        log.warning("database failed", extra={"error": repr(error), "failures": self.failures})
        # A claim whose reply was lost has leased jobs that nobody here knows of.
        self.leak_suspected = True
        connections[self.store.alias].close()
        return pause_after(self.failures)

    # Claim

    def claim(self) -> None:
        now = time.monotonic()
        room = self.room()
        if room <= 0:
            return
        if self.rescan_is_due(now):
            self.rota.update(self.store.ready_queues())
            self.scanned_at = now
        got = 0
        for _ in range(len(self.rota.turns)):
            name = self.rota.next()
            share = max(1, min(room, max(room // len(self.rota.turns), 50)))
            leases = self.store.claim(self.plan.worker_id, name, share, self.plan.lease, self.plan.solo)
            self.begin(leases)
            got += len(leases)
            room -= len(leases)
            if len(leases) < share:
                self.rota.drop(name)
            if room <= 0:
                break
        self.poll_next(now, got)

    def rescan_is_due(self, now: float) -> bool:
        if self.rota.turns:
            return now - self.scanned_at >= RESCAN_SECONDS
        return now >= self.poll_at or now < self.look_until

    def poll_next(self, now: float, got: int) -> None:
        """Poll at once while there is work, else ever less often, each worker at its own moments."""
        if got or self.rota.turns:
            self.idle_seconds = self.plan.poll_seconds
            self.poll_at = now
        elif now >= self.poll_at:
            self.idle_seconds = min(self.idle_seconds * 1.5, self.plan.poll_seconds * IDLE_FACTOR)
            self.poll_at = now + self.idle_seconds * random.uniform(0.75, 1.25)

    def room(self) -> int:
        """Return how many more jobs this process may hold. A slot is free only when its outcome is written."""
        ahead = self.pace.ahead(self.plan.threads) + self.async_share()
        limit = 1 if self.plan.solo else self.plan.threads + ahead
        if self.plan.max_jobs is not None:
            limit = min(limit, len(self.held) + self.plan.max_jobs - self.claimed)
        return min(BATCH, limit - len(self.held))

    def async_share(self) -> int:
        """Return how many coroutines may be held beside the threads' jobs, as long as coroutines keep coming."""
        return self.plan.async_slots if self.coroutines_seen else self.loop.held

    def begin(self, leases: list[Lease]) -> None:
        self.claimed += len(leases)
        if leases:
            self.coroutines_seen = False
            self.claimed_at = time.monotonic()
        for lease in leases:
            self.held[lease.key] = lease
            if is_async(lease):
                self.coroutines_seen = True
                self.loop.put(lease)
            else:
                self.threads.buffer.put(lease)

    # Settle

    def settle_finished(self) -> None:
        while self.unwritten or self.desk.finished:
            while self.desk.finished and len(self.unwritten) < BATCH:
                self.unwritten.append(self.desk.finished.popleft())
            batch = self.next_batch()
            self.write(batch)
            del self.unwritten[: len(batch)]

    def next_batch(self) -> list[Finished]:
        """Return the oldest outcomes, at most one of each job: a stale run may end beside its successor."""
        seen: set[int] = set()
        for place, finished in enumerate(self.unwritten[:BATCH]):
            if finished.lease.id in seen:
                return self.unwritten[:place]
            seen.add(finished.lease.id)
        return self.unwritten[:BATCH]

    def write(self, batch: Sequence[Finished]) -> None:
        """Settle outcomes. One that the database refuses to store must not hold up its neighbours."""
        rows = {finished.lease.id: row_for(finished) for finished in batch}
        pending = [rows[finished.lease.id] for finished in batch if not finished.settled]
        try:
            accepted = self.store.settle(pending)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            log.exception("batch of outcomes refused")
            accepted = {s.lease.id for s in pending if self.settle_alone(s)}
        accepted |= {finished.lease.id for finished in batch if finished.settled}
        self.close(batch, rows, accepted)

    def settle_alone(self, row: Settlement) -> bool:
        try:
            return bool(self.store.settle([row]))
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            report = ErrorReport.of(error)
            refused = Failed(report, reason=Reason.PERMANENT_ERROR)
            return bool(self.store.settle([settlement(row.lease, refused, row.started_at, row.lease.claimed_at)]))

    def close(self, batch: Sequence[Finished], rows: dict[int, Settlement], accepted: set[int]) -> None:
        lost = []
        for finished in batch:
            lease = finished.lease
            if lease.id in accepted:
                continue
            if self.store.was_settled(lease.id, lease.token):
                # An earlier try went through and only its reply was lost; what it wrote may be another outcome.
                stored = self.store.jobs.filter(pk=lease.id).values_list("state", flat=True).first()
                if stored == rows[lease.id].state:
                    accepted.add(lease.id)
            else:
                lost.append(lease)
        for finished in batch:
            self.held.pop(finished.lease.key, None)
            self.desk.lost.discard(finished.lease.key)
        written = [finished for finished in batch if finished.lease.id in accepted]
        self.announcer.put([(rows[f.lease.id], f.outcome) for f in written], lost)
        self.count(written, rows, lost)

    def count(self, written: Sequence[Finished], rows: dict[int, Settlement], lost: Sequence[Lease]) -> None:
        ran = [f for f in written if f.started is not None]
        self.pace.observe(sum(f.finished - f.started for f in ran if f.started is not None), len(ran))
        self.claimed -= sum(1 for f in written if f.started is None and isinstance(f.outcome, Released))
        for finished in written:
            lease = finished.lease
            for event in events_of(finished.outcome, rows[lease.id]):
                self.tally.count(event, lease.task_path, lease.queue_name)
            if finished.started is not None:
                self.tally.observe_run(lease.task_path, finished.finished - finished.started)
                started_at = lease.database_time(finished.started)
                self.tally.observe_wait(lease.task_path, (started_at - lease.ready_at).total_seconds())
        for lease in lost:
            self.tally.count("lease_lost", lease.task_path, lease.queue_name)

    # Give back

    def release(self, leases: Sequence[Lease]) -> None:
        """Give back what has not started, with nothing charged."""
        now = time.monotonic()
        self.unwritten.extend(Finished(lease, Released(), None, now) for lease in leases)
        if leases:
            self.settle_finished()

    def release_stale(self) -> bool:
        """Give back what stands behind slow jobs: another worker may be free."""
        waiting = self.threads.buffer.qsize()
        still = time.monotonic() - max(self.desk.last_start, self.claimed_at) > STALE_SECONDS
        excess = waiting > 2 * self.pace.ahead(self.plan.threads) + self.plan.threads
        if not waiting or not (still or excess):
            return False
        # What is given back because of slow jobs must not be claimed again by the next breath.
        self.pace.stall()
        self.release(self.threads.take_unstarted())
        return True

    def release_leaked(self) -> None:
        """Give back what a lost reply hid: rows leased to this worker that it does not know."""
        with self.store.atomic():
            mine = self.store.held_by(self.plan.worker_id, 10 * BATCH)
            leaked = [lease for lease in mine if lease.key not in self.held]
            self.store.settle([settlement(lease, Released(), None, lease.claimed_at) for lease in leaked])
        self.leak_suspected = False

    def last_words(self) -> bool:
        """Write what can be written before the process ends."""
        try:
            self.settle_finished()
        except DatabaseFailure as error:
            log.error("outcomes not written", extra={"error": repr(error), "outcomes": len(self.unwritten)})
        return not self.held


def row_for(finished: Finished) -> Settlement:
    lease = finished.lease
    started_at = None if finished.started is None else lease.database_time(finished.started)
    return settlement(lease, finished.outcome, started_at, lease.database_time(finished.finished))


def events_of(outcome: Outcome, row: Settlement) -> list[str]:
    """Return what the metrics count an outcome as."""
    if isinstance(outcome, Succeeded):
        return ["succeeded"]
    events = [type(outcome).__name__.lower()] if not row.death or row.attempt else []
    if row.death:
        return [*events, "dead"]
    return [*events, "retried"] if isinstance(outcome, Failed) else events
