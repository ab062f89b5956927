"""The engine of a process: one thread and one connection that claim for all executors and write all their outcomes."""

import logging
import random
import threading
import time
from collections.abc import Collection
from datetime import timedelta

from django.db import Error as DatabaseFailure
from django.db.utils import OperationalError

from ..leases import Lease
from ..limits import limits_of
from ..outcomes import Released
from ..storage import ANY_QUEUE, Claim, Storage, Taken, is_locked
from ..tally import Tally
from ..verdicts import settlement
from ..wake import WINDOW_SECONDS
from .announcer import Announcer
from .claimer import Claimer
from .connections import pause_after
from .executors import FLUSH_AT, Desk, Loop, Threads
from .patience import Patience
from .plan import BATCH, Plan
from .runner import AsyncRunner, is_async
from .settler import Settler
from .slots import ENGINE, Slots

log = logging.getLogger("jobs")

BUSY_SECONDS = 0.05  # how long an outcome may wait for company
LOOK_SECONDS = 0.005  # how often a worker that was just woken looks
LONGEST_REST_SECONDS = 2.5  # however seldom it polls, others see that it goes on
LEAK_LOOK_SECONDS = 2.0
REST_SECONDS = 1.0  # with nothing in hand, until others may rest too
STALE_SECONDS = 1.0  # how long a lease may wait for a thread before it is given back
STILL_SECONDS = 0.002  # how long it may stand still before the whole crew is called


