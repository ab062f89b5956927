"""The driver of a system with Django's Tasks API; each adds its bulk enqueue and its worker's command."""

import os
import sys
from typing import Any

import django
from django.core.management import call_command
from django.db import transaction

from .protocol import Driver


class DjangoDriver(Driver):
    settings: str
    task_module: str  # where its users import `task` from

    def __init__(self) -> None:
        os.environ["DJANGO_SETTINGS_MODULE"] = f"benchmarks.peers.settings.{self.settings}"
        os.environ["PEERS_TASK_MODULE"] = self.task_module
        django.setup()

    def setup(self) -> None:
        call_command("migrate", run_syncdb=True, verbosity=0)

    def task(self, name: str) -> Any:
        from . import tasks

        return getattr(tasks, name)

    def fill(self, task: str, jobs: int) -> None:
        self.enqueue_many(self.task(task), jobs)

    def enqueue_many(self, task: Any, jobs: int) -> None:
        raise NotImplementedError

    def enqueue_each(self, jobs: int) -> None:
        noop = self.task("noop")
        for number in range(jobs):
            noop.enqueue(number=number)

    def enqueue_in_transaction(self, jobs: int) -> None:
        with transaction.atomic():
            self.enqueue_each(jobs)

    def enqueue_stamp(self, sent: float) -> None:
        self.task("stamp").enqueue(sent=sent)


def become(*command: Any) -> None:
    """Replace this process by a management command."""
    os.execv(sys.executable, [sys.executable, "-m", "django", *map(str, command)])
