"""`jobs.testing` as pytest fixtures; pytest finds them once the package is installed.

Nothing of Django is imported before a fixture is used: pytest loads plugins before there are settings.
"""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def run_jobs(db: None) -> Callable[..., int]:
    """Drain the queue in this process: see `jobs.testing.run_jobs`."""
    from . import testing

    return testing.run_jobs


@pytest.fixture
def assert_enqueued(db: None) -> Callable[..., Any]:
    """Return the waiting job of a task with this payload: see `jobs.testing.assert_enqueued`."""
    from . import testing

    return testing.assert_enqueued


@pytest.fixture
def immediate_jobs(settings: Any) -> None:
    """Run every task where it is enqueued, without a queue."""
    from .testing import with_backend

    settings.TASKS = with_backend(settings.TASKS, "jobs.testing.ImmediateBackend")


@pytest.fixture
def dummy_jobs(settings: Any) -> Any:
    """Keep every call in `results` of the backend that this returns, and run none."""
    from .compat import task_backends
    from .testing import with_backend

    settings.TASKS = with_backend(settings.TASKS, "jobs.testing.DummyBackend")
    return task_backends["default"]
