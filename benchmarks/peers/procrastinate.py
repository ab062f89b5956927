"""Procrastinate, through its Django integration: asyncio, a statement to fetch and one to finish each job."""

from typing import Any

from .django_driver import DjangoDriver, become
from .protocol import main

# No-op jobs/s of its own command, 1,500 jobs, with so many at a time: 1 process: 1: 470, 4: 520, 10: 690, 20: 560;
# 2 processes: 1: 530, 4: 770, 10: 860. Rows through the ORM, 1 process: 1: 360, 4: 460, 10: 580. `cases.py` asks for
# 10. Without Django 630-650 and 970; on uvloop, which its commands do not offer, some 100 more; a pool of 10
# connections instead of 4 made no difference.


class ProcrastinateDriver(DjangoDriver):
    """Enqueues through Django's connection, in its transactions."""

    settings = "procrastinate"
    task_module = "procrastinate.contrib.django"

    def task(self, name: str) -> Any:
        from procrastinate.contrib.django import app

        return app.tasks[name]

    def fill(self, task: str, jobs: int) -> None:
        self.task(task).batch_defer(*({"number": number} for number in range(jobs)))

    def enqueue_each(self, jobs: int) -> None:
        noop = self.task("noop")
        for number in range(jobs):
            noop.defer(number=number)

    def enqueue_stamp(self, sent: float) -> None:
        self.task("stamp").defer(sent=sent)

    def work(self, processes: int, threads: int, task: str) -> None:
        become("procrastinate", "worker", "--concurrency", threads)


if __name__ == "__main__":
    main(ProcrastinateDriver())
