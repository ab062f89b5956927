"""Decides what a process claims: from which queues, how much of each, from where on, and when to look again."""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from ..conf import QueueLimits
from ..leases import Lease
from ..storage import Claim, Storage, Taken
from .horizon import Horizon, Rest
from .plan import Plan
from .rota import Rota
from .turns import Turns

PROBE_LOOK_SECONDS = 1.0  # how often a process asks whether it is time to try a queue that a breaker has paused
LEARN_SECONDS = 1.0  # until all processes know of a limit; in between they may claim as if there were none
RECOUNT_SECONDS = 10.0  # how often to count what others run that they have claimed so
RESCAN_SECONDS = 0.25  # how often a worker that has work asks which other queues have some
SMALLEST_SHARE = 50  # of one queue among many
IDLE_FACTOR = 5  # an idle worker polls up to so many times less often


@dataclass
class Recounts:
    """When to count all that runs of a limited queue: often at first, then now and then."""

    began_at: float = float("inf")
    last_at: float = float("-inf")

    def is_due(self, now: float) -> bool:
        is_new = now < self.began_at + 3 * LEARN_SECONDS
        return now >= self.last_at + (LEARN_SECONDS if is_new else RECOUNT_SECONDS)

    def note(self, now: float) -> None:
        self.began_at, self.last_at = min(self.began_at, now), now


