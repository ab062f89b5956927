"""SQLite: one writer at a time, so a claim and a batch of outcomes are one short IMMEDIATE transaction each."""

import json
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from ..leases import CLAIMED, Lease
from ..models import Job
from ..models.job import HIGHEST_PRIORITY
from ..outcomes import Settlement, Success
from ..states import ENDED
from .base import IS_BOUNDED, Storage, Watch, best_first, by_id, merged_by_age, portions
from .terms import ANY_QUEUE, NO_KEYS, Claim, Inserted, Keys, NewJob, Pulse, QueueIsBounded

DATES = frozenset(
    {"expires_at", "enqueued_at", "run_after", "ready_at", "started_at", "last_attempted_at", "held_since"}
)
BOOLEANS = frozenset({"drop_expired", "suspect", "cancel_requested"})

# All payloads as one JSON text; what the jobs have in common is bound once. Whether the queue takes only so much
# travels with them: nobody asks that of a queue without limits.
INSERT = f"""
INSERT INTO jobs_job (task_path, backend, queue_name, priority, args, kwargs, schema_version, max_attempts, max_crashes,
    timeout, idempotency_key, state, enqueued_at, run_after, ready_at, attempts, forgiven_attempts, crashes, suspect,
    cancel_requested, leased_by, lease_token, worker_ids, progress_message, dedupe_key, dedupe_lock, expires_at,
    drop_expired, concurrency_key, max_concurrent, blocked, group_key)
SELECT :task_path, :backend, :queue_name, :priority, :args, call.value, :schema_version, :max_attempts, :max_crashes,
    :timeout, COALESCE(json_extract(:idempotency_keys, '$[' || call.key || ']'), ''), :state, :now,
    :run_after, :ready_at, 0, 0, 0, 0, 0, '', 0, '[]', '',
    COALESCE(json_extract(:dedupe_keys, '$[' || call.key || ']'), ''),
    json_extract(:dedupe_keys, '$[' || call.key || ']'), :expires_at, :drop_expired,
    COALESCE(json_extract(:concurrency_keys, '$[' || call.key || ']'), ''), :max_concurrent,
    json_extract(:concurrency_keys, '$[' || call.key || ']') IS NOT NULL,
    COALESCE(json_extract(:group_keys, '$[' || call.key || ']'), '')
FROM json_each(:calls) AS call WHERE NOT (:unless_bounded AND {IS_BOUNDED.format(name=":queue_name")})
ORDER BY call.key
"""
RETURNING = "RETURNING id, dedupe_key"
UNLESS_HELD = "ON CONFLICT (dedupe_lock) DO NOTHING"
INSERT_MANY = f"{INSERT} {UNLESS_HELD} {RETURNING}"
# As Django's cursor takes it, so that its wrappers and its log see what a request enqueues.
INSERT_ONE, INSERT_KEYED = (
    re.sub(r":(\w+)", r"%(\1)s", f"{INSERT} {clause} {RETURNING}") for clause in ("", UNLESS_HELD)
)
CHUNK = 2_000  # payloads in one statement

TAKE = f"""
UPDATE jobs_job SET state = 'running', leased_by = :worker_id, lease_token = lease_token + 1,
    lease_expires_at = :expires_at, started_at = COALESCE(started_at, :now), last_attempted_at = :now
WHERE id IN ({{chosen}}) AND NOT EXISTS (SELECT 1 FROM jobs_queue WHERE name = :queue_name AND paused)
RETURNING {", ".join(CLAIMED)}
"""
CLAIM = TAKE.format(
    chosen="""
    SELECT id FROM jobs_job WHERE state = 'ready' AND NOT blocked AND blocked = 0
        AND queue_name = :queue_name AND suspect = :suspects AND group_key = ''
    ORDER BY priority DESC, ready_at, id LIMIT :limit
"""
)
# Of one group, in words that find the index whichever Django wrote it.
OF_GROUP = """FROM jobs_job WHERE state = 'ready' AND NOT blocked AND blocked = 0
    AND queue_name = :queue_name AND suspect = :suspects AND group_key = :group"""
BEST_OF_GROUP = f"SELECT id {OF_GROUP} ORDER BY priority DESC, ready_at, id LIMIT :limit"
NEXT_PRIORITY = f"SELECT priority {OF_GROUP} AND priority < :priority ORDER BY priority DESC LIMIT 1"
OLDEST_OF_PRIORITY = f"SELECT ready_at, id {OF_GROUP} AND priority = :priority ORDER BY ready_at, id LIMIT :limit"
CLAIM_THESE = TAKE.format(chosen="SELECT value FROM json_each(:ids)")

