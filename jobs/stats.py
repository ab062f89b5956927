"""What people and alarms want to know of the queue: read-only figures that cost the same whatever the backlog.

Every number is counted up to `MAX_COUNTED` and means "at least" there. The SQL names the states as literals: a
partial index serves a query only when the planner can see its condition in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, models, router

from .models import Job, Queue, Schedule, Worker
from .models.schedule import NOT_DECLARED
from .states import State
from .storage import storage

MAX_COUNTED = 10_000
MAX_QUEUES = 200
MAX_GROUPS = 200  # of a queue, among which the oldest job is looked for
CHUNK = 200
# Workers write a sign of life at each heartbeat, a third of a lease: three in a row are missing by then.
STALE_AFTER = timedelta(seconds=60)
LATE = timedelta(seconds=60)  # a schedule that has been due for so long

# Hops from one queue name to the next through the index instead of reading every entry of it.
READY_QUEUES = """
WITH RECURSIVE names(name) AS (
    SELECT MIN(queue_name) FROM {jobs} WHERE state = 'ready' AND NOT blocked
    UNION ALL
    SELECT (SELECT MIN(queue_name) FROM {jobs} WHERE state = 'ready' AND NOT blocked AND queue_name > names.name)
    FROM names WHERE names.name IS NOT NULL
), named AS (
    SELECT name FROM names WHERE name IS NOT NULL LIMIT {max_queues}
)
"""

ONE_QUEUE = "WITH RECURSIVE named(name) AS (SELECT CAST(%s AS VARCHAR(100)))"

READY_COUNTS = (
    READY_QUEUES
    + """
SELECT name, (
    SELECT COUNT(*) FROM (
        SELECT 1 FROM {jobs} WHERE state = 'ready' AND NOT blocked AND queue_name = named.name LIMIT {max_counted}
    ) AS counted
)
FROM named
"""
)

# Within a queue the index is ordered by suspicion, group and priority, then by age: the oldest job is the first of one
# of these runs, so hop from group to group, and in each from run to run.
OLDEST_READY = (
    READY_QUEUES
    + """
