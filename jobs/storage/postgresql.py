"""PostgreSQL: claims and outcomes in batches, one statement each, timed by the database's own clock."""

import selectors
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from django.db.utils import DatabaseError, OperationalError

from ..leases import FOUND, Lease
from ..outcomes import Settlement, Success
from ..states import ENDED, State
from .base import IS_BOUNDED, Storage, Watch, best_first, by_id, portions
from .cursors import UNPOOLED, producing
from .terms import NO_KEYS, Claim, Inserted, Keys, NewJob, Pulse, QueueIsBounded, Renewal

CHANNEL = "jobs_ready"
QUEUE_OF_NOTIFICATIONS_FULL = (
    "54000"  # somebody listens and does not read: workers poll, so a job needs no notification
)
# A prepared statement is gone, or somebody else's stands in its place, perhaps with other parameters.
NOT_OUR_SESSION = frozenset({"26000", "42P05", "08P01"})
# A producer's is gone, or what it returns is of another type since somebody changed the table.
NOT_PREPARED_HERE = frozenset({"26000", "42P05", "0A000"})
JSON_COLUMNS = frozenset({"args", "kwargs", "worker_ids"})


def column(name: str) -> str:
    """Name a column of a claimed row; JSON leaves the server as text, whatever the driver would make of it."""
    return f"job.{name}::text" if name in JSON_COLUMNS else f"job.{name}"


