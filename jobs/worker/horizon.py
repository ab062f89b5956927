"""Remembers how far claims of a queue have got, so that the next one need not read what has gone before it.

On PostgreSQL what was claimed stays in the index until no transaction can see it any more: as long as the oldest open
one, anywhere on the server, lasts.
"""

from collections.abc import Sequence

from ..leases import Lease
from ..storage import Place

FULL_LOOK_SECONDS = 1.0  # in a backlog: a job whose transaction committed late stands before the place
COST = 10  # a look is due again after so many times what it took
LONGEST_REST_SECONDS = 5.0
MAX_PLACES = 4


class Rest:
    """How long to leave the database alone after a look that long transactions of others may make dear."""

    def __init__(self) -> None:
        self.took = self.took_before = float("inf")

    def note(self, seconds: float) -> None:
        self.took, self.took_before = seconds, self.took

    @property
    def seconds(self) -> float:
        """Return ten times what a look takes; one that had to wait for a lock or a disk says nothing of the next."""
        return min(COST * min(self.took, self.took_before), LONGEST_REST_SECONDS)


class Horizon:
    """The places of one queue. Threads: the engine's alone. Units: monotonic seconds."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.looked_at = 0.0  # at the whole queue
        self.rest = Rest()
        self.due_at = 0.0  # the next one

    def begin(self, now: float) -> Sequence[Place]:
        """Return where the claim of this moment may begin; nothing when the whole queue is to be looked at."""
        return () if now >= self.due_at else list(self.places.values())

    def note(self, leases: Sequence[Lease], places: Sequence[Place], is_full: bool, began: float, ended: float) -> None:
        """Learn from a claim that began at `places`. Not `is_full`: it found less than it asked for."""
        for lease in leases:
            self.places.pop(lease.priority, None)
            self.places[lease.priority] = Place(lease.priority, lease.ready_at, lease.id)
        while len(self.places) > MAX_PLACES:
            del self.places[next(iter(self.places))]
        if not places:
            self.looked_at = ended
            self.rest.note(ended - began)
        # Without a backlog no job may wait for having committed late: then it is looked for as often as that is cheap.
        self.due_at = self.looked_at + max(self.rest.seconds, FULL_LOOK_SECONDS if is_full else 0.0)
