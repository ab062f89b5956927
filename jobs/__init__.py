"""A production job queue inside the database a Django project already has.

The names a project imports; everything else is reached through its own module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decorator import task as task
    from .enqueue import aenqueue_many as aenqueue_many
    from .enqueue import aenqueue_on_commit as aenqueue_on_commit
    from .enqueue import enqueue_many as enqueue_many
    from .enqueue import enqueue_on_commit as enqueue_on_commit
    from .exceptions import CancelJob as CancelJob
    from .exceptions import DuplicateJob as DuplicateJob
    from .exceptions import PermanentError as PermanentError
    from .exceptions import QueueFull as QueueFull
    from .exceptions import RetryLater as RetryLater
    from .exceptions import Snooze as Snooze
    from .exceptions import Uncertain as Uncertain
    from .idempotency import once as once

# Resolved on first use: Django imports this package before the models may be imported.
HOMES = {
    "task": "decorator",
    "enqueue_many": "enqueue",
    "enqueue_on_commit": "enqueue",
    "aenqueue_many": "enqueue",
    "aenqueue_on_commit": "enqueue",
    "once": "idempotency",
    "PermanentError": "exceptions",
    "RetryLater": "exceptions",
    "Snooze": "exceptions",
    "CancelJob": "exceptions",
    "Uncertain": "exceptions",
    "QueueFull": "exceptions",
    "DuplicateJob": "exceptions",
}

__all__ = [
    "CancelJob",
    "DuplicateJob",
    "PermanentError",
    "QueueFull",
    "RetryLater",
    "Snooze",
    "Uncertain",
    "aenqueue_many",
    "aenqueue_on_commit",
    "enqueue_many",
    "enqueue_on_commit",
    "once",
    "task",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'jobs' has no attribute {name!r}")
    return getattr(import_module(f"jobs.{HOMES[name]}"), name)