COLUMNS = """
INSERT INTO jobs_job (task_path, backend, queue_name, priority, args, kwargs, schema_version, max_attempts,
    max_crashes, timeout, idempotency_key, state, enqueued_at, run_after, ready_at,
    attempts, forgiven_attempts, crashes, suspect, cancel_requested, leased_by, lease_token, worker_ids,
    progress_message, dedupe_key, dedupe_lock, expires_at, drop_expired, concurrency_key, max_concurrent,
    blocked, group_key{more})
"""
VALUES = """
    %(task_path)s, %(backend)s, %(queue_name)s, %(priority)s, %(args)s::jsonb, {kwargs}, %(schema_version)s,
    %(max_attempts)s, %(max_crashes)s, %(timeout)s::interval, {idempotency_key},
    {state}, statement_timestamp(), {due}, {ready_at},
    0, 0, 0, FALSE, FALSE, '', 0, '[]', '', {dedupe_key}, {dedupe_lock}, {expires_at},
    %(drop_expired)s, {concurrency_key}, %(max_concurrent)s, {blocked}, {group_key}
"""
INSERT = COLUMNS.format(more="")
RETURNING = "RETURNING id, state, enqueued_at, run_after"
UNLESS_HELD = "ON CONFLICT (dedupe_lock) WHERE dedupe_lock IS NOT NULL DO NOTHING"
KEYLESS = {"dedupe_key": "''", "dedupe_lock": "NULL"}
KEYED = {"dedupe_key": "%(dedupe_key)s", "dedupe_lock": "%(dedupe_key)s"}
ONE = {"kwargs": "%(kwargs)s::jsonb", "idempotency_key": "%(idempotency_key)s"}
UNSHARED = {"concurrency_key": "''", "blocked": "FALSE", "group_key": "''"}
SHARED = {
    "concurrency_key": "%(concurrency_key)s::text",
    "blocked": "%(concurrency_key)s::text <> ''",
    "group_key": "%(group_key)s",
}
DUE = "COALESCE(statement_timestamp() + %(delay)s::interval, %(run_after)s::timestamptz)"
BY_TIME = {
    "due": DUE,
    "state": f"CASE WHEN {DUE} > statement_timestamp() THEN 'scheduled' ELSE 'ready' END",
    "ready_at": f"CASE WHEN {DUE} > statement_timestamp() THEN NULL ELSE statement_timestamp() END",
    "expires_at": "COALESCE(%(expires_at)s::timestamptz,"
    f" GREATEST({DUE}, statement_timestamp()) + %(expires_after)s::interval)",
}
AT_ONCE = {"due": "NULL", "state": "'ready'", "ready_at": "statement_timestamp()", "expires_at": "NULL"}
# Whether a queue takes only so much travels with what is added to it: nobody asks that of a queue without limits.
REFUSED = IS_BOUNDED.format(name="%(queue_name)s::varchar")
INSERT_ONE = f"{INSERT} SELECT {VALUES.format(**ONE, **BY_TIME, **KEYLESS, **SHARED)} WHERE NOT {REFUSED} {RETURNING}"
# A key that is held is no refusal.
INSERT_KEYED = f"""
WITH door AS MATERIALIZED (SELECT {REFUSED} AS refuses), added AS (
    {INSERT} SELECT {VALUES.format(**ONE, **BY_TIME, **KEYED, **SHARED)} FROM door WHERE NOT refuses
    {UNLESS_HELD} {RETURNING}
)
SELECT refuses, added.* FROM door LEFT JOIN added ON TRUE
"""
# Most jobs have no time of their own: a statement that says so is read and planned in four fifths of the time. Its
# moment comes back without a time zone: the driver reads that many times faster.
NOW = VALUES.format(**ONE, **AT_ONCE, **KEYLESS, **UNSHARED)
INSERT_NOW = f"{INSERT} SELECT {NOW} WHERE NOT {REFUSED} RETURNING id, enqueued_at AT TIME ZONE 'UTC'"
OF_ONE_CALL = ("args", "kwargs", "idempotency_key")
OF_ITS_TASK = (
    *("task_path", "backend", "queue_name", "priority"),
    *("schema_version", "max_attempts", "max_crashes", "timeout", "drop_expired", "max_concurrent"),
)
of_its_task, of_one_call = attrgetter(*OF_ITS_TASK), attrgetter(*OF_ONE_CALL)
# What calls of one task have in common travels once, all payloads as one JSON text. Ids come from a sequence in the
# order of the rows; RETURNING itself promises no order.
MANY = {
    "kwargs": "v.kwargs",
    "idempotency_key": "COALESCE(v.idempotency_key, '')",
    "concurrency_key": "COALESCE(v.concurrency_key, '')",
    "blocked": "v.concurrency_key IS NOT NULL",
    "group_key": "COALESCE(v.group_key, '')",
}
INSERT_MANY = f"""
WITH door AS MATERIALIZED (SELECT {REFUSED} AS refuses), added AS (
    {INSERT} SELECT {VALUES.format(**MANY, **BY_TIME, **KEYLESS)}
    FROM ROWS FROM (jsonb_array_elements(%(kwargs)s::jsonb), unnest(%(idempotency_keys)s::text[]),
        unnest(%(concurrency_keys)s::text[]), unnest(%(group_keys)s::text[]))
        WITH ORDINALITY AS v(kwargs, idempotency_key, concurrency_key, group_key, place)
    WHERE NOT (SELECT refuses FROM door)
    ORDER BY v.place
    {RETURNING}
)
SELECT (SELECT refuses FROM door), array_agg(id ORDER BY id), min(state), min(enqueued_at), min(run_after) FROM added
"""
# With ids given before, so that rows can be inserted in the order of their keys: two producers that wait for each
# other's would never end.
INSERT_MANY_KEYED = f"""
WITH door AS MATERIALIZED (SELECT {REFUSED} AS refuses), added AS (
    {COLUMNS.format(more=", id")}
    SELECT {VALUES.format(**MANY, **BY_TIME, dedupe_key="v.dedupe_key", dedupe_lock="v.dedupe_key")}, v.id
    FROM ROWS FROM (jsonb_array_elements(%(kwargs)s::jsonb), unnest(%(idempotency_keys)s::text[]),
        unnest(%(concurrency_keys)s::text[]), unnest(%(group_keys)s::text[]), unnest(%(dedupe_keys)s::text[]),
        unnest(%(ids)s::bigint[]))
        WITH ORDINALITY AS v(kwargs, idempotency_key, concurrency_key, group_key, dedupe_key, id, place)
    WHERE NOT (SELECT refuses FROM door)
    ORDER BY v.place
    {UNLESS_HELD} {RETURNING}
)
SELECT (SELECT refuses FROM door), COALESCE(array_agg(id), ARRAY[]::bigint[]), min(state), min(enqueued_at),
    min(run_after) FROM added
"""
# In the order of what is locked: two that lock the same keys never wait for each other.
LOCK_KEYS = """
SELECT pg_advisory_xact_lock(hash) FROM (
    SELECT DISTINCT hashtextextended(key, 719285131) AS hash FROM unnest(%s::text[]) AS key ORDER BY hash
) AS hashes
"""
UNBLOCK = """
UPDATE jobs_job SET blocked = FALSE, ready_at = statement_timestamp() WHERE id IN (
    SELECT next.id FROM unnest(%s::text[]) AS wanted(key)
    CROSS JOIN LATERAL (
        SELECT max_concurrent FROM jobs_job WHERE state = 'ready' AND blocked AND concurrency_key = wanted.key
        ORDER BY priority DESC, ready_at, id LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
        SELECT count(*) AS slots FROM jobs_job
        WHERE concurrency_key = wanted.key AND concurrency_key <> '' AND NOT blocked AND finished_at IS NULL
    ) AS taken
    CROSS JOIN LATERAL (
        SELECT id FROM jobs_job WHERE state = 'ready' AND blocked AND concurrency_key = wanted.key
        ORDER BY priority DESC, ready_at, id LIMIT GREATEST(0, first.max_concurrent - taken.slots)
        FOR UPDATE SKIP LOCKED
    ) AS next
)
RETURNING CASE WHEN group_key = '' THEN queue_name ELSE '' END
"""
NEXT_IDS = """
SELECT nextval(sequence.name) FROM (SELECT pg_get_serial_sequence('jobs_job', 'id') AS name OFFSET 0) AS sequence,
    generate_series(1, %s)
"""
REPLACE = f"""
UPDATE jobs_job SET args = %(args)s::jsonb, kwargs = %(kwargs)s::jsonb, schema_version = %(schema_version)s,
    idempotency_key = %(idempotency_key)s, run_after = {DUE}, state = {BY_TIME["state"]},
    forgiven_attempts = attempts, crashes = 0, held_since = NULL,
    expires_at = {BY_TIME["expires_at"]},
    ready_at = CASE WHEN {DUE} > statement_timestamp() THEN NULL
        WHEN state = 'ready' AND (%(concurrency_key)s <> '' OR NOT blocked) THEN ready_at
        ELSE statement_timestamp() END,
    blocked = %(concurrency_key)s <> ''
        AND (blocked OR concurrency_key <> %(concurrency_key)s OR COALESCE({DUE} > statement_timestamp(), FALSE)),
    concurrency_key = %(concurrency_key)s, max_concurrent = %(max_concurrent)s, group_key = %(group_key)s
WHERE dedupe_lock = %(dedupe_key)s AND task_path = %(task_path)s AND state IN ('scheduled', 'ready')
{RETURNING}
"""
CHUNK = 10_000  # payloads in one statement

