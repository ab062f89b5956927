"""For tests of projects that use jobs: drain in-process, assert what was enqueued, backends that take our options."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from typing import Any

from . import annotations
from .backend import JobResult
from .compat import DummyBackend as DjangoDummyBackend
from .compat import ImmediateBackend as DjangoImmediateBackend
from .conf import options as options_of
from .decorator import JobTask, annotations_of
from .exceptions import InvalidPayload
from .lifecycle import reap
from .models import Job
from .states import WAITING
from .storage import storage
from .worker.breakers import Breakers
from .worker.inprocess import drain

__all__ = ["DummyBackend", "ImmediateBackend", "assert_enqueued", "run_jobs"]

LONG = timedelta(days=36500)


def run_jobs(*, queues: Iterable[str] | None = None, max_jobs: int | None = None, advance: bool = False) -> int:
    """Run everything that is due, in this process and on this connection, and return how many attempts ran.

    `advance` runs scheduled jobs too, whatever their time: retries and delays are not waited for.
    Transaction: works inside a test case's own.
    """
    store = storage()
    breakers = Breakers(store)
    reap()
    total = 0
    while max_jobs is None or total < max_jobs:
        if advance:
            store.jobs.scheduled().update(run_after=store.now() - timedelta(seconds=1))
        while store.promote():
            pass
        ran = drain(options_of(), breakers, queues=queues, max_jobs=None if max_jobs is None else max_jobs - total)
        if not ran:
            return total
        total += ran
    return total


def assert_enqueued(task: Any, *args: Any, **kwargs: Any) -> Job:
    """Return the waiting job of this task with this payload. Raises: AssertionError naming what there is instead."""
    if annotations_of(task) == "convert":
        with suppress(InvalidPayload):  # `mock.ANY`, say, is compared as it is
            args, kwargs = annotations.dumped(task, "convert", args, kwargs)
    waiting = storage().jobs.filter(task_path=task.module_path, state__in=WAITING).order_by("-pk")
    found = list(waiting[:100])
    for job in found:
        if job.args == list(args) and kwargs.items() <= job.kwargs.items():
            return job
    calls = ", ".join(f"#{job.pk} args={job.args!r} kwargs={job.kwargs!r}" for job in found) or "none"
    raise AssertionError(
        f"no waiting job of {task.module_path} with args={list(args)!r} kwargs={kwargs!r}; there are: {calls}"
    )


def with_backend(tasks: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the TASKS setting with another backend in the place of each."""
    return {alias: params | {"BACKEND": path, "OPTIONS": {}} for alias, params in tasks.items()}


def own_result(result: Any) -> Any:
    """Return Django's result as one of the real backend, which has an `is_duplicate`."""
    own = JobResult(**{field.name: getattr(result, field.name) for field in fields(result) if field.init})
    object.__setattr__(own, "_return_value", result._return_value)
    return own


class Annotated:
    """Does to a payload what its task's annotations say, as the real backend does."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = annotations.dumped(task, annotations_of(task), args, kwargs)
        result = own_result(super().enqueue(task, args, kwargs))  # type: ignore[misc]
        if hasattr(self, "results"):
            self.results[-1] = result
        return result


class ImmediateBackend(Annotated, DjangoImmediateBackend):  # type: ignore[misc]
    """Django's immediate backend, for tasks that have our options: they run at once, without retries."""

    task_class = JobTask
    supports_defer = True


class DummyBackend(Annotated, DjangoDummyBackend):  # type: ignore[misc]
    """Django's dummy backend, for tasks that have our options: calls are kept, never run."""

    task_class = JobTask
