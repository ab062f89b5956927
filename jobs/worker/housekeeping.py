"""What a tree does besides running jobs: promote what is due, reap, show its presence, prune; and what its supervisor
needs of the database, so that a lost database never blocks the supervisor itself."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import Error as DatabaseFailure
from django.db import connections
from django.db.models import Exists, OuterRef, Q
from django.db.utils import OperationalError

from .. import lifecycle, limits, schedules
from ..concurrency import let_in
from ..conf import Options
from ..models import Queue, Worker
from ..outcomes import Settlement
from ..states import State
from ..storage import ANY_QUEUE, Pulse, ReadyQueue, Storage, is_locked
from .announcer import announce_all
from .connections import pause_after
from .patience import Patience

log = logging.getLogger("jobs")

PROMOTED_AT_ONCE = 1000
IDLE_SECONDS = 1.5  # a job scheduled meanwhile, or a lease that expired, waits so long
SHORTEST_SECONDS = 0.02  # jobs that are due one after another are promoted together
QUEUES_SECONDS = 5.0  # how often queues are looked at for suspects and for names without a row
DRAINING_LOOK_SECONDS = 1.0
KEYS_AT_ONCE = 500  # concurrency keys that are looked at, at each beat
SHOW_SECONDS = 20.0  # a worker silent for a minute counts as gone
PRUNE_SECONDS = 60.0
PRUNED_AT_ONCE, SMALLEST_PRUNE = 2000, 50
KEPT_TICKS = timedelta(days=7)
SYNC_SECONDS = 60.0
FORGET_SECONDS = 600.0
FORGOTTEN = timedelta(hours=1)  # a worker not seen for so long leaves the list
SOON = timedelta(seconds=5)
DRAIN_LOOK_SECONDS = 0.1


@dataclass
class Presence:
    """A process to show in the list of workers."""

    worker_id: str
    pid: int
    threads: int


@dataclass
class Findings:
    """What the supervisor reads without asking the database itself."""

    suspects_wait: bool = False
    drained: bool = False
    left: dict[str, int] = field(default_factory=dict)


class Trust:
    """Whether this reaper may act: only after it has itself been able to write for a heartbeat without interruption.

    After an outage, or after this process was paused, holders renew before anybody reaps.
    """

    def __init__(self, needed_seconds: float) -> None:
        self.needed_seconds = needed_seconds
        self.since: float | None = None
        self.last: float | None = None

    def wrote(self, now: float) -> None:
        longest_gap = max(3.0, self.needed_seconds / 2)
        if self.since is None or self.last is None or now - self.last > longest_gap:
            self.since = now
        self.last = now

    def failed(self) -> None:
        self.since = None

    def is_earned(self, now: float) -> bool:
        return self.since is not None and now - self.since >= self.needed_seconds


class Housekeeping:
    """Threads: one of its own; `chore`, `findings` and `presences` are shared with the supervisor."""

    def __init__(
        self,
        store: Storage,
        options: Options,
        *,
        tree: str,
        hostname: str,
        queues: Collection[str],
        heartbeat_seconds: float,
        patience_seconds: float = 15.0,
        drain: bool,
        on_settled: Callable[[list[Settlement]], None] = lambda settlements: None,
    ) -> None:
        self.store, self.options = store, options
        self.tree, self.hostname, self.queues, self.drain = tree, hostname, list(queues), drain
        self.on_settled = on_settled
        self.heartbeat_seconds = heartbeat_seconds
        self.findings = Findings()
        self.presences: dict[str, Presence] = {}
        self.chores: queue.SimpleQueue[Callable[[], list[Settlement]]] = queue.SimpleQueue()
        self.trust = Trust(heartbeat_seconds)
        self.patience = Patience("housekeeping", patience_seconds)
        self.bell = threading.Event()
        self.stopping = False
        self.look_at = self.show_at = self.forget_at = 0.0
        self.prune_at = time.monotonic() + 5.0
        self.pruned_to, self.prune_batch = 0, PRUNED_AT_ONCE
        self.let_in_to = ""
        self.keeper = schedules.Keeper()
        self.has_followed = False
        self.sync_at = 0.0  # the rows of schedules with what code declares
        self.thread = threading.Thread(target=self.run, name="housekeeping", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Have its thread end after the chores that are left."""
        self.stopping = True
        self.bell.set()

    def chore(self, act: Callable[[], list[Settlement]]) -> None:
        """Do this as soon as the database allows, and not before it has succeeded."""
        self.chores.put(act)
        self.bell.set()

    def run(self) -> None:
        failures = 0
        while True:
            self.bell.clear()
            try:
                with self.patience.waiting(self.store.alias):
                    delay = self.tick()
                failures = 0
            except Exception as error:
                failures += 1
                if not isinstance(error, DatabaseFailure):
                    log.exception("housekeeping failed in a way of its own")
                self.trust.failed()
                log.warning("housekeeping failed", extra={"error": repr(error), "failures": failures})
                self.store.drop_connection()
                delay = pause_after(failures)
            if self.stopping and self.chores.empty():
                break
            self.bell.wait(delay)
        self.leave()
        connections.close_all()

    def tick(self) -> float:
        now = time.monotonic()
        self.do_chores()
        if self.stopping:
            return 0.05
        if not self.has_followed:  # the database may not have answered when the tree began
            self.follow_settings()
        self.patience.again()
        pulse = self.store.pulse(PROMOTED_AT_ONCE)
        if pulse.promoted:
            self.store.notify(ANY_QUEUE)
        self.trust.wrote(time.monotonic())
        if now >= self.look_at or pulse.promoted:
            self.look_at = now + (DRAINING_LOOK_SECONDS if self.drain else QUEUES_SECONDS)
            self.look_at_queues()
        if now >= self.show_at:
            # Before it is done: a process that starts meanwhile asks for another.
            self.show_at = now + min(self.heartbeat_seconds, SHOW_SECONDS)
            self.show()
        if pulse.has_expired_leases and self.trust.is_earned(now):
            self.reap()
        expired = lifecycle.expire() if pulse.has_expired_jobs else []
        self.settled(expired)
        # Those first that are news: the others have their turn.
        let_in(pulse.promoted_keys)
        if pulse.has_blocked_jobs or pulse.promoted:
            self.let_in()
        if not self.drain:
            pulse = self.enqueue_due(pulse)
        if now >= self.prune_at:
            self.patience.again()
            self.prune(now)
        if len(expired) == lifecycle.BATCH:
            return 0.0  # after what else there is to do at a beat
        if self.drain:
            self.look_for_the_end()
            return DRAIN_LOOK_SECONDS
        return self.pause_after(pulse)

    def pause_after(self, pulse: Pulse) -> float:
        """Return the seconds until the next beat: when the next job is due, and in any case soon."""
        if pulse.promoted == PROMOTED_AT_ONCE:
            return 0.0
        longest = min(IDLE_SECONDS, 1.5 * self.options.poll_interval.total_seconds())
        due = [then.total_seconds() for then in (pulse.next_due, pulse.next_tick) if then is not None]
        return min(longest, max(SHORTEST_SECONDS, min(due, default=longest)))

    def do_chores(self) -> None:
        while True:
            try:
                act = self.chores.get_nowait()
            except queue.Empty:
                return
            self.patience.again()
            try:
                self.settled(act())
            except Exception:
                self.chores.put(act)
                raise

    def settled(self, settlements: list[Settlement]) -> None:
        if settlements:
            announce_all(settlements)
            self.on_settled(settlements)
            self.store.notify(ANY_QUEUE)
            if any(s.suspect and s.state == State.READY for s in settlements):
                self.findings.suspects_wait = True

    def reap(self) -> None:
        while reaped := lifecycle.reap():
            self.patience.again()
            workers = sorted({s.lease.worker_id for s in reaped})
            log.warning("leases reaped", extra={"jobs": len(reaped), "workers": workers})
            self.settled(reaped)
            if len(reaped) < lifecycle.BATCH:
                return

    def let_in(self) -> None:
        """Hand slots out that somebody has freed, or that nobody has taken, and died before he could do it.

        Some keys at each beat, the next ones at the next.
        """
        keys = self.store.blocked_keys(self.let_in_to, KEYS_AT_ONCE)
        self.let_in_to = keys[-1] if len(keys) == KEYS_AT_ONCE else ""
        let_in(keys)

    def enqueue_due(self, pulse: Pulse) -> Pulse:
        """Enqueue what schedules are due for; return the pulse with the next time that this worker can do it for."""
        if (now := time.monotonic()) >= self.sync_at:
            self.sync_at = now + SYNC_SECONDS
            if self.sync():
                return pulse._replace(next_tick=timedelta())
        if pulse.next_tick is None or pulse.next_tick > timedelta():
            return pulse
        self.patience.again()
        # What has been due is left to others, or is looked at again at the next beat.
        return pulse._replace(next_tick=timedelta() if self.keeper.enqueue_due() else None)

    def sync(self) -> bool:
        """Let schedules follow the code; return whether any did. Code that cannot be loaded must stop nothing else."""
        try:
            declared = schedules.declarations()
        except (Exception, SystemExit):
            log.exception("schedules in code could not be read")
            return False
        return schedules.sync(declared)

    def follow_settings(self) -> None:
        """Pause what the settings pause; while somebody has a row locked, all else goes on."""
        try:
            lifecycle.follow_settings()
        except OperationalError as error:
            if not is_locked(error):
                raise
        else:
            self.has_followed = True

    def look_at_queues(self) -> None:
        ready = self.store.ready_queues()
        self.findings.suspects_wait = any(queue.has_suspects and self.serves(queue) for queue in ready)
        if unlisted := [queue.name for queue in ready if queue.unlisted]:
            self.store.list_queues(unlisted)

    def serves(self, queue: ReadyQueue) -> bool:
        return not queue.paused and (not self.queues or queue.name in self.queues)

    # Presence

    def show(self) -> None:
        """Write which processes of this tree are alive, and forget workers that nobody has seen for long."""
        moment = self.store.now()
        workers = self.store.rows(Worker)
        for presence in list(self.presences.values()):
            if not workers.filter(worker_id=presence.worker_id).update(last_seen_at=moment):
                workers.create(
                    worker_id=presence.worker_id,
                    tree=self.tree,
                    hostname=self.hostname,
                    pid=presence.pid,
                    queues=self.queues,
                    threads=presence.threads,
                    started_at=moment,
                    last_seen_at=moment,
                )
        if time.monotonic() >= self.forget_at:
            self.forget_at = time.monotonic() + FORGET_SECONDS
            workers.filter(tree=self.tree).exclude(worker_id__in=list(self.presences)).delete()
            workers.filter(last_seen_at__lt=moment - FORGOTTEN).delete()

    def present(self, presence: Presence) -> None:
        self.presences[presence.worker_id] = presence
        self.show_at = 0.0
        self.bell.set()

    def absent(self, worker_id: str) -> None:
        """Take a process off the list. Threads: housekeeping's own, in a chore."""
        self.store.rows(Worker).filter(worker_id=worker_id).delete()
        self.presences.pop(worker_id, None)

    def leave(self) -> None:
        try:
            self.store.rows(Worker).filter(tree=self.tree).delete()
        except DatabaseFailure as error:
            log.warning("presence not removed", extra={"error": repr(error)})

    # Prune

    def prune(self, now: float) -> None:
        """Take one step of the walk over old rows; a full walk starts again after a pause."""
        keep = dict(self.options.retention)
        # Should it fail or take too long, the next step comes later and is smaller.
        batch, self.prune_batch = self.prune_batch, max(SMALLEST_PRUNE, self.prune_batch // 4)
        self.prune_at = now + PRUNE_SECONDS
        deleted, place = self.store.prune_jobs(self.pruned_to, batch, keep)
        self.patience.again()
        records = self.store.prune_records(batch)
        ticks = self.store.prune_ticks(batch, KEPT_TICKS)
        # Once a walk: each queue is asked for.
        grants = 0 if self.pruned_to else self.store.prune_grants(batch, limits.slowed())
        self.prune_batch = min(PRUNED_AT_ONCE, 2 * batch)
        deleted += records + ticks + grants
        self.pruned_to = place or 0
        self.prune_at = now + (1.0 if place or batch in (records, ticks, grants) else PRUNE_SECONDS)
        if deleted:
            log.info("pruned", extra={"rows": deleted})

    # Drain

    def look_for_the_end(self) -> None:
        """Note whether anything is left that this tree may run: one statement, so that no job slips between two."""
        jobs = self.store.jobs
        if self.queues:
            jobs = jobs.filter(queue_name__in=self.queues)
        paused = list(self.store.rows(Queue).filter(paused=True).values_list("name", flat=True))
        moment = self.store.now()
        mine = Q(state=State.RUNNING, leased_by__in=list(self.presences))
        abandoned = Q(state=State.RUNNING, lease_expires_at__lt=moment)
        ready = Q(state=State.READY, blocked=False) & ~Q(queue_name__in=paused)
        # A job that waits for its turn behind one that nobody here may run has to be left.
        elsewhere = Q(queue_name__in=paused) | (~Q(queue_name__in=self.queues) if self.queues else Q(pk=None))
        in_its_way = self.store.jobs.ready().filter(elsewhere, concurrency_key=OuterRef("concurrency_key"))
        waits = Q(state=State.READY, blocked=True) & ~Q(queue_name__in=paused) & Q(~Exists(in_its_way))
        soon = Q(state=State.SCHEDULED, run_after__lt=moment + SOON, held_since=None) & ~Q(queue_name__in=paused)
        if not jobs.filter(mine | abandoned | ready | waits | soon).exists():
            self.findings.left = self.left_over()
            self.findings.drained = True

    def left_over(self) -> dict[str, int]:
        """Count what stays, 10,000 of each at most."""
        jobs: Any = self.store.jobs
        kinds = {
            "scheduled for later": jobs.scheduled(),
            "ready in paused or other queues": jobs.ready(),
            "running elsewhere": jobs.running(),
            "waiting for their turn": jobs.blocked(),
        }
        return {kind: n for kind, found in kinds.items() if (n := found.values("pk")[:10_000].count())}