# For this transaction only, be it one around a pipeline: what a session is told, a pooler would tell others too.
LIMIT_LOCK_WAITS = "SELECT set_config('lock_timeout', '200ms', TRUE)"

# A pooler gives its clients numbers of its own, not those of the servers' processes.
LIMIT_STATEMENTS = """
SELECT set_config(name, %(milliseconds)s, FALSE)
FROM unnest(ARRAY['statement_timeout', 'idle_in_transaction_session_timeout']) AS name
WHERE pg_backend_pid() = %(known_as)s AND current_setting(name) = '0'
"""

SERVER = ", pg_backend_pid()"
TELL = f", pg_notify('{CHANNEL}', queue_name)"


@cache
def asking(sql: str, asks: bool) -> str:
    """Return an INSERT as it is, or one that does not look whether its queue takes only so much."""
    return sql if asks else sql.replace(REFUSED, "FALSE")


@lru_cache(maxsize=512)
def insert_now_sql(values: tuple[Any, ...], asks: bool) -> str:
    """Return INSERT_NOW for calls of one task: what they have in common is merged once, not by the driver each time."""
    from psycopg.sql import Literal

    literals = [Literal(value).as_string(None).replace("%", "%%") for value in values]
    texts = dict(zip(OF_ITS_TASK, literals, strict=True))
    return asking(INSERT_NOW, asks) % (texts | dict.fromkeys(OF_ONE_CALL, "%s"))


READY = """
    SELECT ctid FROM jobs_job WHERE state = 'ready' AND NOT blocked AND queue_name = %(queue_name)s
        AND suspect = %(suspects)s AND group_key = {group}{band}
    ORDER BY priority DESC, ready_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED
"""

# The rows are locked first and then updated where they lie: by id the planner would look each of them up once more or,
# in a table of a few thousand rows, read all of it. A locked row stays where it is.
CLAIM = f"""
UPDATE jobs_job AS job SET state = 'running', leased_by = %(worker_id)s, lease_token = job.lease_token + 1,
    lease_expires_at = statement_timestamp() + %(lease)s,
    started_at = COALESCE(job.started_at, statement_timestamp()), last_attempted_at = statement_timestamp()
WHERE job.ctid = ANY(ARRAY(
    SELECT ctid FROM ({{ready}}) AS ready
    WHERE NOT EXISTS (SELECT 1 FROM jobs_queue WHERE name = %(queue_name)s AND paused) LIMIT %(limit)s
))
RETURNING {", ".join(column(name) for name in FOUND)}, job.last_attempted_at
"""


