"""Is this project fit to enqueue and run jobs? Short answers for probes, longer ones for `manage.py jobs doctor`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.db import Error, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from . import limits, stats
from .storage import storage

# More, and due times and ages read on this host are off by as much.
MAX_CLOCK_DIFFERENCE = timedelta(seconds=2)
# A queue whose oldest job waits longer than this has too few workers, or none.
MAX_WAIT = timedelta(minutes=5)
# During a deploy, jobs of new code may meet workers of old code for so long.
MAX_HELD = timedelta(minutes=1)
MOST_NAMED = 3
# A schedule that is later than this has no worker that looks after it.
MAX_LATE = timedelta(minutes=1)

# Databases whose migrations this process has seen applied: nobody unapplies them under a running process, and a
# probe every few seconds should not load the migration files each time.
migrated: set[str] = set()


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what, whether it is well, and what there is to say."""

    name: str
    ok: bool
    message: str
    detail: str = ""  # for those who may know more than a probe


def problem() -> str:
    """Return why this process should get no requests, as one sentence, or nothing."""
    for check in (database, migrations):
        finding = check()
        if not finding.ok:
            return finding.message
    return ""


def findings() -> Iterator[Finding]:
    """Look at everything; what needs the database is left out when it cannot be reached."""
    for check in CHECKS:
        finding = check()
        yield finding
        if not finding.ok and check in (database, migrations):
            return


def database() -> Finding:
    try:
        with connections[stats.alias()].cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error as error:
        message = f"The database {stats.alias()!r} cannot be reached: start it, or see its log and the settings."
        return Finding("database", False, message, str(error).strip())
    return Finding("database", True, f"The database {stats.alias()!r} answers.")


def migrations(app_label: str | None = None) -> Finding:
    """Say whether all migrations are applied, or those that one app needs."""
    alias = stats.alias()
    if alias not in migrated:
        executor = MigrationExecutor(connections[alias])
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes(app_label))
        if missing:
            message = f"Migrations are not applied ({len(missing)}): run `manage.py migrate`."
            return Finding("migrations", False, message)
        if app_label is None:
            migrated.add(alias)
    return Finding("migrations", True, "All migrations are applied.")


def clock() -> Finding:
    difference = abs(storage().now() - timezone.now())
    return Finding(
        "clock",
        difference <= MAX_CLOCK_DIFFERENCE,
        f"This host's clock and the database's differ by {difference.total_seconds():.1f} s"
        + ("." if difference <= MAX_CLOCK_DIFFERENCE else ": let NTP set both."),
    )


def workers() -> Finding:
    seen = stats.workers(storage().now())
    if not seen.alive:
        return Finding("workers", False, "No worker is alive, nothing runs: start `manage.py runworker`.")
    return Finding("workers", True, f"{seen.alive} workers alive, {seen.stale} silent.")


def waiting() -> Finding:
    slow = [queue for queue in stats.queues(storage().now()) if queue.oldest and queue.oldest > MAX_WAIT]
    if slow:
        worst = max(slow, key=lambda queue: queue.oldest or timedelta())
        minutes = (worst.oldest or timedelta()) // timedelta(minutes=1)
        message = f"A job in queue {worst.name!r} has been ready for {minutes} minutes: start more workers for it."
        return Finding("waiting", False, message)
    return Finding("waiting", True, f"No job has been ready for more than {MAX_WAIT // timedelta(minutes=1)} minutes.")


def paused() -> Finding:
    found = [queue for queue in stats.queues(storage().now()) if queue.paused]
    names = ", ".join(f"{queue.name} ({queue.paused_reason or 'no reason given'})" for queue in found)
    # What a person has paused is meant; what a breaker has paused waits for somebody to mend its cause.
    ok = not any(queue.tripped_by for queue in found)
    return Finding("paused", ok, f"Paused queues: {names}." if names else "No queue is paused.")


def full() -> Finding:
    found = [name for name, limit in sorted(limits.in_force().items()) if limits.is_full(name, limit)]
    if found:
        message = (
            f"Full queues, which take no more: {', '.join(found)}. Start more workers for them, or raise the limit."
        )
        return Finding("full", False, message)
    return Finding("full", True, "No queue is full.")


def held() -> Finding:
    found = stats.held(storage().now())
    names = ", ".join(found.tasks[:MOST_NAMED]) + (" and others" if len(found.tasks) > MOST_NAMED else "")
    if found.longest > MAX_HELD:
        message = (
            f"{found.jobs} jobs wait for a worker that knows their task: {names}. "
            "The log of the workers says why under `task unknown`: deploy the code, or mend its import."
        )
        return Finding("held", False, message)
    if found.jobs:
        return Finding("held", True, f"{found.jobs} jobs have just met a worker of other code: {names}.")
    return Finding("held", True, "No job waits for a worker that knows its task.")


def leases() -> Finding:
    count = stats.expired_leases(storage().now())
    if count:
        message = f"{count} running jobs have an expired lease: a worker died, and no other has taken them back yet."
        return Finding("leases", False, message)
    return Finding("leases", True, "No lease has expired.")


def schedules() -> Finding:
    found = stats.schedules(storage().now())
    wrong = []
    if found.broken:
        wrong.append(f"Schedules that have disabled themselves: {found.broken}. `manage.py jobs schedules` says why.")
    if found.late > MAX_LATE:
        minutes = found.late // timedelta(minutes=1)
        wrong.append(
            f"A schedule has been due for {minutes} minutes: no worker looks after it or knows its task, "
            "or its queue is full."
        )
    if wrong:
        return Finding("schedules", False, " ".join(wrong))
    return Finding("schedules", True, f"Schedules enabled: {found.enabled}. None is late.")


CHECKS: tuple[Callable[[], Finding], ...] = (
    database,
    migrations,
    clock,
    workers,
    waiting,
    held,
    paused,
    full,
    leases,
    schedules,
)
