"""django-tasks-db: each process runs one job after the other."""

from typing import Any

from django.db import transaction

from .django_driver import DjangoDriver, become
from .protocol import main

# Workers ask for jobs and are never told of them. By default they ask every second; there is nothing else to tune.
INTERVAL_SECONDS = 0.1


class TasksDbDriver(DjangoDriver):
    settings = "django_tasks_db"
    task_module = "django_tasks"

    def enqueue_many(self, task: Any, jobs: int) -> None:
        """Enqueue one at a time: there is no bulk enqueue."""
        with transaction.atomic():
            for number in range(jobs):
                task.enqueue(number=number)

    def work(self, processes: int, threads: int, task: str) -> None:
        become("db_worker", "--interval", INTERVAL_SECONDS, "--no-startup-delay", "--no-reload", "--verbosity", 0)


if __name__ == "__main__":
    main(TasksDbDriver())
