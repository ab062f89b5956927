"""From a task and its arguments to a row: everything is checked before any SQL, then one INSERT."""

from collections.abc import Iterable, Mapping
from typing import Any

from . import payload
from .conf import Options
from .exceptions import InvalidPayload
from .states import State
from .storage import Inserted, NewJob, storage
from .wake import wake


def new_job(task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> NewJob:
    """Return the row for one call of a task. Raises: InvalidPayload naming the argument."""
    payload.check_text(task.queue_name, task.name, "queue_name")
    if len(task.queue_name) > 100 or len(task.module_path) > 255:
        raise InvalidPayload(f"{task.name}: queue_name takes at most 100 characters, the task's path at most 255")
    arguments = payload.bound(task.func, task.takes_context, args, kwargs)
    args_text, kwargs_text = payload.encoded(task.name, args, kwargs, options.max_payload)
    return NewJob(
        task_path=task.module_path,
        backend=task.backend,
        queue_name=task.queue_name,
        priority=int(task.priority),
        args=args_text,
        kwargs=kwargs_text,
        schema_version=task.schema_version,
        max_attempts=task.max_attempts or options.max_attempts,
        max_crashes=task.max_crashes or options.max_crashes,
        timeout=task.timeout_length,
        idempotency_key=idempotency_key(task, arguments.arguments),
        run_after=task.run_after,
        delay=task.delay,
    )


def idempotency_key(task: Any, arguments: dict[str, Any]) -> str:
    if task.idempotency_key is None:
        return ""
    return payload.key_for("idempotency_key", task.idempotency_key, task.name, arguments)


def add(jobs: list[NewJob]) -> list[Inserted]:
    """Insert jobs and wake workers for the due ones. Transaction: joins the caller's."""
    inserted = storage().insert(jobs)
    due = {job.queue_name for job, row in zip(jobs, inserted, strict=True) if row.state == State.READY}
    for queue_name in due:
        wake(queue_name)
    return inserted


def enqueue_many(task: Any, payloads: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Enqueue one job for each dict of keyword arguments and return their results, in order.

    Raises: InvalidPayload for the first one that cannot be enqueued; then none is.
    Transaction: joins the caller's, or opens one for all of them.
    """
    backend = task.get_backend()
    if hasattr(backend, "enqueue_many"):
        return backend.enqueue_many(task, payloads)  # type: ignore[no-any-return]
    return [task.enqueue(**kwargs) for kwargs in payloads]
