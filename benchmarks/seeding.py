"""Fills a database before a run: the tables by `migrate`, the jobs as copies of one that was really enqueued."""

from dataclasses import dataclass

from .databases import Database, Databases
from .processes import reported_by

WARM_QUEUE = "warm"  # what a worker runs before the clock starts
QUEUE = "default"


@dataclass(frozen=True)
class Recipe:
    """What stands in the table before a run: `jobs` that are ready, oldest first, and around them the `ballast`.

    `warm` jobs run before the clock starts: ten batches, after which a connection has settled on its query plans.
    """

    task: str
    jobs: int
    queues: int = 1
    warm: int = 5_000
    ballast: int = 0
    ballast_state: str = ""


@dataclass(frozen=True)
class Seeded:
    """A prepared database. The ids of the jobs that count are all those from `first` to `last`."""

    template: str
    recipe: Recipe
    first: int
    last: int


# The n-th of some moments a microsecond apart, all of them past: when a job became ready.
MOMENTS = {
    "postgresql": "now() - interval '1 hour' + g.n * interval '1 microsecond'",
    "sqlite": "printf('%%s.%%06d', datetime('now', '-1 hour', (g.n / 1000000) || ' seconds'), g.n %% 1000000)",
}
TOMORROW = {"postgresql": "now() + interval '1 day'", "sqlite": "datetime('now', '+1 day') || '.000001'"}
NUMBERED = {"postgresql": "jsonb_build_object('n', {})", "sqlite": "json_object('n', {})"}
SERIES = "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < %s)"
STATES = {
    "ready": {},
    "scheduled": {"state": "'scheduled'", "ready_at": "NULL", "priority": "50", "run_after": "{tomorrow}"},
    # Behind a key whose only slot is taken, by the running one.
    "blocked": {"blocked": "TRUE", "concurrency_key": "'saturated'", "max_concurrent": "1", "priority": "50"},
    "running": {
        "state": "'running'",
        "concurrency_key": "'saturated'",
        "max_concurrent": "1",
        "lease_token": "1",
        "leased_by": "'some-worker'",
        "lease_expires_at": "{tomorrow}",
        "started_at": "{moment}",
        "last_attempted_at": "{moment}",
    },
    "succeeded": {
        "state": "'succeeded'",
        "attempts": "1",
        "lease_token": "1",
        "settled_token": "1",
        "started_at": "{moment}",
        "last_attempted_at": "{moment}",
        "finished_at": "{moment}",
        "worker_ids": "'[\"some-worker\"]'",
    },
}


def migrated(databases: Databases) -> str:
    """Make the database that all others are copies of, and return its name: no jobs, one prototype per task."""
    with databases.kept(None) as database:
        reported_by("benchmarks.clients", database.url, "prepare")
    return database.name


def seeded(databases: Databases, base: str, recipe: Recipe) -> Seeded:
    """Make a copy of `base` with the recipe's rows, settled in as if they had stood there for long."""
    with databases.kept(base) as database:
        if recipe.ballast:
            add(database, recipe.task, recipe.ballast, f"'{QUEUE}'", recipe.ballast_state)
        if recipe.ballast_state == "blocked":
            add(database, recipe.task, 1, f"'{QUEUE}'", "running")  # it holds their key
        add(database, recipe.task, recipe.warm, f"'{WARM_QUEUE}'", number="-g.n")
        before = last_id(database)
        add(database, recipe.task, recipe.jobs, queue_of(recipe))
        last = last_id(database)
        pause(database, recipe)
        settle_in(database)
    assert last - before == recipe.jobs, "ids have gaps"
    return Seeded(database.name, recipe, before + 1, last)


def last_id(database: Database) -> int:
    return int(database.value("SELECT COALESCE(max(id), 0) FROM jobs_job"))


def queue_of(recipe: Recipe) -> str:
    return f"'{QUEUE}'" if recipe.queues == 1 else f"'queue-' || (g.n %% {recipe.queues})"


def queue_names(recipe: Recipe) -> list[str]:
    return [QUEUE] if recipe.queues == 1 else [f"queue-{n}" for n in range(recipe.queues)]


def add(database: Database, task: str, count: int, queue: str, state: str = "ready", number: str = "g.n") -> None:
    """Insert `count` copies of a task's prototype, numbered from 1. Shape: `queue` and `number` are SQL."""
    vendor = database.vendor
    moment = MOMENTS[vendor]
    changes = {
        "queue_name": queue,
        "kwargs": NUMBERED[vendor].format(number),
        "enqueued_at": moment,
        "ready_at": moment,
    }
    given = STATES[state].items()
    changes |= {name: value.format(moment=moment, tomorrow=TOMORROW[vendor]) for name, value in given}
    names = [name for name in columns(database) if name != "id"]
    values = ", ".join(changes.get(name, f"p.{name}") for name in names)
    database.rows(
        f"{SERIES} INSERT INTO jobs_job ({', '.join(names)}) "
        f"SELECT {values} FROM g, benchmark_prototype AS p WHERE p.task_path = %s ORDER BY g.n",
        count,
        f"benchmarks.tasks.{task}",
    )


def columns(database: Database) -> list[str]:
    cursor = database.connection.execute("SELECT * FROM jobs_job LIMIT 0")
    return [column[0] for column in cursor.description]


PAUSE = """
INSERT INTO jobs_queue (name, paused, paused_reason) VALUES (%s, TRUE, '')
ON CONFLICT (name) DO UPDATE SET paused = TRUE
"""


def pause(database: Database, recipe: Recipe) -> None:
    """Hold the jobs back, so that workers are up and warm when they are released."""
    for name in queue_names(recipe):
        database.rows(PAUSE, name)


def release(database: Database) -> None:
    """Let the jobs go, all queues at the same moment, and wake workers where the database can."""
    database.rows("UPDATE jobs_queue SET paused = FALSE")
    if database.vendor == "postgresql":
        database.rows("SELECT pg_notify('jobs_ready', '')")


def settle_in(database: Database) -> None:
    """Leave nothing to do for autovacuum, and everything on disk."""
    if database.vendor == "postgresql":
        database.rows("VACUUM ANALYZE jobs_job")
        database.rows("VACUUM ANALYZE jobs_queue")
    else:
        database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