class Engine:
    """Moves leases from the database to executors, and outcomes back.

    Threads: `run` has its own; `ring`, `drain` and `woken` may be called by any.
    """

    def __init__(
        self, plan: Plan, store: Storage, announcer: Announcer, tally: Tally, slots: Slots, runner: AsyncRunner
    ) -> None:
        self.plan, self.store, self.announcer, self.tally = plan, store, announcer, tally
        self.bell = threading.Event()
        self.roused = threading.Event()  # it had rested, and got jobs: who watches over them has rested too
        self.desk = Desk(slots, runner, self.bell)
        self.threads = Threads(self.desk, plan.threads)
        self.loop = Loop(self.desk, plan.threads, plan.async_slots)
        self.held: dict[tuple[int, int], Lease] = {}
        self.settler = Settler(store, self.desk, self.held, announcer, tally)
        self.pace, self.breakers = self.settler.pace, self.settler.breakers
        self.claimer = Claimer(plan, store, runner.options.priority_ageing, limits_of)
        self.patience = Patience("engine", plan.patience_seconds)
        self.taken = 0  # leases claimed so far, also those given back
        self.failures = 0
        self.leaks_until = self.leaks_at = 0.0  # until when, and when next, to look for leases that nobody here knows
        self.coroutine_share = 0.0  # of the newest claim
        self.of_coroutines: dict[str, bool] = {}  # limited queues, as far as their jobs have shown
        self.claimed_at = self.wrote_at = self.claim_took = 0.0
        self.draining = False
        self.retired = False  # a job ignores its timeout: nothing new starts here
        self.drain_by = float("inf")
        self.look_until = 0.0
        self.idle_since = time.monotonic()

    # What other threads say

    def ring(self) -> None:
        self.bell.set()

    def woken(self, queues: Collection[str] = (ANY_QUEUE,)) -> None:
        """There may be new work: look now, and keep looking for as long as a notification may have been swallowed."""
        self.look_until = time.monotonic() + 2 * WINDOW_SECONDS
        self.claimer.call(queues, self.look_until)
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
            self.desk.slots.beat(ENGINE)
            try:
                with self.patience.waiting(self.store.alias):
                    delay = self.tick()
                self.failures = 0
            except DatabaseFailure as error:
                delay = self.recover(error)
            except Exception as error:
                log.exception("engine failed in a way of its own")
                delay = self.recover(error)
            if self.draining and (not self.held or time.monotonic() >= self.drain_by):
                return self.last_words()
            if self.failures and not self.draining:
                self.hold_off(delay)
            else:
                self.bell.wait(min(delay, LONGEST_REST_SECONDS, max(0.0, self.drain_by - time.monotonic())))

    def hold_off(self, seconds: float) -> None:
        """Wait before another attempt, whoever rings meanwhile: only the order to drain does not wait."""
        until = time.monotonic() + seconds
        while not self.draining and (left := until - time.monotonic()) > 0:
            self.bell.wait(left)
            self.bell.clear()

    def tick(self) -> float:
        """Claim what there is room for, write what is finished, and return the seconds until the next look."""
        if self.is_leak_look_due(time.monotonic()):
            self.release_leaked()
        if self.draining or self.retired:
            self.give_back(self.threads.take_unstarted() + self.loop.take_unstarted())
            self.settler.settle_all()
            self.breakers.write()
            return BUSY_SECONDS
        self.settler.try_locked(time.monotonic())
        if not self.pace.ahead(self.plan.threads):
            # Slow jobs: a thread is free for another only when its outcome is written.
            self.exchange([])
        self.patience.again()  # each of these may take so long
        self.probe()
        claims = [] if self.release_stale() else self.claimer.claims(self.room(), time.monotonic())
        if self.desk.limited:  # a limit may have been lifted
            self.desk.limited.difference_update(claim.queue_name for claim in claims if not claim.limits)
        self.patience.again()
        self.exchange([claim for claim in claims if not claim.limits])
        self.claim_limited([claim for claim in claims if claim.limits])
        self.heed_breakers()
        if self.desk.freed:
            names, self.desk.freed = self.desk.freed, set()
            self.claimer.call(list(names), time.monotonic())
        if not self.settler.waiting:
            self.settler.count()
        return self.delay()

    def claim_limited(self, claims: list[Claim]) -> None:
        """Claim of limited queues, one after another: each decides under a lock of its own."""
        for claim in claims:
            name = claim.queue_name
            self.desk.limited.add(name)
            if (free := self.free_for(name)) <= 0:
                self.claimer.put_off(name, time.monotonic() + BUSY_SECONDS)
                continue
            claim = claim._replace(limit=min(claim.limit, free))
            self.patience.again()
            try:
                taken = self.store.take_limited(self.plan.worker_id, claim, self.plan.lease)
            except OperationalError as error:
                if not is_locked(error):
                    raise
                taken = Taken([], 0, 0, timedelta(seconds=random.uniform(0.5, 1.5) * BUSY_SECONDS))
            else:
                if claim.recounts and taken.wanted:  # else there may be more than were looked for
                    self.claimer.recounts[name].note(time.monotonic())
                if taken.wait and not taken.leases:  # and not because of a lock
                    self.tally.count("limited", "", name)
            now = time.monotonic()
            self.claimer.note_limited(claim, taken, now)
            if claim.limits and claim.limits.rate_limit is not None:
                self.desk.expect(taken.leases, now)
            if taken.leases:
                self.of_coroutines[name] = is_async(taken.leases[0])
            self.begin(taken.leases, first=True)

    def heed_breakers(self) -> None:
        """Pause and resume queues as their tasks' breakers say; give back what has not started of those paused now."""
        self.breakers.write()
        if self.breakers.tripped:
            names, self.breakers.tripped = self.breakers.tripped, set()
            unstarted = self.threads.take_unstarted() + self.loop.take_unstarted()
            # First of all: should the database fail, these are in nobody's hands.
            self.hand_out([lease for lease in unstarted if lease.queue_name not in names], first=True)
            self.give_back([lease for lease in unstarted if lease.queue_name in names])

    def probe(self) -> None:
        """Try a job of each queue that a breaker has paused, before other queues take all threads."""
        for name in self.claimer.probes(time.monotonic()):
            # Short jobs never leave a thread free for long, but then it comes before all that waits for one.
            is_soon = self.pace.ahead(self.plan.threads) or self.free_threads(len(self.threads.buffer)) > 0
            if not is_soon or self.claimed >= (self.plan.max_jobs or float("inf")):
                return
            limits = limits_of(name)
            leases = self.breakers.probe(self.plan, name, limits)
            if limits and limits.rate_limit is not None:
                self.desk.expect(leases, time.monotonic())
            self.begin(leases, first=True)

    def free_for(self, name: str) -> int:
        """Return how many jobs of a limited queue may begin at once: what waits for a thread already has one."""
        if self.of_coroutines.get(name):
            return len(self.loop.free) - len(self.loop.waiting)
        threads, limited = self.threads.buffer.copy(), self.desk.limited
        others = sum(lease.queue_name not in limited for lease in threads)
        return self.free_threads(others)

    def free_threads(self, waiting: int) -> int:
        """Return how many threads have nothing to do, where so many leases in their buffer do not count."""
        idle = self.settler.waiting + self.loop.held + waiting
        return self.plan.threads - (len(self.held) - min(len(self.settler.locked), BATCH) - idle)

    def exchange(self, claims: list[Claim]) -> None:
        """Claim, and write what is finished, in one go: executors have work while their outcomes are written."""
        began = time.monotonic()
        if not claims and not self.is_write_due(began):
            return
        self.wrote_at = began
        careful = self.settler.is_careful()
        if careful and not claims:
            self.settler.write_carefully()
            return
        try:
            successes = self.settler.successes if self.settler.waiting and not careful else None
            found, accepted = self.store.exchange(self.plan.worker_id, claims, self.plan.lease, successes)
        except Exception as error:
            if not self.settler.batch or not self.settler.finish_otherwise(error):
                raise
            return
        ended = time.monotonic()
        if claims:
            self.claim_took = ended - began
            self.claimer.note(claims, found, began, ended)
            self.pace.observe_claim(ended - began)
        self.begin([lease for leases in found for lease in leases])
        self.patience.again()
        if careful:
            self.settler.write_carefully()
        else:
            self.settler.finish(accepted)

    def is_write_due(self, now: float) -> bool:
        """Say whether outcomes are worth a commit: enough have come together, or nothing is left to wait for."""
        waiting = self.settler.waiting
        if not waiting or waiting >= FLUSH_AT or not self.pace.ahead(self.plan.threads):
            return waiting > 0
        return not self.threads.buffer or now - self.wrote_at >= BUSY_SECONDS

    def delay(self) -> float:
        now = time.monotonic()
        if self.threads.buffer and self.stands_still(STILL_SECONDS, now):
            self.threads.call(self.plan.threads)
        if self.held:
            self.idle_since = now
        elif self.has_served():
            self.draining = True
        has_room = self.room() > 0
        if has_room and now < self.look_until:
            return LOOK_SECONDS
        next_look = max(0.0, self.claimer.next_look_at() - now) if has_room else BUSY_SECONDS
        if now < self.leaks_until:
            next_look = min(next_look, LEAK_LOOK_SECONDS)
        if self.held:
            alone = self.threads.buffer and self.pace.crew(self.plan.threads) < self.plan.threads
            return min(next_look, LOOK_SECONDS if alone else BUSY_SECONDS)
        return next_look

    def has_rested(self, seconds: float) -> bool:
        """Say whether nothing has been in hand for so long. Threads: any."""
        return not self.held and time.monotonic() - self.idle_since > seconds

    def has_served(self) -> bool:
        """Say whether this process, with nothing in hand, has done what it was started for."""
        if self.plan.max_jobs is not None and self.claimed >= self.plan.max_jobs:
            return True
        if not self.plan.solo or self.claimer.rota.doubted:  # a suspect may wait for its limited queue
            return False
        return time.monotonic() - self.idle_since > self.plan.poll_seconds

    def recover(self, error: Exception) -> float:
        """Drop the connection, forget nothing, and return how long to wait before trying again."""
        self.failures += 1
        log.warning("database failed", extra={"error": repr(error), "failures": self.failures})
        self.suspect_leaks()
        self.store.drop_connection()
        return pause_after(self.failures)

    # Claim

    @property
    def claimed(self) -> int:
        """How many leases were claimed, net of those given back: what counts against `max_jobs`."""
        return self.taken - self.settler.released

    def room(self) -> int:
        """Return how many more jobs this process may hold; nothing as long as it is little, where jobs are short.

        A thread is free only when its outcome is written. What is claimed ahead is counted by what still waits to run
        when the claim is answered, so that threads and database never wait for each other.
        """
        if self.announcer.is_behind():
            return 0
        # A locked row has given up its thread, though not its lease.
        threads, held = self.plan.threads, len(self.held) - min(len(self.settler.locked), BATCH)
        at_once = threads + int(self.coroutine_share * self.plan.async_slots)
        ahead = self.pace.ahead(at_once)
        limit = 1 if self.plan.solo else threads + ahead + self.async_share()
        room = limit - held
        if ahead and not self.plan.solo:
            waiting = len(self.threads.buffer) + len(self.loop.waiting)
            begun = self.settler.waiting + min(waiting, self.pace.soon(at_once))
            room = min(room + begun, limit + 2 * BATCH - held)
            if room < ahead // 2:
                return 0
        if self.plan.max_jobs is not None:
            room = min(room, self.plan.max_jobs - self.claimed)
        return min(BATCH, room)

    def async_share(self) -> int:
        """Return how many coroutines may be held beside the threads' jobs, as long as coroutines keep coming."""
        return self.plan.async_slots if self.coroutine_share else self.loop.held

    def begin(self, leases: list[Lease], first: bool = False) -> None:
        if not leases:
            return
        self.taken += len(leases)
        self.claimed_at = time.monotonic()
        had_rested = self.has_rested(REST_SECONDS)
        self.held.update((lease.key, lease) for lease in leases)
        self.hand_out(leases, first)
        if had_rested:
            self.roused.set()

    def hand_out(self, leases: list[Lease], first: bool = False) -> None:
        """Give leases to those who run them."""
        if not leases:
            return
        coroutines = [lease for lease in leases if is_async(lease)]
        if not first:
            self.coroutine_share = len(coroutines) / len(leases)
        if coroutines:
            self.loop.put(coroutines)
            leases = [lease for lease in leases if not is_async(lease)]
        self.threads.put(leases, self.pace.crew(self.plan.threads), first)

    # Give back

    def give_back(self, leases: list[Lease]) -> None:
        self.settler.release(leases, time.monotonic())

    def stands_still(self, seconds: float, now: float) -> bool:
        """Say whether no thread has begun a job for so long, although there was one to begin."""
        return now - max(self.desk.last_start, self.claimed_at) > seconds

    def release_stale(self) -> bool:
        """Give back what has waited too long behind slow jobs: another worker may be free."""
        # Counted from when the claim was answered: a slow database is no reason to give back what it has just given.
        patience = STALE_SECONDS + self.claim_took
        stale = [executors for executors in (self.threads, self.loop) if executors.has_waited(patience)]
        if not stale:
            return False
        # What is given back because of slow jobs must not be claimed again by the next breath.
        self.pace.stall()
        self.give_back([lease for executors in stale for lease in executors.take_unstarted()])
        return True

    def suspect_leaks(self) -> None:
        """Look for leases that nobody here knows, for a while: a claim whose reply was lost may commit later."""
        self.leaks_at, self.leaks_until = 0.0, time.monotonic() + self.plan.lease_seconds

    def is_leak_look_due(self, now: float) -> bool:
        return self.leaks_at <= now < self.leaks_until

    def release_leaked(self) -> None:
        """Give back what a lost reply hid: rows leased to this worker that it does not know."""
        with self.store.atomic():
            mine = self.store.held_by(self.plan.worker_id, 10 * BATCH)
            leaked = [lease for lease in mine if lease.key not in self.held]
            self.store.settle([settlement(lease, Released(), None, lease.claimed_at) for lease in leaked])
        self.leaks_at = time.monotonic() + LEAK_LOOK_SECONDS

    def last_words(self) -> bool:
        """Write what can be written before the process ends."""
        self.settler.locked_until = 0.0
        error = ""
        try:
            with self.patience.waiting(self.store.alias):
                self.settler.settle_all()
                self.breakers.write()
        except DatabaseFailure as failure:
            error = repr(failure)
        if left := self.settler.waiting + len(self.settler.locked):
            log.error("outcomes not written", extra={"error": error or "their rows are locked", "outcomes": left})
        return not self.held