class Claimer:
    """Threads: `call` by any, the rest by the engine's. Units: monotonic seconds."""

    def __init__(
        self,
        plan: Plan,
        store: Storage,
        ageing: timedelta | None = None,
        limits_of: Callable[[str], QueueLimits | None] = lambda name: None,
    ) -> None:
        self.plan, self.store, self.ageing, self.limits_of = plan, store, ageing, limits_of
        self.rota = Rota(frozenset(plan.queues), plan.solo)
        self.horizons: defaultdict[str, Horizon] = defaultdict(Horizon)
        self.groups: dict[str, Turns] = {}
        self.recounts: defaultdict[str, Recounts] = defaultdict(Recounts)
        self.calls: dict[str, float] = {}  # until when to look into a queue; news in, as they come, until there is room
        self.scanned_at = self.probed_at = float("-inf")
        self.rest = Rest()
        self.idle_seconds = plan.poll_seconds
        self.poll_at = 0.0

    def call(self, queues: Collection[str], until: float) -> None:
        """Look into these queues until then."""
        for name in queues:
            self.calls[name] = until

    def claims(self, room: int, now: float) -> list[Claim]:
        """Return what to claim, at most `room` jobs: a share of each queue whose turn it is."""
        if room <= 0:
            return []
        self.find_queues(now)
        turns = len(self.rota.turns)
        share = max(1, min(room, max(room // turns, SMALLEST_SHARE))) if turns else 0
        names = [self.rota.next() for _ in range(min(turns, room // share if share else 0))]
        return [claim for name in names if (claim := self.claim_of(name, share, now))]

    def probes(self, now: float) -> list[str]:
        """Return the queues that breakers have paused, now and then."""
        if not self.rota.tripped or now < self.probed_at + PROBE_LOOK_SECONDS:
            return []
        self.probed_at = now
        return sorted(self.rota.tripped)

    def claim_of(self, name: str, share: int, now: float) -> Claim | None:
        """Return what to claim of a queue; nothing when its groups have nothing left.

        Of a limited queue no more than threads may begin at once.
        """
        limits = self.limits_of(name)
        if limits is None or limits.max_running is None:
            self.recounts.pop(name, None)
        if limits is not None and limits.slows:
            claim = self.unlimited(name, min(share, self.plan.threads), now)
            recounts = limits.max_running is not None and self.recounts[name].is_due(now)
            return claim and claim._replace(limits=limits, places=(), recounts=recounts)
        return self.unlimited(name, share, now)

    def unlimited(self, name: str, share: int, now: float) -> Claim | None:
        if self.takes_turns(name):
            groups = self.groups_of(name).next(share)
            if not groups:
                self.rota.drop(name)
                return None
            return Claim(name, share, self.plan.solo, groups=tuple(groups), ageing=self.ageing)
        places = () if self.ageing else self.horizons[name].begin(now)
        return Claim(name, share, places=places, ageing=self.ageing)

    def takes_turns(self, name: str) -> bool:
        """Say whether the groups of a queue take turns. Suspects are few, and of any group."""
        return self.plan.solo or name in self.rota.grouped

    def groups_of(self, name: str) -> Turns:
        if name not in self.groups:
            self.groups[name] = Turns(partial(self.store.ready_groups, name, self.plan.solo))
        return self.groups[name]

    def find_queues(self, now: float) -> None:
        """Put queues on the rota that may have work: those told of, and now and then all that the database names."""
        while self.calls:
            name, until = self.calls.popitem()
            self.rota.call([name], until)
        has_backlog = bool(self.rota.turns)
        is_asked = self.rota.take_called(now)
        due_at = self.scanned_at + RESCAN_SECONDS if has_backlog else 0.0 if is_asked else self.poll_at
        if now < due_at:
            return
        # What was claimed behind a long transaction makes even this slow.
        if now < (cheap_at := self.scanned_at + self.rest.seconds):
            self.poll_at = cheap_at
            return
        self.rota.update(self.store.ready_queues())
        self.scanned_at = time.monotonic()
        self.rest.note(self.scanned_at - now)
        self.poll_next(self.scanned_at, has_found=False)

    def note(self, claims: Sequence[Claim], found: Sequence[Sequence[Lease]], began: float, ended: float) -> None:
        """Learn from what was found: which queues have more, and how far their claims have got."""
        for claim, leases in zip(claims, found, strict=True):
            is_full = len(leases) == claim.limit
            if self.takes_turns(claim.queue_name):
                if self.groups_of(claim.queue_name).note(list(claim.groups), claim.limit, len(leases)):
                    self.rota.drop(claim.queue_name)
            elif not claim.ageing:
                self.note_places(claim, leases, is_full, began, ended)
            elif not leases:
                self.rota.drop(claim.queue_name)
        self.poll_next(ended, any(found))

    def note_limited(self, claim: Claim, taken: Taken, now: float) -> None:
        """Learn from a claim of a limited queue: when to ask for more of it."""
        name = claim.queue_name
        if self.takes_turns(name):
            turns, groups = self.groups_of(name), list(claim.groups)
            if taken.groups and turns.note(groups[: taken.groups], taken.wanted, len(taken.leases)):
                self.rota.drop(name)
            turns.put_back(groups[taken.groups :])
        if taken.wait is None:
            self.rota.drop(name)
        elif not taken.leases:
            self.put_off(name, now + taken.wait.total_seconds())
        self.poll_next(now, bool(taken.leases))

    def put_off(self, name: str, until: float) -> None:
        """Look into a limited queue then, and not before."""
        self.rota.drop(name)
        self.rota.doubt(name, until)

    def note_places(self, claim: Claim, leases: Sequence[Lease], is_full: bool, began: float, ended: float) -> None:
        horizon = self.horizons[claim.queue_name]
        horizon.note(leases, claim.places, is_full, began, ended)
        if not is_full:
            self.rota.drop(claim.queue_name)
            if claim.places:  # what stands before them is looked for as soon as that is cheap
                self.rota.doubt(claim.queue_name, horizon.due_at)

    def poll_next(self, now: float, has_found: bool) -> None:
        """Poll soon while there is work, else ever less often, each worker at its own moments."""
        if has_found or self.rota.turns:
            self.idle_seconds = self.plan.poll_seconds
            self.poll_at = now + min(RESCAN_SECONDS, self.plan.poll_seconds)
        elif now >= self.poll_at:
            self.idle_seconds = min(self.idle_seconds * 1.5, self.plan.poll_seconds * IDLE_FACTOR)
            self.poll_at = now + self.idle_seconds * random.uniform(0.75, 1.25)

    def next_look_at(self) -> float:
        """Return when there is something to claim, or to look for, unless somebody calls before."""
        if self.rota.turns:
            return 0.0
        probe_at = self.probed_at + PROBE_LOOK_SECONDS if self.rota.tripped else float("inf")
        return min(self.poll_at, self.rota.next_doubt(), probe_at)
