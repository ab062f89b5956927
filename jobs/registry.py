"""Which task a path means. History never asks: a row stays readable after its task's code is gone."""

import logging
import pkgutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from django.utils.module_loading import autodiscover_modules

from . import conf, payload
from .breakers import Breaker
from .compat import Task

log = logging.getLogger("jobs")

# Python would import a broken module again at every look; so would a worker with a thousand unknown jobs.
UNKNOWN_FOR_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Callee:
    """A task, and what running one of its jobs asks of it, found out once. Units: seconds."""

    task: Any
    function: Callable[..., Any]
    is_async: bool
    takes_context: bool
    schema_version: int
    upgrades: Mapping[int, Callable[..., Any]]
    annotations: str | None
    transactional: bool
    timeout_seconds: float | None
    breaker: Breaker | None
    fits: payload.Fit

    @classmethod
    def of(cls, task: Any) -> "Callee":
        timeout = conf.length_or_none(getattr(task, "timeout", None))
        return cls(
            task=task,
            function=task.func,
            is_async=iscoroutinefunction(task.func),
            takes_context=task.takes_context,
            schema_version=getattr(task, "schema_version", 1),
            upgrades=getattr(task, "upgrades", None) or {},
            annotations=getattr(task, "annotations", None),
            transactional=getattr(task, "transactional", False),
            timeout_seconds=None if timeout is None else timeout.total_seconds(),
            breaker=getattr(task, "breaker", None),
            fits=payload.fit(task.func, task.takes_context),
        )


known: dict[str, Callee] = {}
unknown: dict[str, float] = {}


def find(task_path: str) -> Any | None:
    """Return the task at a dotted path, or None when this code does not have one there."""
    found = callee(task_path)
    return None if found is None else found.task


def callee(task_path: str) -> Callee | None:
    """Return the task at a dotted path, ready to be run, or None when this code does not have one there."""
    if (ready := known.get(task_path)) is not None:
        return ready
    if time.monotonic() - unknown.get(task_path, -UNKNOWN_FOR_SECONDS) < UNKNOWN_FOR_SECONDS:
        return None
    try:
        found = pkgutil.resolve_name(task_path)
    except Exception as error:
        # An import may fail for any reason at all, and a rolling deploy is one of them.
        log.warning("task unknown", extra={"task": task_path, "error": repr(error)})
        found = None
    if isinstance(found, Task):
        return known.setdefault(task_path, Callee.of(found))
    unknown[task_path] = time.monotonic()
    return None


def paths() -> set[str]:
    """Return the paths of all tasks that modules of this project define: what apps have in `tasks`, and what is loaded.

    Raises: what importing an app's tasks raises.
    """
    autodiscover_modules("tasks")
    found = set()
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            # By its type: a lazy object would be evaluated when it is asked what it is an instance of.
            if issubclass(type(value), Task):
                found.add(value.module_path)
    return found


def forget() -> None:
    """Look everything up afresh: for tests and the autoreloader."""
    known.clear()
    unknown.clear()
