"""Leases for tests that need no database."""

from datetime import UTC, datetime
from typing import Any

from jobs.leases import Lease

MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_lease(**fields: Any) -> Lease:
    values: dict[str, Any] = {
        "id": 7,
        "token": 3,
        "worker_id": "w1",
        "task_path": "tests.tasks.add",
        "backend": "default",
        "queue_name": "default",
        "priority": 0,
        "args": "[1]",
        "kwargs": "{}",
        "schema_version": 1,
        "attempts": 0,
        "max_attempts": 5,
        "forgiven_attempts": 0,
        "crashes": 0,
        "max_crashes": 3,
        "timeout": None,
        "suspect": False,
        "idempotency_key": "",
        "enqueued_at": MOMENT,
        "run_after": None,
        "ready_at": MOMENT,
        "started_at": MOMENT,
        "last_started_at": MOMENT,
        "held_since": None,
        "worker_ids": "[]",
        "cancel_requested": False,
        "expires_at": None,
        "drop_expired": False,
        "concurrency_key": "",
        "claimed_at": MOMENT,
        "claimed_monotonic": 1000.0,
    }
    return Lease(**values | fields)