@cache
def claim_sql(places: int) -> str:
    """Return the claim that begins behind so many places, best first, and looks at all other priorities too.

    Each band enters the ready index in its middle: equality on queue and priority, a range on the rest. From the
    beginning it would pass every entry that was claimed since the oldest open transaction began: nothing can remove
    those, and passing a hundred thousand of them takes longer than claiming a batch. Bands are read one after another
    and only until the limit is reached.
    """
    bands = []
    for n in range(places):
        above = f" AND priority < %(priority{n - 1})s" if n else ""
        bands.append(f"{above} AND priority > %(priority{n})s")
        bands.append(f" AND priority = %(priority{n})s AND (ready_at, id) > (%(ready_at{n})s, %(id{n})s)")
    bands.append(f" AND priority < %(priority{places - 1})s" if places else "")
    ready = [READY.format(group="''", limit="%(limit)s", band=band) for band in bands]
    parts = [f"SELECT ctid FROM ({part}) AS band{n}" for n, part in enumerate(ready)]
    return CLAIM.format(ready=" UNION ALL ".join(parts))


# Each group an equal share, through its own prefix of the ready index.
IN_TURNS = """
SELECT next.ctid FROM unnest(%(groups)s::text[]) WITH ORDINALITY AS turn(name, place)
CROSS JOIN LATERAL ({ready}) AS next
"""
CLAIM_IN_TURNS = CLAIM.format(
    ready=IN_TURNS.format(
        ready=READY.format(group="turn.name", limit="%(share)s + (turn.place <= %(more)s)::int", band="")
    )
)
# Of each priority the oldest: no more of them can be among the best. There are few priorities.
AGED = """
WITH RECURSIVE priorities(value) AS (
    SELECT max(priority) FROM jobs_job WHERE {of_group}
    UNION ALL
    SELECT (SELECT max(priority) FROM jobs_job WHERE {of_group} AND priority < priorities.value)
    FROM priorities WHERE priorities.value IS NOT NULL
)
SELECT oldest.ctid FROM priorities CROSS JOIN LATERAL (
    SELECT ctid, ready_at, id FROM jobs_job WHERE {of_group} AND priority = priorities.value
    ORDER BY ready_at, id LIMIT %(share)s + (turn.place <= %(more)s)::int FOR UPDATE SKIP LOCKED
) AS oldest
ORDER BY oldest.ready_at - priorities.value * %(ageing)s::interval, oldest.id
LIMIT %(share)s + (turn.place <= %(more)s)::int
"""
OF_GROUP = """state = 'ready' AND NOT blocked AND queue_name = %(queue_name)s
        AND suspect = %(suspects)s AND group_key = turn.name"""
CLAIM_AGED = CLAIM.format(ready=IN_TURNS.format(ready=AGED.format(of_group=OF_GROUP)))


# By primary key and lease, never by state: the planner would take the small index of running rows, which the
# statistics call empty while a drain fills it with dead entries. For the same reason it must not see that a lease is
# asked for: by the statistics of a quiet hour nobody holds one, and for a single row it would compare every outcome
# with every row of the table.
SETTLE = """
UPDATE jobs_job AS job SET state = v.state, attempts = v.attempts, crashes = v.crashes, suspect = v.suspect,
    worker_ids = v.worker_ids::jsonb, return_value = v.return_value::jsonb, leased_by = '', lease_expires_at = NULL,
    settled_token = CASE WHEN %s THEN job.lease_token ELSE job.settled_token END,
    run_after = COALESCE(statement_timestamp() + v.delay, job.run_after),
    ready_at = CASE WHEN v.state = 'ready' THEN statement_timestamp() ELSE job.ready_at END,
    blocked = v.state = 'scheduled' AND job.concurrency_key <> '',
    held_since = CASE WHEN v.held THEN COALESCE(job.held_since, statement_timestamp()) END,
    started_at = v.started_at,
    last_attempted_at = CASE WHEN v.started_at IS NOT NULL
        THEN COALESCE(v.last_attempted_at, job.last_attempted_at) END,
    finished_at = CASE WHEN v.ended THEN COALESCE(v.finished_at, statement_timestamp()) END,
    dedupe_lock = CASE WHEN v.ended THEN NULL ELSE job.dedupe_lock END
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::int[], %s::int[], %s::bool[], %s::text[],
    %s::text[], %s::interval[], %s::bool[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::bool[])
    AS v(id, token, worker_id, state, attempts, crashes, suspect, worker_ids, return_value, delay, held, started_at,
        last_attempted_at, finished_at, ended)
WHERE job.id = v.id AND job.lease_token = v.token AND job.leased_by = v.worker_id
    AND COALESCE(job.lease_expires_at, '-infinity') > '-infinity'
RETURNING job.id
"""

