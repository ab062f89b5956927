"""The limit of jobs that write one row through the ORM: the same calls from as many threads, with no queue."""

import threading

import django

from ..processes import timed

WARM = 100


def create_rows(threads: int, count: int) -> None:
    """Create `count` rows in all, each in autocommit, and report how long that took. Each thread is warm by then."""
    django.setup()
    ready, go = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    crew = [threading.Thread(target=create, args=(range(n, count, threads), n, ready, go)) for n in range(threads)]
    for thread in crew:
        thread.start()
    ready.wait()

    def work() -> int:
        go.wait()
        for thread in crew:
            thread.join()
        return count

    timed(work)


def create(numbers: range, place: int, ready: threading.Barrier, go: threading.Barrier) -> None:
    from django.contrib.auth.models import Group

    for n in range(WARM):
        Group.objects.create(name=f"warm {place} {n}")
    ready.wait()
    go.wait()
    for n in numbers:
        Group.objects.create(name=f"job {n}")
