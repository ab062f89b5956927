"""The terms of the contract: what is asked of a database, and what it answers."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ..conf import QueueLimits
from ..leases import Lease

ANY_QUEUE = ""  # in the place of a queue's name: there is news, and nobody knows of which queue


class NewJob(NamedTuple):
    """A job to insert. Shape: `args` and `kwargs` are JSON text.

    `delay` counts from the database's now, `expires_after` from when the job is due.
    """

    task_path: str
    backend: str
    queue_name: str
    priority: int
    args: str
    kwargs: str
    schema_version: int
    max_attempts: int
    max_crashes: int
    timeout: timedelta | None = None
    idempotency_key: str = ""
    run_after: datetime | None = None
    delay: timedelta | None = None
    dedupe_key: str = ""
    expires_after: timedelta | None = None
    expires_at: datetime | None = None
    drop_expired: bool = False
    concurrency_key: str = ""
    max_concurrent: int = 1
    group_key: str = ""
    unless_bounded: bool = False  # not into a queue in whose row somebody has written how much it takes


class QueueIsBounded(Exception):
    """A job was not inserted, nor any beside it: whether its queue has room is to be found out first."""


class Keys(NamedTuple):
    """The keys of many jobs, one by one in the order of their payloads; a kind that no job has is empty."""

    idempotency: Sequence[str] = ()
    dedupe: Sequence[str] = ()
    concurrency: Sequence[str] = ()
    group: Sequence[str] = ()

    @classmethod
    def of_one(cls, job: NewJob) -> "Keys":
        own = (job.idempotency_key, job.dedupe_key, job.concurrency_key, job.group_key)
        return cls(*((key,) if key else () for key in own))

    def part(self, places: Sequence[int]) -> "Keys":
        return Keys(*([kind[place] for place in places] if kind else () for kind in self))

    def of(self, template: NewJob, place: int) -> NewJob:
        """Return the job at this place, but for its payload."""
        return template._replace(**{f"{kind}_key": keys[place] for kind, keys in self._asdict().items() if keys})


NO_KEYS = Keys()


class Inserted(NamedTuple):
    """What became of a job. `is_duplicate`: it is another's row, which held the dedupe key already."""

    id: int
    state: str
    enqueued_at: datetime
    run_after: datetime | None
    is_duplicate: bool = False


class Holder(NamedTuple):
    """The job that holds a dedupe key. `is_condemned`: it waits, and no worker will run it: too late, or cancelled."""

    id: int
    task_path: str
    state: str
    enqueued_at: datetime
    run_after: datetime | None
    concurrency_key: str
    is_condemned: bool


class Renewal(NamedTuple):
    """A row that the database says is leased to the worker. Not `renewed`: somebody holds its lock; ask again."""

    id: int
    token: int
    renewed: bool
    cancel_requested: bool


class Pulse(NamedTuple):
    """What housekeeping needs to know at every beat.

    `next_due`, `next_tick`: from now until the next scheduled job, and until a schedule is due; None: never.
    `promoted_keys`: the concurrency keys of the jobs that have become ready, each of which waits for a slot.
    """

    promoted: int
    has_expired_leases: bool
    has_expired_jobs: bool
    has_blocked_jobs: bool
    next_due: timedelta | None
    next_tick: timedelta | None = None
    promoted_keys: Sequence[str] = ()


class ReadyQueue(NamedTuple):
    """A queue that has ready jobs: plain ones, suspects, or both.

    `is_tripped`: a breaker has paused it. `has_groups`: some of the plain ones have a key.
    """

    name: str
    has_plain: bool
    has_suspects: bool
    paused: bool
    unlisted: bool
    is_tripped: bool = False
    has_groups: bool = False


class Place(NamedTuple):
    """How far claims of one priority have got in a queue: nothing that is ready is known to stand before it."""

    priority: int
    ready_at: datetime
    id: int


NO_GROUP = ("",)


class Claim(NamedTuple):
    """What to claim of one queue: up to `limit` jobs, best first.

    `groups` whose turn it is share the limit equally; a job without a group key is of the group "". With `ageing`, so
    much of waiting counts as one step of priority. `places` allow the search to begin behind each of them, one for a
    priority, where that saves reading what others have left behind, and all that may be claimed is of one group.
    """

    queue_name: str
    limit: int
    suspects: bool = False
    places: Sequence[Place] = ()
    groups: Sequence[str] = NO_GROUP
    ageing: timedelta | None = None
    limits: QueueLimits | None = None  # see `Storage.take_limited`
    recounts: bool = True  # what runs of a limited queue: others may have claimed before they knew of the limit

    @property
    def shares(self) -> tuple[int, int]:
        """What each of the groups may have, and how many of the first may have one more."""
        return divmod(self.limit, len(self.groups))

    @property
    def is_plain(self) -> bool:
        return self.groups == NO_GROUP and self.ageing is None


class Taken(NamedTuple):
    """What a claim of a limited queue got: `wanted` jobs at most, of its first `groups`.

    `wait`: until it is worth asking again, by the limits; None: the groups that the claim named have no more.
    """

    leases: list[Lease]
    wanted: int
    groups: int
    wait: timedelta | None


class Probe(NamedTuple):
    """The job that is tried of a queue that the breaker of `task_path` has paused.

    `is_over`: no job of that task is among the first ones, so that there is nothing to hold them back for.
    """

    task_path: str
    leases: list[Lease]
    is_over: bool = False
