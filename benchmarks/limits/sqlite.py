"""Bare sqlite3: one short IMMEDIATE transaction for each claim and each batch of outcomes."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from . import BATCH, LONGEST_DRAIN, WORKER

CLAIM = """
UPDATE jobs_job SET state = 'running', leased_by = :worker, lease_token = lease_token + 1,
    lease_expires_at = :until, started_at = COALESCE(started_at, :now), last_attempted_at = :now
WHERE id IN (
    SELECT id FROM jobs_job
    WHERE state = 'ready' AND NOT blocked AND blocked = 0 AND queue_name = :queue AND suspect = 0
        AND group_key = ''
    ORDER BY priority DESC, ready_at, id LIMIT :limit
)
RETURNING id, lease_token, task_path, args, kwargs, attempts, max_attempts, timeout, ready_at
"""

# One statement with the batch as JSON text: measured a fifth faster than executemany.
SETTLE = """
UPDATE jobs_job SET state = 'succeeded', attempts = attempts + 1, suspect = 0, worker_ids = :workers,
    return_value = v.value, leased_by = '', lease_expires_at = NULL, settled_token = lease_token, started_at = :now,
    last_attempted_at = :now, finished_at = :now, held_since = NULL, dedupe_lock = NULL
FROM (
    SELECT json_extract(value, '$[0]') AS job_id, json_extract(value, '$[1]') AS token,
        json_extract(value, '$[2]') AS value
    FROM json_each(:rows)
) AS v
WHERE id = v.job_id AND lease_token = v.token AND leased_by = :worker AND lease_expires_at IS NOT NULL
"""

COLUMNS = """
INSERT INTO jobs_job (task_path, backend, queue_name, priority, args, kwargs, schema_version, max_attempts,
    max_crashes, idempotency_key, state, enqueued_at, ready_at, attempts, forgiven_attempts, crashes, suspect,
    cancel_requested, leased_by, lease_token, worker_ids, dedupe_key, progress_message)
"""
VALUES = (
    ":task, 'default', 'default', 0, '[]', {}, 1, 5, 3, '', 'ready', :now, :now, 0, 0, 0, 0, 0, '', 0, '[]', '', ''"
)
INSERT = f"{COLUMNS} VALUES ({VALUES.format(':kwargs')})"
# Twice as fast as executemany.
INSERT_MANY = f"{COLUMNS} SELECT {VALUES.format('value')} FROM json_each(:rows)"
CHUNK = 5_000  # rows in one INSERT_MANY
LOOK_SECONDS = 0.001


def stored(moment: datetime) -> str:
    """Write a moment as Django does."""
    return str(moment.replace(tzinfo=None))


@contextmanager
def transaction(connection: Any) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def claim(connection: Any, queue_name: str, limit: int = BATCH) -> list[Any]:
    with transaction(connection):
        return claim_inside(connection, queue_name, limit)


def settle(connection: Any, rows: list[Any], answers: bool = False) -> None:
    with transaction(connection):
        settle_inside(connection, rows, answers)


def claim_inside(connection: Any, queue_name: str, limit: int = BATCH) -> list[Any]:
    now = datetime.now(UTC)
    until = stored(now + timedelta(seconds=60))
    arguments = {"worker": WORKER, "queue": queue_name, "limit": limit, "now": stored(now), "until": until}
    return connection.execute(CLAIM, arguments).fetchall()  # type: ignore[no-any-return]


def settle_inside(connection: Any, rows: list[Any], answers: bool = False) -> None:
    rows.sort()
    batch = json.dumps([(row[0], row[1], row[4] if answers else None) for row in rows])
    arguments = {"rows": batch, "now": stored(datetime.now(UTC)), "worker": WORKER, "workers": f'["{WORKER}"]'}
    if connection.execute(SETTLE, arguments).rowcount != len(rows):
        raise RuntimeError("a lease was lost")


def drain(
    connection: Any, queue_name: str, most: int = LONGEST_DRAIN, *, answers: bool = False, singly: bool = False
) -> int:
    """Claim and settle in turn until nothing is left or `most` are done, and return how many.

    `answers` stores a return value with each; `singly` commits each on its own, as a transactional task does.
    """
    done = 0
    while done < most and (rows := claim(connection, queue_name)):
        for batch in [[row] for row in rows] if singly else [rows]:
            settle(connection, batch, answers)
        done += len(rows)
    return done


def drain_together(connection: Any, queue_name: str) -> int:
    done, rows = 0, claim(connection, queue_name)
    while rows:
        done += len(rows)
        with transaction(connection):
            settle_inside(connection, rows)
            rows = claim_inside(connection, queue_name)
    return done


def insert(connection: Any, task: str, n: int) -> int:
    arguments = {"task": task, "kwargs": json.dumps({"n": n}), "now": stored(datetime.now(UTC))}
    return int(connection.execute(INSERT, arguments).lastrowid)


def insert_many(connection: Any, task: str, numbers: Sequence[int]) -> list[int]:
    """Insert a job for each number, all in one transaction, and return their ids."""
    now = stored(datetime.now(UTC))
    with transaction(connection):
        for place in range(0, len(numbers), CHUNK):
            rows = json.dumps([{"n": n} for n in numbers[place : place + CHUNK]])
            connection.execute(INSERT_MANY, {"task": task, "now": now, "rows": rows})
        # Nobody else writes meanwhile, so the ids are those up to the highest.
        last = connection.execute("SELECT max(id) FROM jobs_job").fetchone()[0]
    return list(range(last - len(numbers) + 1, last + 1))


def insert_and_notify(connection: Any, task: str, n: int) -> None:
    """Insert: whoever waits sees that the file was written."""
    insert(connection, task, n)


def listen(connection: Any) -> None:
    pass


def wait(connection: Any, seconds: float) -> None:
    """Wait until somebody has enqueued."""
    seen, until = version(connection), time.monotonic() + seconds
    while version(connection) == seen and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


def version(connection: Any) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
