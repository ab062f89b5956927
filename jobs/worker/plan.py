"""What a supervisor tells a process at its birth: one JSON line over the pipe that later carries its orders."""

import json
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

ASYNC_SLOTS = 200
MAX_AHEAD = 500
BATCH = 500  # leases or outcomes in one statement

# How a process ends. A supervisor tells them from a crash.
EXIT_DONE = 0
EXIT_CONFIGURATION = 1
EXIT_GRACE_OVER = 75
EXIT_SECOND_SIGNAL = 130

DRAIN = "drain"
STOP_NOW = "now"


class Ends(NamedTuple):
    """The descriptors by which a process hangs on its supervisor."""

    orders: int
    reports: int
    slots: int
    births: int  # on which it is asked to fork others, as long as it has no plan


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one process works. Units: seconds."""

    worker_id: str
    queues: list[str] = field(default_factory=list)  # empty: all
    threads: int = 4
    async_slots: int = ASYNC_SLOTS
    lease_seconds: float = 60.0
    heartbeat_seconds: float = 20.0
    grace_seconds: float = 25.0
    timeout_grace_seconds: float = 5.0
    poll_seconds: float = 1.0
    max_jobs: int | None = None  # drain after so many
    max_memory: int | None = None  # MiB; drain when the process has taken so much
    solo: bool = False  # run suspects only, one at a time, and end when there are none
    reload: bool = False  # end when the code on disk changes

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def patience_seconds(self) -> float:
        """How long a loop waits for its connection: short enough that a lease can still be renewed on another."""
        return max(2.0, self.lease_seconds / 4)

    @property
    def silence_seconds(self) -> float:
        """How long a loop may stand still before its process is replaced: by then all its leases are over."""
        return max(5.0, self.lease_seconds)

    @property
    def slots(self) -> int:
        return self.threads + self.async_slots

    @property
    def rings(self) -> int:
        """The threads that end runs: executors, and the event loop's."""
        return self.threads + 1

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Plan":
        fields: dict[str, Any] = json.loads(line)
        return cls(**fields)
