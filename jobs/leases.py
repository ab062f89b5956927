"""A lease as a worker holds it: everything it needs to run the job and to write its outcome, in one value."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

# The columns of a leased row that only the database knows, and those that whoever claims it knows already: in this
# order every storage returns them.
FOUND = (
    "id",
    "lease_token",
    "task_path",
    "backend",
    "priority",
    "args",
    "kwargs",
    "schema_version",
    "attempts",
    "max_attempts",
    "forgiven_attempts",
    "crashes",
    "max_crashes",
    "timeout",
    "idempotency_key",
    "enqueued_at",
    "run_after",
    "ready_at",
    "started_at",
    "held_since",
    "worker_ids",
    "cancel_requested",
    "expires_at",
    "drop_expired",
    "concurrency_key",
)
CLAIMED = (*FOUND, "leased_by", "queue_name", "suspect", "last_attempted_at")


class Lease(NamedTuple):
    """The right of one worker to run one job, as claimed.

    Shape: `args`, `kwargs` and `worker_ids` are JSON text: whoever runs the job decodes them.
    Clock: `claimed_at` is the database's; `claimed_monotonic` is this host's at the same moment or a little before.
    """

    id: int
    token: int
    task_path: str
    backend: str
    priority: int
    args: str
    kwargs: str
    schema_version: int
    attempts: int
    max_attempts: int
    forgiven_attempts: int
    crashes: int
    max_crashes: int
    timeout: timedelta | None
    idempotency_key: str
    enqueued_at: datetime
    run_after: datetime | None
    ready_at: datetime
    started_at: datetime | None
    held_since: datetime | None
    worker_ids: str
    cancel_requested: bool
    expires_at: datetime | None
    drop_expired: bool
    concurrency_key: str
    worker_id: str
    queue_name: str
    suspect: bool
    last_started_at: datetime | None
    claimed_at: datetime
    claimed_monotonic: float
    is_probe: bool = False  # of a queue that a breaker has paused

    @classmethod
    def of(cls, row: Iterable[Any], claimed_at: datetime, claimed_monotonic: float) -> Self:
        """Return the lease that a row of the `CLAIMED` columns is."""
        return cls._make((*row, claimed_at, claimed_monotonic, False))

    @property
    def key(self) -> tuple[int, int]:
        """Tell this lease from every other, also from a later one of the same job."""
        return self[:2]

    @property
    def attempt(self) -> int:
        """The number of the attempt that this lease is for, from 1."""
        return self.attempts + 1

    @property
    def is_last_attempt(self) -> bool:
        return self.attempt - self.forgiven_attempts >= self.max_attempts

    @property
    def never_counted(self) -> bool:
        """No earlier run of this job counted, so this one, if it runs, is its first."""
        return self.worker_ids == "[]"

    @property
    def is_first_start(self) -> bool:
        """As claimed: it has never been started before."""
        return self.started_at == self.last_started_at

    @property
    def worker_ids_after(self) -> str:
        """The job's `worker_ids` with this lease's worker added. Worker ids need no escaping in JSON."""
        before = self.worker_ids[:-1]
        return f'{before}"{self.worker_id}"]' if before == "[" else f'{before}, "{self.worker_id}"]'

    def database_time(self, monotonic: float) -> datetime:
        """Return the database's time at a moment of this host's monotonic clock: no wall clock is asked."""
        return self.claimed_at + timedelta(seconds=max(0.0, monotonic - self.claimed_monotonic))

    def log_fields(self) -> dict[str, object]:
        return {
            "job_id": self.id,
            "task": self.task_path,
            "queue": self.queue_name,
            "attempt": self.attempt,
            "lease_token": self.token,
            "worker_id": self.worker_id,
        }


class Remains(NamedTuple):
    """What a process that is gone was at when it died.

    Shape: `running` maps job ids to lease tokens; `ended` holds the keys of leases whose runs were over, some of them
    with outcomes that nobody has written.
    """

    running: Mapping[int, int] = {}
    ended: Collection[tuple[int, int]] = ()

    def was_running(self, lease: Lease) -> bool:
        return self.running.get(lease.id) == lease.token
