"""What the clients do: prepare a database, and enqueue in each of the ways there are."""

from collections.abc import Callable

from django.core.management import call_command
from django.db import connection, transaction

from jobs import QueueFull, enqueue_many
from jobs.models import Job

from .. import tasks
from ..processes import paced, report, timed

WARM = 200


def prepare() -> None:
    """Make the tables, and a table of prototypes: one job per task, as enqueueing it writes it."""
    call_command("migrate", verbosity=0)
    for task in tasks.ALL:
        task.enqueue(n=0)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE benchmark_prototype AS SELECT * FROM jobs_job")
    Job.objects.all().delete()
    report(jobs=len(tasks.ALL))


def enqueue(count: str) -> None:
    """Enqueue one at a time, each committed."""
    singly(WARM)
    timed(lambda: singly(int(count)))


def enqueue_in_transaction(count: str) -> None:
    def work(count: int) -> int:
        with transaction.atomic():
            return singly(count)

    work(WARM)
    timed(lambda: work(int(count)))


def enqueue_many_in_calls(count: str, size: str) -> None:
    """Enqueue `count` jobs, `size` in a call."""

    def work(count: int, size: int) -> int:
        calls = ([{"n": n} for n in range(start, start + size)] for start in range(0, count, size))
        return sum(len(enqueue_many(tasks.noop, payloads)) for payloads in calls)

    work(WARM, WARM)
    timed(lambda: work(int(count), int(size)))


def enqueue_paced(count: str, rate: str) -> None:
    paced(lambda n: tasks.noop.enqueue(n=n), int(count), float(rate))
    report(jobs=int(count))


def enqueue_flood(count: str, rate: str) -> None:
    """Enqueue jobs that take some time, so many a second, whether or not the queue takes them."""
    refused = 0

    def enqueue(n: int) -> None:
        nonlocal refused
        try:
            tasks.sleep.enqueue(n=n)
        except QueueFull:
            refused += 1

    paced(enqueue, int(count), float(rate))
    report(accepted=int(count) - refused, refused=refused)


def singly(count: int) -> int:
    for n in range(count):
        tasks.noop.enqueue(n=n)
    return count


CLIENTS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "enqueue": enqueue,
    "enqueue_in_transaction": enqueue_in_transaction,
    "enqueue_many": enqueue_many_in_calls,
    "enqueue_paced": enqueue_paced,
    "enqueue_flood": enqueue_flood,
}