SETTLE = """
UPDATE jobs_job SET state = :state, attempts = :attempts, crashes = :crashes, suspect = :suspect,
    worker_ids = :worker_ids, return_value = :return_value, leased_by = '', lease_expires_at = NULL,
    settled_token = CASE WHEN :by_holder THEN lease_token ELSE settled_token END,
    run_after = COALESCE(:run_after, run_after),
    ready_at = CASE WHEN :state = 'ready' THEN :now ELSE ready_at END,
    blocked = :state = 'scheduled' AND concurrency_key <> '',
    held_since = CASE WHEN :held THEN COALESCE(held_since, :now) END,
    started_at = :started_at,
    last_attempted_at = CASE WHEN :started_at IS NOT NULL THEN COALESCE(:last_attempted_at, last_attempted_at) END,
    finished_at = :finished_at,
    dedupe_lock = CASE WHEN :finished_at IS NULL THEN dedupe_lock END
WHERE id = :id AND lease_token = :token AND leased_by = :worker_id AND lease_expires_at IS NOT NULL
"""

# Successes travel as one JSON text, so that a batch is one statement, during all of which other threads run.
COMPLETE = """
UPDATE jobs_job SET state = 'succeeded', attempts = attempts + 1, suspect = 0, worker_ids = v.worker_ids,
    return_value = v.return_value, leased_by = '', lease_expires_at = NULL, settled_token = lease_token,
    started_at = CASE WHEN jobs_job.worker_ids = '[]' THEN v.began_at ELSE started_at END,
    last_attempted_at = v.began_at, finished_at = v.ended_at, held_since = NULL, dedupe_lock = NULL
FROM (
    SELECT json_extract(value, '$[0]') AS job_id, json_extract(value, '$[1]') AS token,
        json_extract(value, '$[2]') AS worker_id, json_extract(value, '$[3]') AS worker_ids,
        json_extract(value, '$[4]') AS return_value, json_extract(value, '$[5]') AS began_at,
        json_extract(value, '$[6]') AS ended_at
    FROM json_each(:rows)
) AS v
WHERE id = v.job_id AND lease_token = v.token AND leased_by = v.worker_id AND lease_expires_at IS NOT NULL
RETURNING id
"""

PULSE = """
SELECT (SELECT run_after FROM jobs_job WHERE state = 'scheduled' ORDER BY run_after, id LIMIT 1),
    EXISTS (SELECT 1 FROM jobs_job WHERE state = 'running' AND lease_expires_at < :now),
    EXISTS (SELECT 1 FROM jobs_job
        WHERE expires_at < :now AND started_at IS NULL AND finished_at IS NULL),
    EXISTS (SELECT 1 FROM jobs_job WHERE state = 'ready' AND blocked AND blocked = 1),
    (SELECT next_at FROM jobs_schedule WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1)
"""


