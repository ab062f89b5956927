"""Django's Tasks API on top of the queue: enqueue, results, and Django's four-value status."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from inspect import iscoroutinefunction
from types import FunctionType
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from django.utils import timezone

from . import enqueue, registry
from .compat import (
    BaseTaskBackend,
    InvalidTask,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    is_heard,
    task_enqueued,
)
from .conf import LONGEST, Options
from .decorator import JobTask
from .payload import decoded
from .states import State

if TYPE_CHECKING:
    from .storage import Inserted, NewJob

STATUS = {
    State.SCHEDULED: TaskResultStatus.READY,
    State.READY: TaskResultStatus.READY,
    State.RUNNING: TaskResultStatus.RUNNING,
    State.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    State.DEAD: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
}
LARGEST_ID = 2**63 - 1
CHUNK = 500  # ids in one SELECT

# One row of the SELECT behind a result; the attempt's columns repeat the row for each attempt.
COLUMNS = [
    "id",
    "task_path",
    "backend",
    "queue_name",
    "priority",
    "args",
    "kwargs",
    "state",
    "enqueued_at",
    "run_after",
    "started_at",
    "finished_at",
    "last_attempted_at",
    "worker_ids",
    "leased_by",
    "return_value",
    "attempt_set__exception_class",
    "attempt_set__traceback",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult(TaskResult):  # type: ignore[misc]
    """Django's result. `is_duplicate`: enqueue added no job, this one held the dedupe key already."""

    is_duplicate: bool = field(default=False, compare=False)


class JobsBackend(BaseTaskBackend):  # type: ignore[misc]
    task_class = JobTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @cached_property
    def jobs_options(self) -> Options:
        """Raises: ImproperlyConfigured with every problem found; `check` finds them before, so not in `__init__`."""
        return Options.parse(self.options)

    def validate_task(self, task: Any) -> None:
        if isinstance(task.priority, bool) or not isinstance(task.priority, int | float):
            raise InvalidTask(f"priority must be a whole number, not {task.priority!r}")
        super().validate_task(task)
        if getattr(task, "expires_at", None) and settings.USE_TZ and timezone.is_naive(task.expires_at):
            raise InvalidTask("expires_after must be a length of time or an aware datetime")
        if task.run_after is not None and task.run_after - timezone.now() > LONGEST:
            raise InvalidTask(f"run_after must be at most {LONGEST.days} days ahead")
        if getattr(task, "transactional", False):
            self.validate_transactional(task)

    def validate_transactional(self, task: Any) -> None:
        from .storage import storage

        if iscoroutinefunction(task.func):
            raise ImproperlyConfigured(f"task {task.module_path}: a coroutine cannot be transactional in Django")
        if (alias := storage().alias) != DEFAULT_DB_ALIAS:
            raise ImproperlyConfigured(
                f"task {task.module_path}: transactional works only where jobs live in the default database; "
                f"they are routed to {alias!r}, so the task's writes and its success could not commit together"
            )

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        return self.add(task, self.new_job(task, args, kwargs))

    def new_job(self, task: Any, args: Any, kwargs: Any) -> "NewJob":
        """Return the row for one call of a task. Raises: what `enqueue` raises, but for DuplicateJob."""
        self.validate_task(task)
        return enqueue.new_job(task, enqueue.checked(task, args, kwargs, self.jobs_options), self.jobs_options)

    def add(self, task: Any, job: "NewJob", is_admitted: bool = False) -> Any:
        """Insert a job and return its result. `is_admitted`: it has found room in its queue before."""
        added = (enqueue.add_admitted if is_admitted else enqueue.add)(job, task.on_duplicate)
        if added.is_duplicate:
            return duplicates_of([added.id]).get(added.id) or result_of_row(task, added, job.args, job.kwargs)
        result = result_of_row(task, added, job.args, job.kwargs)
        self.announce([result])
        return result

    def enqueue_many(self, task: Any, payloads: Iterable[Mapping[str, Any]]) -> "Results":
        self.validate_task(task)
        results = Results(task, *enqueue.add_many(task, payloads, self.jobs_options))
        self.announce(results.added())
        return results

    def announce(self, results: Iterable[Any]) -> None:
        if is_heard(task_enqueued, logging.DEBUG):
            for result in results:
                task_enqueued.send_robust(type(self), task_result=result)

    def get_result(self, result_id: str) -> Any:
        """Return the result of a job, from one SELECT. Its task need not exist any more."""
        text = str(result_id)
        return result_of_id(int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else 0)

    def check(self, **kwargs: Any) -> list[Any]:
        from . import checks

        return checks.backend_problems(self)