# As SETTLE, for what most outcomes are. What follows from the claim is not sent back: its moment stands in
# last_attempted_at, and a run is that many microseconds after it.
COMPLETE = """
UPDATE jobs_job AS job SET state = 'succeeded', attempts = job.attempts + 1, suspect = FALSE,
    worker_ids = CASE WHEN job.worker_ids = '[]' THEN %s::jsonb ELSE job.worker_ids || to_jsonb(job.leased_by) END,
    return_value = v.value::jsonb,
    leased_by = '', lease_expires_at = NULL, settled_token = job.lease_token,
    started_at = CASE WHEN job.worker_ids = '[]' THEN job.last_attempted_at + v.started * INTERVAL '1 microsecond'
        ELSE job.started_at END,
    last_attempted_at = job.last_attempted_at + v.started * INTERVAL '1 microsecond',
    finished_at = job.last_attempted_at + v.finished * INTERVAL '1 microsecond',
    held_since = NULL, dedupe_lock = NULL
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])
    AS v(id, token, started, finished, value), (SELECT %s::text AS worker_id OFFSET 0) AS holder
WHERE job.id = v.id AND job.lease_token = v.token AND job.leased_by = holder.worker_id
    AND COALESCE(job.lease_expires_at, '-infinity') > '-infinity'
RETURNING job.id
"""

RENEW = """
WITH free AS MATERIALIZED (
    SELECT id FROM jobs_job WHERE state = 'running' AND leased_by = %(worker_id)s ORDER BY id FOR UPDATE SKIP LOCKED
), renewed AS (
    UPDATE jobs_job AS job SET lease_expires_at = statement_timestamp() + %(lease)s
    FROM free WHERE job.id = free.id AND job.lease_expires_at IS NOT NULL
    RETURNING job.id
)
SELECT job.id, job.lease_token, job.id IN (SELECT id FROM renewed), job.cancel_requested
FROM jobs_job AS job WHERE job.state = 'running' AND job.leased_by = %(worker_id)s
"""


PROMOTE = """
WITH due AS MATERIALIZED (
    SELECT id FROM jobs_job WHERE state = 'scheduled' AND run_after <= statement_timestamp()
    ORDER BY run_after, id LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE jobs_job AS job SET state = 'ready', ready_at = statement_timestamp() FROM due WHERE job.id = due.id
"""

# One statement a beat, so that an idle tree costs next to nothing. Of what has expired and of who is blocked it asks
# for the first index entry, not EXISTS: that would tempt the planner to read the whole table, because it expects many
# rows. It sees the table as it was before: what is promoted now has been due, so the next one is what is due later.
PULSE = f"""
WITH promoted AS ({PROMOTE} RETURNING job.concurrency_key)
SELECT (SELECT count(*) FROM promoted),
    EXISTS (SELECT 1 FROM jobs_job WHERE state = 'running' AND lease_expires_at < statement_timestamp()),
    COALESCE((SELECT expires_at FROM jobs_job
        WHERE expires_at IS NOT NULL AND started_at IS NULL AND finished_at IS NULL
        ORDER BY expires_at, id LIMIT 1) < statement_timestamp(), FALSE),
    (SELECT concurrency_key FROM jobs_job WHERE state = 'ready' AND blocked
        ORDER BY concurrency_key, priority DESC, ready_at, id LIMIT 1) IS NOT NULL,
    (SELECT run_after FROM jobs_job WHERE state = 'scheduled' AND run_after > statement_timestamp()
     ORDER BY run_after, id LIMIT 1) - statement_timestamp(),
    (SELECT next_at FROM jobs_schedule WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1) - statement_timestamp(),
    (SELECT COALESCE(array_agg(DISTINCT concurrency_key), '{{}}') FROM promoted WHERE concurrency_key <> '')
"""