class SQLiteStorage(Storage):
    def spelled(self, sql: str) -> str:
        """SQLite knows a partial index by the text of its condition, and that of a boolean Django writes in two ways:
        `NOT blocked` before 6.1, `blocked = 0` since. So a statement says both."""
        sql = re.sub(r"NOT (job\.)?blocked\b", r"NOT \1blocked AND \1blocked = 0", sql)
        return re.sub(r"AND blocked\b(?! =)", "AND blocked AND blocked = 1", sql)

    def now(self) -> datetime:
        """Return this host's time: SQLite is one host's database and has no clock of its own."""
        return timezone.now()

    def insert(self, rows: Sequence[NewJob], tell: bool = False) -> list[Inserted]:
        if len(rows) > 1:
            return super().insert(rows, tell)
        inserted: list[Inserted] = []
        for row in rows:
            if (one := self.insert_one(INSERT_ONE, row)) is None:
                raise QueueIsBounded(row.queue_name)
            inserted.append(one)
        return inserted

    def insert_unless_held(self, row: NewJob) -> Inserted | None:
        inserted = self.insert_one(INSERT_KEYED, row)
        if inserted is None:
            self.refuse_bounded(row)  # a key that is held is no refusal
        return inserted

    def insert_one(self, sql: str, row: NewJob) -> Inserted | None:
        job, arguments = self.arguments_of(row)
        with self.connection.cursor() as cursor:
            # As a string, which is stored as it is: Django finds JSON here by its text, and writes it so.
            kwargs = json.dumps(json.dumps(json.loads(row.kwargs)))
            cursor.execute(sql, arguments | call_of([kwargs], Keys.of_one(row)))
            found = cursor.fetchone()
        return Inserted(found[0], job.state, job.enqueued_at, job.run_after) if found else None

    def insert_many(self, template: NewJob, kwargs: Sequence[str], keys: Keys = NO_KEYS) -> list[Inserted]:
        job, added = self.insert_all(template, kwargs, keys)
        return [Inserted(job_id, job.state, job.enqueued_at, job.run_after) for job_id, _ in sorted(added)]

    def insert_many_unless_held(self, template: NewJob, kwargs: Sequence[str], keys: Keys) -> list[Inserted | None]:
        job, added = self.insert_all(template, kwargs, keys)
        same = job.state, job.enqueued_at, job.run_after
        rows = {key: Inserted(job_id, *same) for job_id, key in added}
        # Of several payloads with one key the first was added.
        return [rows.pop(key, None) for key in keys.dedupe]

    def insert_all(self, template: NewJob, kwargs: Sequence[str], keys: Keys) -> tuple[Job, list[tuple[int, str]]]:
        """Return what all have in common, and id and dedupe key of each that was added."""
        job, arguments = self.arguments_of(template)
        added: list[tuple[int, str]] = []
        with self.atomic():
            for part in portions(kwargs, CHUNK):
                these = call_of(kwargs[part], keys.part(range(len(kwargs))[part]))
                found = self.execute(INSERT_MANY, arguments | these).fetchall()
                if not found and arguments["unless_bounded"]:
                    if not keys.dedupe:
                        raise QueueIsBounded(template.queue_name)
                    self.refuse_bounded(template)
                arguments["unless_bounded"] = False  # all of them, or none
                added.extend(found)
        return job, added

    def arguments_of(self, template: NewJob) -> tuple[Job, dict[str, Any]]:
        job = self.job_from(template._replace(kwargs="{}"), self.now())
        arguments = template._asdict() | {
            "timeout": None if template.timeout is None else template.timeout // timedelta(microseconds=1),
            "args": json.dumps(job.args),
            "state": job.state,
            "now": stored(job.enqueued_at),
            "run_after": stored(job.run_after),
            "ready_at": stored(job.ready_at),
            "expires_at": stored(job.expires_at),
        }
        del arguments["delay"], arguments["expires_after"]
        return job, arguments

    def take(self, worker_id: str, claim: Claim, lease: timedelta) -> list[Lease]:
        monotonic, moment = time.monotonic(), self.now()
        arguments: dict[str, Any] = {
            "worker_id": worker_id,
            "queue_name": claim.queue_name,
            "now": stored(moment),
            "expires_at": stored(moment + lease),
        }
        with self.atomic():
            if claim.is_plain:
                arguments |= {"limit": claim.limit, "suspects": claim.suspects}
                rows = self.execute(CLAIM, arguments).fetchall()
            else:
                arguments["ids"] = json.dumps(self.chosen(claim))
                rows = self.execute(CLAIM_THESE, arguments).fetchall()
        # RETURNING has no order of its own.
        return best_first([lease_from(row, moment, monotonic) for row in rows], claim.ageing)

    def chosen_of(self, claim: Claim, group: str, limit: int) -> list[int]:
        arguments = {"queue_name": claim.queue_name, "suspects": claim.suspects, "group": group, "limit": limit}
        if claim.ageing is None:
            return [row[0] for row in self.execute(BEST_OF_GROUP, arguments).fetchall()]
        oldest: dict[int, list[tuple[datetime, int]]] = {}
        arguments["priority"] = HIGHEST_PRIORITY + 1
        while found := self.execute(NEXT_PRIORITY, arguments).fetchone():
            arguments["priority"] = found[0]
            oldest[found[0]] = self.execute(OLDEST_OF_PRIORITY, arguments).fetchall()
        return merged_by_age(oldest, limit, claim.ageing)

    def settle(self, settlements: Sequence[Settlement], by_holder: bool = True) -> set[int]:
        if not settlements:
            return set()
        with self.atomic():
            moment = self.now()
            accepted = set()
            for s in sorted(settlements, key=by_id):
                if self.execute(SETTLE, settle_arguments(s, moment, by_holder)).rowcount:
                    accepted.add(s.lease.id)
            self.leave_notes([s for s in settlements if s.lease.id in accepted], moment)
        return accepted

    def complete(self, successes: Sequence[Success]) -> set[int]:
        if not successes:
            return set()
        rows = [complete_row(s) for s in sorted(successes, key=by_id)]
        with self.atomic():
            return {row[0] for row in self.execute(COMPLETE, {"rows": json.dumps(rows)}).fetchall()}

    def pulse(self, limit: int = 1000) -> Pulse:
        # In a transaction that may write, though it seldom does: who cannot write must not judge who could not.
        with self.atomic():
            moment = self.now()
            found = self.look(moment)
            promoted, keys = 0, set[str]()
            if found.next_due is not None and found.next_due <= timedelta():
                promoted, keys = self.promoted(limit)
                found = self.look(moment)
        return found._replace(promoted=promoted, promoted_keys=sorted(keys))

    def look(self, moment: datetime) -> Pulse:
        """Return what a beat wants to know, with nothing promoted."""
        due, lost, expired, blocked, tick = self.execute(PULSE, {"now": stored(moment)}).fetchone()
        next_due, next_tick = (None if (then := loaded(found)) is None else then - moment for found in (due, tick))
        return Pulse(0, bool(lost), bool(expired), bool(blocked), next_due, next_tick)

    def execute(self, sql: str, arguments: dict[str, Any]) -> Any:
        """Run a statement on the driver's own connection: Django's cursor would rewrite its placeholders each time."""
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors:
            return connection.connection.execute(sql, arguments)

    def drop_connection(self) -> None:
        """As long as the file must not be written, opening it again would not help, and cost an open file.

        SQLite keeps that of a closed connection while another of this process has a lock, and all with WAL have.
        """
        path = self.connection.settings_dict["NAME"]
        if os.access(path, os.W_OK) or not os.path.exists(path):
            super().drop_connection()

    def watch(self) -> Watch:
        return DataVersion(self)


