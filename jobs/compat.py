"""The one module that knows which Tasks framework this Django has.

Django 6.0 and later bring their own; Django 5.2 uses the `django-tasks` backport. The choice follows
`django.VERSION`, never what happens to be installed.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

import django

ROOT = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"

if TYPE_CHECKING:
    from django_tasks import task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.backends.dummy import DummyBackend
    from django_tasks.backends.immediate import ImmediateBackend
    from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
    from django_tasks.signals import task_enqueued, task_finished, task_started
else:

    def names(module: str, *wanted: str) -> list[Any]:
        source = importlib.import_module(f"{ROOT}{module}")
        return [getattr(source, name) for name in wanted]

    (task_backends,) = names("", "task_backends")
    Task, TaskContext, TaskError, TaskResult, TaskResultStatus = names(
        ".base", "Task", "TaskContext", "TaskError", "TaskResult", "TaskResultStatus"
    )
    (BaseTaskBackend,) = names(".backends.base", "BaseTaskBackend")
    (DummyBackend,) = names(".backends.dummy", "DummyBackend")
    (ImmediateBackend,) = names(".backends.immediate", "ImmediateBackend")
    TaskResultDoesNotExist, TaskResultMismatch = names(".exceptions", "TaskResultDoesNotExist", "TaskResultMismatch")
    (InvalidTask,) = names(".exceptions", "InvalidTask" if django.VERSION >= (6, 0) else "InvalidTaskError")
    task_enqueued, task_finished, task_started = names(".signals", "task_enqueued", "task_finished", "task_started")

LOGGER = logging.getLogger(ROOT)

__all__ = [
    "BaseTaskBackend",
    "DummyBackend",
    "ImmediateBackend",
    "InvalidTask",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultMismatch",
    "TaskResultStatus",
    "is_heard",
    "register_checks",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]


def register_checks() -> None:
    """Import the framework's own system checks: they register themselves only once imported."""
    importlib.import_module(f"{ROOT}.checks")


def is_heard(signal: Any, level: int) -> bool:
    """Say whether sending a task signal has any effect.

    The framework itself listens to each of its signals in order to log it at `level`; a result is not built for a
    log record that nobody wants.
    """
    return len(signal.receivers) > 1 or LOGGER.isEnabledFor(level)