class PostgresStorage(Storage):
    prepares = True

    def now(self) -> datetime:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT statement_timestamp()")
            return cursor.fetchone()[0]  # type: ignore[no-any-return]

    def insert(self, rows: Sequence[NewJob], tell: bool = False) -> list[Inserted]:
        connection = self.connection
        try:
            with producing(connection, self.prepares) as cursor:
                return [self.insert_one(cursor, row, tell) for row in rows]
        except DatabaseError as error:
            if not self.prepares or getattr(error.__cause__, "sqlstate", None) not in NOT_PREPARED_HERE:
                raise
            self.prepares = False
            if connection.in_atomic_block or not connection.get_autocommit() or len(rows) > 1:
                raise
        return self.insert(rows, tell)

    def insert_one(self, cursor: Any, row: NewJob, tell: bool) -> Inserted:
        is_now = row.run_after is None and row.delay is None and row.expires_at is None and row.expires_after is None
        is_now = is_now and not row.concurrency_key and not row.group_key
        values: Any = of_one_call(row) if is_now else row._asdict()
        asks = row.unless_bounded
        sql = insert_now_sql(of_its_task(row), asks) if is_now else asking(INSERT_ONE, asks)
        driver = cursor.connection
        asks_for_server = is_now and driver not in UNPOOLED
        try:
            cursor.execute("".join((sql, SERVER if asks_for_server else "", TELL if tell else "")), values)
        except OperationalError as error:
            if not tell or getattr(error.__cause__, "sqlstate", None) != QUEUE_OF_NOTIFICATIONS_FULL:
                raise
            return self.insert_one(cursor, row, tell=False)
        found = cursor.fetchone()
        if found is None:
            raise QueueIsBounded(row.queue_name)
        if not is_now:
            return Inserted(*found[:4])
        if asks_for_server and found[2] == driver.info.backend_pid:
            UNPOOLED.add(driver)
        return Inserted(found[0], State.READY, found[1].replace(tzinfo=UTC), None)

    def insert_many(self, template: NewJob, kwargs: Sequence[str], keys: Keys = NO_KEYS) -> list[Inserted]:
        inserted: list[Inserted] = []
        arguments, asks = template._asdict(), template.unless_bounded
        with self.connection.cursor() as cursor:
            for part in portions(kwargs, CHUNK):
                arguments["kwargs"] = f"[{','.join(kwargs[part])}]"
                arguments["idempotency_keys"] = list(keys.idempotency[part])
                arguments["concurrency_keys"] = list(keys.concurrency[part])
                arguments["group_keys"] = list(keys.group[part])
                cursor.execute(asking(INSERT_MANY, asks), arguments)
                refuses, ids, *same = cursor.fetchone()
                if refuses:
                    raise QueueIsBounded(template.queue_name)
                asks = False  # all of them, or none
                inserted.extend(Inserted(job_id, *same) for job_id in ids)
        return inserted

    def insert_many_unless_held(self, template: NewJob, kwargs: Sequence[str], keys: Keys) -> list[Inserted | None]:
        inserted: dict[int, Inserted] = {}
        places = sorted(range(len(kwargs)), key=keys.dedupe.__getitem__)
        texts = [kwargs[place] for place in places]
        arguments, asks = template._asdict(), template.unless_bounded
        with self.connection.cursor() as cursor:
            cursor.execute(NEXT_IDS, [len(kwargs)])
            ids = [row[0] for row in cursor.fetchall()]
            for part in portions(texts, CHUNK):
                arguments["kwargs"] = f"[{','.join(texts[part])}]"
                these = keys.part(places[part])
                arguments |= {f"{kind}_keys": list(found) for kind, found in these._asdict().items()}
                arguments["ids"] = [ids[place] for place in places[part]]
                cursor.execute(asking(INSERT_MANY_KEYED, asks), arguments)
                refuses, added, *same = cursor.fetchone()
                if refuses:
                    raise QueueIsBounded(template.queue_name)
                asks = False
                inserted |= {job_id: Inserted(job_id, *same) for job_id in added}
        return [inserted.get(job_id) for job_id in ids]

    def unblock(self, keys: Collection[str]) -> set[str]:
        if not keys:
            return set()
        with self.atomic(), self.connection.cursor() as cursor:
            # Whoever stands still with a lock on a key must not hold up those that settle.
            cursor.execute(LIMIT_LOCK_WAITS)
            # In a statement of its own: the next one is to see what has been handed out while this one waited.
            cursor.execute(LOCK_KEYS, [list(keys)])
            cursor.execute(UNBLOCK, [list(keys)])
            return {row[0] for row in cursor.fetchall()}

    def insert_unless_held(self, row: NewJob) -> Inserted | None:
        refuses, *found = self.written_by(asking(INSERT_KEYED, row.unless_bounded), row)
        if refuses:
            raise QueueIsBounded(row.queue_name)
        return Inserted(*found) if found[0] is not None else None

    def replace(self, row: NewJob) -> Inserted | None:
        found = self.written_by(REPLACE, row)
        return Inserted(*found)._replace(is_duplicate=True) if found else None

    def written_by(self, sql: str, row: NewJob) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, row._asdict())
            return cursor.fetchone()

    def take(self, worker_id: str, claim: Claim, lease: timedelta) -> list[Lease]:
        with self.driver() as connection:
            return self.send_claim(connection, worker_id, claim, lease).leases()

    def exchange(
        self,
        worker_id: str,
        claims: Sequence[Claim],
        lease: timedelta,
        successes: Callable[[], Sequence[Success]] | None = None,
    ) -> tuple[list[list[Lease]], set[int]]:
        if successes is None and len(claims) == 1:
            with self.driver() as connection:  # a pipeline of one would only add a message
                return [self.send_claim(connection, worker_id, claims[0], lease).leases()], set()
        with self.driver() as connection, connection.pipeline():
            if successes:
                self.sent(connection, LIMIT_LOCK_WAITS, [])
            claiming = [self.send_claim(connection, worker_id, claim, lease) for claim in claims]
            completing = self.send_successes(connection, successes() if successes else [])
        return [sent.leases() for sent in claiming], ids_of(completing)

    def complete(self, successes: Sequence[Success]) -> set[int]:
        if not successes:
            return set()
        with self.driver() as connection, connection.pipeline():
            self.sent(connection, LIMIT_LOCK_WAITS, [])
            completing = self.send_successes(connection, successes)
        return ids_of(completing)

    def limit_lock_waits(self) -> None:
        with self.binding_cursor() as cursor:
            cursor.execute(LIMIT_LOCK_WAITS)

    def limit_statements(self, seconds: float) -> None:
        known_as = self.connection.connection.info.backend_pid
        with self.binding_cursor() as cursor:
            cursor.execute(LIMIT_STATEMENTS, {"milliseconds": str(int(seconds * 1000)), "known_as": known_as})

    def send_claim(self, connection: Any, worker_id: str, claim: Claim, lease: timedelta) -> "SentClaim":
        arguments: dict[str, Any] = {
            "worker_id": worker_id,
            "queue_name": claim.queue_name,
            "limit": claim.limit,
            "lease": lease,
            "suspects": claim.suspects,
        }
        if claim.is_plain:
            sql = claim_sql(len(claim.places))
            for n, place in enumerate(sorted(claim.places, reverse=True)):
                arguments |= {f"{name}{n}": value for name, value in place._asdict().items()}
        else:
            sql = CLAIM_IN_TURNS if claim.ageing is None else CLAIM_AGED
            share, more = claim.shares
            arguments |= {"groups": list(claim.groups), "share": share, "more": more, "ageing": claim.ageing}
        monotonic = time.monotonic()
        cursor = self.sent(connection, sql, arguments, binary=True)
        return SentClaim(cursor, (worker_id, claim.queue_name, claim.suspects), monotonic, claim.ageing)

    def send_successes(self, connection: Any, successes: Sequence[Success]) -> list[Any]:
        sent = []
        for worker_id in sorted({s.lease.worker_id for s in successes}):
            mine = sorted((s for s in successes if s.lease.worker_id == worker_id), key=by_id)
            sent.append(self.sent(connection, COMPLETE, [f'["{worker_id}"]', *complete_columns(mine), worker_id]))
        return sent

    def sent(self, connection: Any, sql: str, arguments: Any, binary: bool = False) -> Any:
        """Execute a prepared statement on a cursor of its own; in a pipeline nobody waits for its result yet."""
        from psycopg import Cursor

        cursor = Cursor(connection)
        cursor.execute(sql, arguments, prepare=True, binary=binary)
        return cursor

    def settle(self, settlements: Sequence[Settlement], by_holder: bool = True) -> set[int]:
        if not settlements:
            return set()
        if not any(s.attempt or s.death for s in settlements):
            return self.settle_rows(settlements, by_holder)
        with self.atomic():
            accepted = self.settle_rows(settlements, by_holder)
            self.leave_notes([s for s in settlements if s.lease.id in accepted], self.now())
        return accepted

    def settle_rows(self, settlements: Sequence[Settlement], by_holder: bool) -> set[int]:
        rows = [settle_row(s) for s in sorted(settlements, key=by_id)]
        with self.binding_cursor() as cursor:
            cursor.execute(SETTLE, [by_holder, *(list(column) for column in zip(*rows, strict=True))])
            return {row[0] for row in cursor.fetchall()}

    def renew(self, worker_id: str, lease: timedelta) -> list[Renewal]:
        with self.binding_cursor() as cursor:
            cursor.execute(RENEW, {"worker_id": worker_id, "lease": lease})
            return [Renewal(*row) for row in cursor.fetchall()]

    def promote(self, limit: int = 1000) -> int:
        with self.binding_cursor() as cursor:
            cursor.execute(PROMOTE, [limit])
            return cursor.rowcount  # type: ignore[no-any-return]

    def pulse(self, limit: int = 1000) -> Pulse:
        with self.driver() as connection:
            return Pulse(*self.sent(connection, PULSE, [limit]).fetchone())

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """Return the driver's connection, whose cursors bind on the server: a batch is not pasted into the SQL.

        Raises: OperationalError when a pooler has given the server's session to somebody else in between, so that
        prepared statements are not to be had. From then on none is prepared: try again on a new connection.
        """
        import psycopg

        connection = self.connection
        connection.ensure_connection()
        driver = connection.connection
        # Tasks may use this connection too, and whether their statements are prepared is not ours to say.
        theirs = driver.prepare_threshold
        with connection.wrap_database_errors:
            driver.prepare_threshold = 5 if self.prepares else None
            try:
                yield driver
            except psycopg.Error as error:
                if error.sqlstate not in NOT_OUR_SESSION:
                    raise
                self.prepares = False
                raise psycopg.OperationalError(f"no prepared statements behind this pooler: {error}") from error
            finally:
                driver.prepare_threshold = theirs

    @contextmanager
    def binding_cursor(self) -> Iterator[Any]:
        from psycopg import Cursor

        with self.driver() as connection, Cursor(connection) as cursor:
            yield cursor

    def notify(self, queue_name: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, queue_name])

    def watch(self) -> Watch:
        return Listener(self)


