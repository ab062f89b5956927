"""This project: `jobs`, from this checkout."""

from typing import Any

from .django_driver import DjangoDriver, become
from .protocol import main


class OurDriver(DjangoDriver):
    settings = "ours"
    task_module = "jobs"
    starts_processes = True

    def task(self, name: str) -> Any:
        from .our_tasks import transactional

        return transactional if name == "transactional" else super().task(name)

    def enqueue_many(self, task: Any, jobs: int) -> None:
        from jobs import enqueue_many

        enqueue_many(task, ({"number": number} for number in range(jobs)))

    def work(self, processes: int, threads: int, task: str) -> None:
        become("runworker", "--processes", processes, "--threads", threads)


if __name__ == "__main__":
    main(OurDriver())