class Results(Sequence[Any]):
    """The results of `enqueue_many`, in order. Of a hundred thousand few are looked at: each is made when asked for."""

    def __init__(self, task: Any, kwargs: list[str], rows: "list[Inserted]") -> None:
        self.task, self.kwargs, self.rows = task, kwargs, rows
        self.duplicates = duplicates_of([row.id for row in rows if row.is_duplicate])

    def added(self) -> Iterator[Any]:
        return (self[place] for place, row in enumerate(self.rows) if not row.is_duplicate)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        row = self.rows[place]
        if row.is_duplicate and row.id in self.duplicates:
            return self.duplicates[row.id]
        return result_of_row(self.task, row, "[]", self.kwargs[place])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __repr__(self) -> str:
        return f"<results of {len(self)} jobs of {self.task.module_path}>"


def result_of_row(task: Any, row: "Inserted", args: str, kwargs: str) -> Any:
    """Return the result of a job that has just been inserted; its payload comes back as JSON left it."""
    return result_of(
        task,
        is_duplicate=row.is_duplicate,
        id=row.id,
        state=row.state,
        enqueued_at=row.enqueued_at,
        args=decoded(args),
        kwargs=decoded(kwargs),
    )


def duplicates_of(job_ids: list[int]) -> dict[int, Any]:
    """Return the results of jobs that held a dedupe key, by id; one that has been deleted meanwhile is left out."""
    from .storage import storage

    found: dict[int, list[dict[str, Any]]] = {}
    for start in range(0, len(job_ids), CHUNK):
        jobs = storage().jobs.filter(pk__in=job_ids[start : start + CHUNK]).order_by("attempt_set__pk")
        for row in jobs.values(*COLUMNS):
            found.setdefault(row["id"], []).append(row)
    return {job_id: result_from(rows, is_duplicate=True) for job_id, rows in found.items()}


def result_of_id(job_id: int) -> Any:
    """Raises: TaskResultDoesNotExist."""
    from .storage import storage

    rows = []
    if 0 < job_id <= LARGEST_ID:
        rows = list(storage().jobs.filter(pk=job_id).order_by("attempt_set__pk").values(*COLUMNS))
    if not rows:
        raise TaskResultDoesNotExist(str(job_id))
    return result_from(rows)


def result_from(rows: list[dict[str, Any]], is_duplicate: bool = False) -> Any:
    row = rows[0]
    errors = [
        TaskError(exception_class_path=found["attempt_set__exception_class"], traceback=found["attempt_set__traceback"])
        for found in rows
        if found["attempt_set__exception_class"]
    ]
    running = [row["leased_by"]] if row["state"] == State.RUNNING else []
    return result_of(
        task_of(row["task_path"], row["backend"], row["queue_name"], row["priority"], row["run_after"]),
        id=row["id"],
        state=row["state"],
        enqueued_at=row["enqueued_at"],
        args=row["args"],
        kwargs=row["kwargs"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        last_attempted_at=row["last_attempted_at"],
        worker_ids=[*row["worker_ids"], *running],
        errors=errors,
        return_value=row["return_value"],
        is_duplicate=is_duplicate,
    )


def result_of(
    task: Any,
    *,
    id: int,
    state: str,
    enqueued_at: datetime,
    args: list[Any],
    kwargs: dict[str, Any],
    started_at: datetime | None = None,
    finished_at: datetime | None = None,
    last_attempted_at: datetime | None = None,
    worker_ids: list[str] | None = None,
    errors: list[Any] | None = None,
    return_value: Any = None,
    is_duplicate: bool = False,
) -> Any:
    result: Any = JobResult(
        task=task,
        id=str(id),
        status=STATUS[State(state)],
        enqueued_at=enqueued_at,
        started_at=started_at,
        finished_at=finished_at,
        last_attempted_at=last_attempted_at,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=errors or [],
        worker_ids=worker_ids or [],
        is_duplicate=is_duplicate,
    )
    object.__setattr__(result, "_return_value", return_value)
    return result


def task_of(path: str, backend: str, queue_name: str, priority: int, run_after: datetime | None) -> Any:
    """Return the task a row was enqueued with, unvalidated: its queue or its code may be gone by now."""
    known = registry.find(path)
    task = object.__new__(type(known) if known is not None else JobTask)
    source = known if known is not None else bare_task(path)
    for name in source.__dataclass_fields__:
        object.__setattr__(task, name, getattr(source, name))
    changes = {"backend": backend, "queue_name": queue_name, "priority": priority, "run_after": run_after}
    for name, value in changes.items():
        object.__setattr__(task, name, value)
    return task


def bare_task(path: str) -> Any:
    """Return a task of this path without code behind it."""
    module, _, name = path.rpartition(".")

    def gone(*args: Any, **kwargs: Any) -> None:
        raise ImproperlyConfigured(f"the task {path} does not exist in this code any more")

    function = FunctionType(gone.__code__, {"ImproperlyConfigured": ImproperlyConfigured}, name, None, gone.__closure__)
    function.__module__, function.__qualname__ = module, name
    task = object.__new__(JobTask)
    for known in JobTask.__dataclass_fields__.values():
        object.__setattr__(task, known.name, known.default)
    object.__setattr__(task, "func", function)
    return task
