"""One run of an enqueue: through the queue's API, or by the bare INSERT that is its limit."""

from .bench import Bench
from .databases import Database, PostgresDatabase
from .measuring import Costs, Sample, difference
from .meters import meter_of
from .processes import reported_by

WARM = 200  # jobs that every client enqueues before its clock starts
STATEMENT_JOBS = 5_000


def enqueued(bench: Bench, name: str, count: int, *arguments: int) -> Sample:
    """Let a client of that name enqueue `count` jobs into an empty database."""
    with bench.databases.copied(bench.base) as database:
        meter = meter_of(database)
        commits, wal, server = meter.commits(), meter.wal(), meter.cpu_seconds()
        found = reported_by("benchmarks.clients", database.url, name, count, *arguments)
        commits, wal = difference(meter.commits(), commits), difference(meter.wal(), wal)
        server = difference(meter.cpu_seconds(), server)
        check_all_wait(database, count)
    jobs = count + WARM
    # The client's CPU is that of the timed part; what the server did can only be had for the whole.
    costs = Costs(
        count,
        found["cpu_seconds"],
        None if server is None else server * count / jobs,
        None,
        None if commits is None else commits / jobs,
        None if wal is None else wal * count / jobs,
        found["peak"],
    )
    return Sample(count / found["seconds"], costs)


def inserted(bench: Bench, name: str, count: int, *arguments: int) -> float:
    """Return the rate at which the bare INSERT of that name does the same."""
    with bench.databases.copied(bench.base) as database:
        found = reported_by("benchmarks.limits", database.url, name, count, *arguments)
        check_all_wait(database, count)
        return count / found["seconds"]


def check_all_wait(database: Database, count: int) -> None:
    """Raises: RuntimeError when not each job is there once, ready. Warm-up jobs have the first numbers again."""
    sql = "SELECT count(*), count(DISTINCT CAST(kwargs AS TEXT)) FROM jobs_job WHERE state = 'ready'"
    found = tuple(database.rows(sql)[0])
    if found != (count + WARM, max(count, WARM)):
        raise RuntimeError(f"{count + WARM} jobs were enqueued, {found[0]} are there, {found[1]} different ones")


def statements(bench: Bench, name: str, count: int, *arguments: int) -> float | None:
    """Count the statements a job in a run of its own, with those by which the client connects."""
    with bench.databases.copied(bench.base) as database:
        meter = meter_of(database)
        log_size = meter.log_size()
        if not isinstance(database, PostgresDatabase) or log_size is None:
            return None
        database.log_statements()
        reported_by("benchmarks.clients", database.url, name, count, *arguments)
        found = meter.statements_since(log_size)
    return None if found is None else found / (count + WARM)