class DataVersion(Watch):
    """Sees that another connection has written the file: SQLite's `data_version` changes at each commit.

    It has to ask, and asks less often when nothing has been written for a while.
    """

    interval_seconds, rested_seconds = 0.01, 0.05
    rest_after_seconds = 5.0
    # A worker that only shows its presence commits once or twice in a while; a job that comes and goes, more often.
    changes_of_a_job = 3

    def __init__(self, storage: SQLiteStorage) -> None:
        self.connection = storage.connection
        self.connection.ensure_connection()
        self.cursor = self.connection.connection.cursor()
        self.seen = self.version()
        self.changes = deque([time.monotonic()] * self.changes_of_a_job, self.changes_of_a_job)

    def version(self) -> int:
        # On the driver's own connection: asked a hundred times a second, Django's layers would be most of the cost.
        return self.cursor.execute("PRAGMA data_version").fetchone()[0]  # type: ignore[no-any-return]

    def wait(self, seconds: float) -> set[str]:
        until = time.monotonic() + seconds
        with self.connection.wrap_database_errors:
            while (now := time.monotonic()) < until:
                rests = now - self.changes[0] > self.rest_after_seconds
                time.sleep(min(self.rested_seconds if rests else self.interval_seconds, until - now))
                if (version := self.version()) != self.seen:
                    self.seen = version
                    self.changes.append(time.monotonic())
                    return {ANY_QUEUE}
        return set()

    def close(self) -> None:
        self.connection.close()


def stored(moment: datetime | None) -> str | None:
    """Write a moment as Django's SQLite backend does: naive UTC text, which sorts as the time does."""
    return None if moment is None else str(moment.astimezone(UTC).replace(tzinfo=None))


def loaded(moment: datetime | None) -> datetime | None:
    """Read a moment as Django's converter for the column leaves it: naive, in UTC."""
    return None if moment is None else moment.replace(tzinfo=UTC)


def lease_from(row: Sequence[Any], moment: datetime, monotonic: float) -> Lease:
    return Lease.of((READ[name](value) for name, value in zip(CLAIMED, row, strict=True)), moment, monotonic)


def same(value: Any) -> Any:
    return value


READ = {name: loaded if name in DATES else bool if name in BOOLEANS else same for name in CLAIMED}
READ["timeout"] = lambda value: None if value is None else timedelta(microseconds=value)


def complete_row(s: Success) -> tuple[Any, ...]:
    lease = s.lease
    began_at = lease.claimed_at + timedelta(seconds=s.started)
    ended_at = lease.claimed_at + timedelta(seconds=s.finished)
    return (
        lease.id,
        lease.token,
        lease.worker_id,
        lease.worker_ids_after,
        s.value,
        stored(began_at),
        stored(ended_at),
    )


def settle_arguments(s: Settlement, moment: datetime, by_holder: bool) -> dict[str, Any]:
    return {
        "id": s.lease.id,
        "token": s.lease.token,
        "worker_id": s.lease.worker_id,
        "state": s.state.value,
        "attempts": s.attempts,
        "crashes": s.crashes,
        "suspect": s.suspect,
        "worker_ids": s.worker_ids,
        "return_value": s.return_value,
        "by_holder": by_holder,
        "run_after": None if s.delay is None else stored(moment + timedelta(seconds=s.delay)),
        "held": s.held,
        "now": stored(moment),
        "started_at": stored(s.started_at),
        "last_attempted_at": stored(s.last_attempted_at),
        "finished_at": stored(s.finished_at or moment) if s.state in ENDED else None,
    }


def call_of(kwargs: Sequence[str], keys: Keys) -> dict[str, str]:
    """Return what differs between jobs, as a statement takes it."""
    return {"calls": f"[{','.join(kwargs)}]"} | {f"{kind}_keys": json.dumps(of) for kind, of in keys._asdict().items()}
