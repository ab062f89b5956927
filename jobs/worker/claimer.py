"""Decides what a process claims: from which queues, how much of each, from where on, and when to look again."""

import random
import time
from collections import defaultdict
from collections.abc import Collection, Sequence

from ..leases import Lease
from ..storage import Claim, Storage
from .horizon import Horizon, Rest
from .plan import Plan
from .rota import Rota

RESCAN_SECONDS = 0.25  # how often a worker that has work asks which other queues have some
SMALLEST_SHARE = 50  # of one queue among many
IDLE_FACTOR = 5  # an idle worker polls up to so many times less often


class Claimer:
    """Threads: `call` by any, the rest by the engine's. Units: monotonic seconds."""

    def __init__(self, plan: Plan, store: Storage) -> None:
        self.plan, self.store = plan, store
        self.rota = Rota(frozenset(plan.queues), plan.solo)
        self.horizons: defaultdict[str, Horizon] = defaultdict(Horizon)
        self.calls: dict[str, float] = {}  # until when to look into a queue; news in, as they come, until there is room
        self.scanned_at = float("-inf")
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
        return [self.claim_of(self.rota.next(), share, now) for _ in range(min(turns, room // share if share else 0))]

    def claim_of(self, name: str, share: int, now: float) -> Claim:
        return Claim(name, share, self.plan.solo, () if self.plan.solo else self.horizons[name].begin(now))

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
            horizon, is_full = self.horizons[claim.queue_name], len(leases) == claim.limit
            horizon.note(leases, claim.places, is_full, began, ended)
            if not is_full:
                self.rota.drop(claim.queue_name)
                if claim.places:  # what stands before them is looked for as soon as that is cheap
                    self.rota.doubt(claim.queue_name, horizon.due_at)
        self.poll_next(ended, any(found))

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
        return 0.0 if self.rota.turns else min(self.poll_at, self.rota.next_doubt())
