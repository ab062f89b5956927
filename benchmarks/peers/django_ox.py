"""django-ox: a pool of threads in each process, each of which claims and settles one job at a time."""

from typing import Any

from .django_driver import DjangoDriver, become
from .protocol import main

# No-op jobs/s with so many threads: 1 process: 1: 464, 2: 706, 4: 735 and 811, 8: 798; 2 processes: 1: 654, 2: 679,
# 4: 672. `cases.py` asks for 4, and for 2 in each of two processes.

# Workers ask for jobs and are never told of them. By default they ask every second.
INTERVAL_SECONDS = 0.1


class OxDriver(DjangoDriver):
    settings = "django_ox"
    task_module = "django.tasks"
    starts_processes = True

    def enqueue_many(self, task: Any, jobs: int) -> None:
        from django_ox.bulk import enqueue_many

        enqueue_many(task, [((), {"number": number}) for number in range(jobs)])

    def work(self, processes: int, threads: int, task: str) -> None:
        counts = ["--processes", processes, "--concurrency", threads]
        become("ox_worker", *counts, "--interval", INTERVAL_SECONDS, "--verbosity", 0)


if __name__ == "__main__":
    main(OxDriver())
