"""Which task a path means. History never asks: a row stays readable after its task's code is gone."""

import logging
import pkgutil
import time
from typing import Any

from .compat import Task

log = logging.getLogger("jobs")

# Python would import a broken module again at every look; so would a worker with a thousand unknown jobs.
UNKNOWN_FOR_SECONDS = 60.0

known: dict[str, Any] = {}
unknown: dict[str, float] = {}


def find(task_path: str) -> Any | None:
    """Return the task at a dotted path, or None when this code does not have one there."""
    if task_path in known:
        return known[task_path]
    if time.monotonic() - unknown.get(task_path, -UNKNOWN_FOR_SECONDS) < UNKNOWN_FOR_SECONDS:
        return None
    try:
        found = pkgutil.resolve_name(task_path)
    except Exception as error:
        # An import may fail for any reason at all, and a rolling deploy is one of them.
        log.warning("task unknown", extra={"task": task_path, "error": repr(error)})
        found = None
    if isinstance(found, Task):
        known[task_path] = found
        return found
    unknown[task_path] = time.monotonic()
    return None


def forget() -> None:
    """Look everything up afresh: for tests and the autoreloader."""
    known.clear()
    unknown.clear()