, keyed(name, suspect, group_key, n) AS (
    SELECT named.name, choice.suspect, (
        SELECT MIN(group_key) FROM {jobs} AS job
        WHERE job.state = 'ready' AND NOT job.blocked AND job.queue_name = named.name AND job.suspect = choice.suspect
    ), 1
    FROM named CROSS JOIN (SELECT FALSE AS suspect UNION ALL SELECT TRUE) AS choice
    UNION ALL
    SELECT keyed.name, keyed.suspect, (
        SELECT MIN(group_key) FROM {jobs} AS job
        WHERE job.state = 'ready' AND NOT job.blocked AND job.queue_name = keyed.name AND job.suspect = keyed.suspect
          AND job.group_key > keyed.group_key
    ), n + 1
    FROM keyed WHERE keyed.group_key IS NOT NULL AND n < {max_groups}
), runs(name, suspect, group_key, priority) AS (
    SELECT keyed.name, keyed.suspect, keyed.group_key, (
        SELECT MAX(priority) FROM {jobs} AS job
        WHERE job.state = 'ready' AND NOT job.blocked AND job.queue_name = keyed.name AND job.suspect = keyed.suspect
          AND job.group_key = keyed.group_key
    )
    FROM keyed WHERE keyed.group_key IS NOT NULL
    UNION ALL
    SELECT runs.name, runs.suspect, runs.group_key, (
        SELECT MAX(priority) FROM {jobs} AS job
        WHERE job.state = 'ready' AND NOT job.blocked AND job.queue_name = runs.name AND job.suspect = runs.suspect
          AND job.group_key = runs.group_key AND job.priority < runs.priority
    )
    FROM runs WHERE runs.priority IS NOT NULL
)
SELECT name, MIN((
    SELECT MIN(ready_at) FROM {jobs} AS job
    WHERE job.state = 'ready' AND NOT job.blocked AND job.queue_name = runs.name AND job.suspect = runs.suspect
      AND job.group_key = runs.group_key AND job.priority = runs.priority
))
FROM runs WHERE runs.priority IS NOT NULL GROUP BY name
"""
)

DEPTH = """
SELECT COUNT(*) FROM (
    SELECT 1 FROM {jobs} WHERE state = 'ready' AND NOT blocked AND queue_name = %s LIMIT %s
) AS counted
"""

# How many of the first `max_counted` jobs in the state each queue has, and when the first of them is due.
FIRST_ONES = """
SELECT queue_name, COUNT(*), MIN(run_after), COUNT(held_since) FROM (
    SELECT queue_name, run_after, held_since FROM {jobs} WHERE state = '{state}' ORDER BY {order} LIMIT {max_counted}
) AS first_ones
GROUP BY queue_name ORDER BY queue_name LIMIT {max_queues}
"""

# The order of the index that holds the state: soonest, by worker, newest death.
ORDERS = {
    State.SCHEDULED: "run_after, id",
    State.RUNNING: "leased_by, id",
    State.DEAD: "finished_at DESC, id DESC",
}

BLOCKED_COUNTS = """
SELECT queue_name, COUNT(*) FROM (
    SELECT queue_name FROM {jobs} WHERE state = 'ready' AND blocked
    ORDER BY concurrency_key, priority DESC, ready_at, id LIMIT {max_counted}
) AS first_ones
GROUP BY queue_name ORDER BY queue_name LIMIT {max_queues}
"""

BLOCKED = "blocked"  # among states: ready, but for a slot of its concurrency key

# The same for lists of one state, so that a page reads only the rows it shows.
LISTED_BY = {
    State.SCHEDULED: ("run_after", "pk"),
    State.READY: ("queue_name", "suspect", "group_key", "-priority", "ready_at", "pk"),
    State.RUNNING: ("leased_by", "pk"),
    State.DEAD: ("-finished_at", "-pk"),
    BLOCKED: ("concurrency_key", "-priority", "ready_at", "pk"),
}


def listed(jobs: Any, state: str) -> Any:
    """Return the jobs in a state, or those that are blocked, which are ready and not handed out."""
    if state == BLOCKED:
        return jobs.filter(state=State.READY, blocked=True)
    return jobs.filter(state=state, blocked=False) if state == State.READY else jobs.filter(state=state)


@dataclass
class QueueFigures:
    """One queue at one moment. Counts stop at `MAX_COUNTED`; `oldest` is None when nothing could be claimed."""

    name: str
    paused: bool = False
    paused_reason: str = ""
    tripped_by: str = ""
    paused_by: str = ""
    scheduled: int = 0
    ready: int = 0
    blocked: int = 0
    running: int = 0
    dead: int = 0
    oldest: timedelta | None = None
    held: int = 0  # of the scheduled ones: no worker that met them knows their task

    def depths(self) -> Iterator[tuple[str, int]]:
        for state in ("scheduled", "ready", BLOCKED, "running", "dead"):
            yield state, getattr(self, state)


def queues(now: datetime) -> list[QueueFigures]:
    """Return the figures of every queue that has a row or a job that is not over, by name.

    Shape: at most `MAX_QUEUES` queues. Dead jobs are split by queue over the newest `MAX_COUNTED` deaths.
    `oldest`: how long the oldest job that a worker may take has waited: ready, or due and not yet promoted. Where
    groups take turns it is that of the first `MAX_GROUPS` of them.
    """
    figures: dict[str, QueueFigures] = {}

    def of(name: str) -> QueueFigures:
        return figures.setdefault(name, QueueFigures(name))

    for queue in Queue.objects.order_by("name")[:MAX_QUEUES]:
        figures[queue.name] = QueueFigures(
            queue.name, queue.paused, queue.paused_reason, queue.tripped_by, queue.paused_by
        )
    for name, ready in rows(READY_COUNTS):
        of(name).ready = ready
    for name, blocked in rows(BLOCKED_COUNTS):
        of(name).blocked = blocked
    waiting = [(name, moment(since)) for name, since in rows(OLDEST_READY)]
    for state, order in ORDERS.items():
        for name, count, due, held_back in rows(FIRST_ONES, state=state.value, order=order):
            setattr(of(name), state.value, count)
            of(name).held += held_back
            if state == State.SCHEDULED and moment(due) <= now:
                waiting.append((name, moment(due)))
    for name, since in waiting:
        if not of(name).paused:
            of(name).oldest = max(of(name).oldest or timedelta(), now - since)
    return [figures[name] for name in sorted(figures)][:MAX_QUEUES]


def depth_of(queue_name: str, most: int) -> tuple[int, timedelta]:
    """Return how many jobs of a queue are ready, counted up to `most`, and how long the oldest of them has waited."""
    with connections[alias()].cursor() as cursor:
        cursor.execute(filled(DEPTH), [queue_name, most])
        depth = cursor.fetchone()[0]
        cursor.execute(filled(OLDEST_READY.replace(READY_QUEUES, ONE_QUEUE)), [queue_name])
        found = cursor.fetchone()
    return depth, max(timedelta(), storage().now() - moment(found[1])) if found else timedelta()


@dataclass
class ScheduleFigures:
    """`late`: for how long the most overdue one has been due."""

    enabled: int
    disabled: int
    broken: int
    late: timedelta


def schedules(now: datetime) -> ScheduleFigures:
    healthy, gone = models.Q(problem=""), models.Q(problem=NOT_DECLARED)
    found = Schedule.objects.aggregate(
        on=models.Count("pk", filter=healthy & models.Q(enabled=True)),
        off=models.Count("pk", filter=healthy & models.Q(enabled=False) | gone),
        broken=models.Count("pk", filter=~(healthy | gone)),
        first=models.Min("next_at"),
    )
    late = max(timedelta(), now - found["first"]) if found["first"] else timedelta()
    return ScheduleFigures(found["on"], found["off"], found["broken"], late)


@dataclass
class WorkerFigures:
    alive: int
    stale: int


def workers(now: datetime) -> WorkerFigures:
    """Return how many workers gave a sign of life lately, and how many have a row but are silent."""
    fresh = Worker.objects.filter(last_seen_at__gte=now - STALE_AFTER)
    silent = Worker.objects.filter(last_seen_at__lt=now - STALE_AFTER)
    return WorkerFigures(alive=counted(fresh), stale=counted(silent))


def expired_leases(now: datetime) -> int:
    """Return how many running jobs nobody renews: housekeeping should have taken them back."""
    return counted(Job.objects.running().filter(lease_expires_at__lt=now))


@dataclass(frozen=True)
class HeldFigures:
    """Jobs that no worker knew how to run: how many, for how long the first of them, and of which tasks."""

    jobs: int
    longest: timedelta
    tasks: Sequence[str]


def held(now: datetime) -> HeldFigures:
    """Return which of the jobs that are due next were put off, because no worker that met them knows their task."""
    first = Job.objects.filter(state=State.SCHEDULED).order_by("run_after", "id")[:MAX_COUNTED]
    known = first.values_list("held_since", "task_path")
    found = [(moment, task) for moment, task in known if moment is not None]
    since = min((moment for moment, _ in found), default=now)
    return HeldFigures(len(found), now - since, sorted({task for _, task in found}))


def counted(queryset: "models.QuerySet[Any]", limit: int = MAX_COUNTED) -> int:
    """Return the number of rows, and `limit` when there are more."""
    return queryset[:limit].count()


def at_least(count: int) -> str:
    """Return a bounded count as text: `10000+` where it stopped counting."""
    return f"{count}+" if count >= MAX_COUNTED else str(count)


def chunks(queryset: "models.QuerySet[Any]") -> Iterator[list[Any]]:
    """Walk rows by primary key: rows that an action takes out of the set do not move the others' places."""
    queryset, last = queryset.order_by("pk"), 0
    while chunk := list(queryset.filter(pk__gt=last)[:CHUNK]):
        yield chunk
        last = chunk[-1].pk


def rows(sql: str, **parts: str) -> list[tuple[Any, ...]]:
    with connections[alias()].cursor() as cursor:
        cursor.execute(filled(sql, **parts))
        return cursor.fetchall()


def moment(value: datetime | str) -> datetime:
    """Return a cursor's value as the ORM would: SQLite knows datetimes only as text, and without a zone."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if value.tzinfo else value.replace(tzinfo=connections[alias()].timezone)


def filled(sql: str, **parts: str) -> str:
    connection = connections[alias()]
    text = sql.format(
        jobs=connection.ops.quote_name(Job._meta.db_table),
        max_counted=MAX_COUNTED,
        max_queues=MAX_QUEUES,
        max_groups=MAX_GROUPS,
        **parts,
    )
    return storage(alias()).spelled(text)


def alias() -> str:
    return router.db_for_write(Job)