class SentClaim(NamedTuple):
    """A claim under way, and what of its leases need not come back with it: worker, queue and suspicion."""

    cursor: Any
    known: tuple[str, str, bool]
    monotonic: float
    ageing: timedelta | None

    def leases(self) -> list[Lease]:
        known, monotonic = self.known, self.monotonic
        # The moment of the claim is when the last attempt starts, until the attempt itself knows better.
        leases = [
            Lease._make((*row[:-1], *known, row[-1], row[-1], monotonic, False)) for row in self.cursor.fetchall()
        ]
        return best_first(leases, self.ageing)


class Listener(Watch):
    """Hears NOTIFY. One that stops arriving (PgBouncer, a lost connection) only adds latency: polling goes on."""

    def __init__(self, storage: PostgresStorage) -> None:
        self.storage = storage
        with storage.connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        self.selector = selectors.DefaultSelector()
        self.selector.register(storage.connection.connection, selectors.EVENT_READ)
        self.overheard = self.heard_meanwhile()

    def wait(self, seconds: float) -> set[str]:
        news, self.overheard = self.overheard, set()
        # The driver's own wait would look ten times a second.
        if not news and self.selector.select(seconds):
            news = self.heard()
        return news

    def heard(self) -> set[str]:
        connection = self.storage.connection
        with connection.wrap_database_errors:
            pgconn = connection.connection.pgconn
            pgconn.consume_input()
            return {notify.extra.decode() for notify in iter(pgconn.notifies, None)}

    def heard_meanwhile(self) -> set[str]:
        """Return what has come with the answer to another question: the driver has put it aside."""
        connection = self.storage.connection
        with connection.wrap_database_errors:
            return {notify.payload for notify in connection.connection.notifies(timeout=0)}

    def probe(self) -> None:
        self.storage.now()
        self.overheard |= self.heard_meanwhile()

    def close(self) -> None:
        self.selector.close()
        self.storage.connection.close()


def ids_of(cursors: Iterable[Any]) -> set[int]:
    return {row[0] for cursor in cursors for row in cursor.fetchall()}


def complete_columns(successes: Sequence[Success]) -> list[Any]:
    """Return COMPLETE's arrays. Numbers are joined here: the driver would look at each of them to learn its type."""
    values = [s.value for s in successes]
    return [
        array(s.lease.id for s in successes),
        array(s.lease.token for s in successes),
        array(int(s.started * 1e6) for s in successes),
        array(int(s.finished * 1e6) for s in successes),
        values if any(values) else [],  # unnest fills a short array with nulls
    ]


def array(numbers: Iterable[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def settle_row(s: Settlement) -> tuple[Any, ...]:
    lease = s.lease
    delay = None if s.delay is None else timedelta(seconds=s.delay)
    return (
        lease.id,
        lease.token,
        lease.worker_id,
        s.state.value,
        s.attempts,
        s.crashes,
        s.suspect,
        s.worker_ids,
        s.return_value,
        delay,
        s.held,
        s.started_at,
        s.last_attempted_at,
        s.finished_at,
        s.state in ENDED,
    )
