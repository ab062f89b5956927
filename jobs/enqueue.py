"""From a task and its arguments to a row: everything is checked before any SQL, then one INSERT."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import DatabaseError, transaction
from django.utils import timezone

from . import annotations, duplicates, limits, payload, validation
from .concurrency import let_in_after_commit
from .conf import LONGEST_QUEUE_NAME, Options
from .exceptions import InvalidPayload
from .states import State
from .storage import ANY_QUEUE, Inserted, Keys, NewJob, QueueIsBounded, storage
from .wake import is_due, is_late, not_told, wake

NO_KEY = ("", "", "", "")


class Payload(NamedTuple):
    """The arguments of one call, known to be right. Shape: JSON text."""

    args: str
    kwargs: str
    idempotency_key: str
    dedupe_key: str
    concurrency_key: str
    group_key: str


def checked(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options) -> Payload:
    """Return the payload of one call. Raises: InvalidPayload naming the argument."""
    mode = task.annotations or options.annotations
    if mode == "convert":
        args, kwargs = annotations.dumped(task, mode, args, kwargs)
    texts = payload.encoded(task.name, args, kwargs, options.max_payload)
    # Before whatever may quote a value in what it says.
    guard_secrets(task, args, kwargs, options)
    keys = keys_of(task, mode, args, kwargs)
    if mode == "check":
        annotations.dumped(task, mode, args, kwargs)
    validate(task, mode, args, kwargs)
    return Payload(*texts, *keys)


def new_job(task: Any, found: Payload, options: Options) -> NewJob:
    """Return the row for one call of a task. Raises: InvalidPayload when the task's names do not fit into one."""
    payload.check_text(task.queue_name, task.name, "queue_name")
    if len(task.queue_name) > LONGEST_QUEUE_NAME or len(task.module_path) > 255:
        most = f"at most {LONGEST_QUEUE_NAME} characters, the task's path at most 255"
        raise InvalidPayload(f"{task.name}: queue_name takes {most}")
    return NewJob(
        task_path=task.module_path,
        backend=task.backend,
        queue_name=task.queue_name,
        priority=int(task.priority),
        args=found.args,
        kwargs=found.kwargs,
        schema_version=task.schema_version,
        max_attempts=task.max_attempts or options.max_attempts,
        max_crashes=task.max_crashes or options.max_crashes,
        timeout=task.timeout_length,
        idempotency_key=found.idempotency_key,
        run_after=task.run_after,
        delay=task.delay,
        dedupe_key=found.dedupe_key,
        expires_after=task.expires_length,
        expires_at=task.expires_at,
        drop_expired=task.on_expired == "drop",
        concurrency_key=found.concurrency_key,
        max_concurrent=task.max_concurrent or 1,
        group_key=found.group_key,
    )


def validate(task: Any, mode: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Let the task's own validator refuse a payload. Raises: InvalidPayload with what it says."""
    if task.validate is not None:
        args, kwargs = annotations.loaded(task, mode, args, kwargs)
        arguments = payload.bound(task.func, task.takes_context, args, kwargs).arguments
        if problems := validation.problems(task.validate, arguments):
            raise InvalidPayload(f"{task.name}: {problems}")


def guard_secrets(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options) -> None:
    """Refuse a payload with a secret in it, as the options and the task say. Raises: InvalidPayload with its path."""
    payload.refuse_secrets(task.func, task.takes_context, args, kwargs, task.allow_secrets, options.secrets)


def keys_of(task: Any, mode: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[str]:
    """Return the idempotency, dedupe, concurrency and group key of a call that fits the task; "" for none.

    Raises: InvalidPayload naming the argument.
    """
    templates = {
        "idempotency_key": task.idempotency_key,
        "dedupe_key": task.dedupe_key,
        "concurrency_key": task.concurrency_key,
        "group_key": task.group_key,
    }
    wanted = any(template is not None for template in templates.values())
    if not wanted and payload.fit(task.func, task.takes_context)(args, kwargs):
        return NO_KEY
    arguments = payload.bound(task.func, task.takes_context, args, kwargs).arguments
    if mode == "convert":
        arguments |= annotations.dumped_defaults(task, arguments, args, kwargs)
    return [
        "" if template is None else payload.key_for(name, template, task.name, arguments)
        for name, template in templates.items()
    ]


def add(job: NewJob, on_duplicate: str = "return") -> Inserted:
    """Insert a job and wake workers if it is due. Transaction: joins the caller's.

    Outside of one the notification travels with the row: nobody waits for a second commit.
    Raises: DuplicateJob, QueueFull.
    """
    return put_unless_bounded(job, on_duplicate) or put(admitted(job, on_duplicate), on_duplicate)


def add_admitted(job: NewJob, on_duplicate: str) -> Inserted:
    """Do as `add` does for one that has found room before, whatever has become of that. Raises: DuplicateJob."""
    added = put_unless_bounded(job, on_duplicate)
    if added is not None:
        return added
    added = put(job, on_duplicate)
    if not storage().connection.in_atomic_block:
        with suppress(DatabaseError):
            limits.limits_of(job.queue_name)  # the next one finds them
    return added


def put_unless_bounded(job: NewJob, on_duplicate: str) -> Inserted | None:
    """Insert a job that needs to find no room; None, and nothing is written: it has to. Raises: DuplicateJob."""
    door = limits.door
    is_bounded = is_for_now(job) and door.is_bounded(job.queue_name)
    if is_bounded is False:
        return put(job, on_duplicate)
    if is_bounded is None:
        asked_at = time.monotonic()
        with suppress(QueueIsBounded):
            added = put(job._replace(unless_bounded=True), on_duplicate)
            door.note_unbounded(job.queue_name, asked_at)
            return added
        door.look_again()
    return None


def admitted(job: NewJob, on_duplicate: str) -> NewJob:
    """Return a job, for which there is room now, as it is to be inserted. Raises: QueueFull."""
    later = limits.admit(job.queue_name, job.priority, held=how_many_are_held([job.dedupe_key], on_duplicate))
    return job._replace(delay=later) if later else job


def how_many_are_held(keys: Sequence[str], on_duplicate: str) -> Callable[[], int]:
    return functools.partial(duplicates.held, keys, on_duplicate) if any(keys) else int


def put(job: NewJob, on_duplicate: str) -> Inserted:
    """Do as `add` does, whether or not there is room. Raises: DuplicateJob, QueueIsBounded."""
    store = storage()
    if job.dedupe_key or job.concurrency_key:
        added = duplicates.add_unless_held(job, on_duplicate) if job.dedupe_key else store.insert([job])[0]
        if not added.is_duplicate or on_duplicate == "replace":
            let_in_after_commit([job.concurrency_key])
        if is_news(added, on_duplicate) and not job.concurrency_key:
            wake(ANY_QUEUE if added.is_duplicate or job.group_key else job.queue_name)
        return added
    connection = store.connection
    is_alone = not connection.in_atomic_block and connection.get_autocommit()
    if not is_alone or job.delay is not None or job.run_after is not None or job.group_key:
        [inserted] = store.insert([job])
        if inserted.state == State.READY:
            # That a queue has groups, a worker learns when it asks which queues there are.
            wake(ANY_QUEUE if job.group_key else job.queue_name)
        return inserted
    tells = is_due(job.queue_name)
    try:
        [inserted] = store.insert([job], tell=tells)
    except BaseException:
        if tells:
            not_told(job.queue_name)
        raise
    if not tells and is_late(job.queue_name):
        wake(job.queue_name)
    return inserted


def is_for_now(job: NewJob) -> bool:
    """Say whether a job is to run as soon as there is room, and so has to find some."""
    if job.delay is None and job.run_after is None:
        return True
    delay = job.delay or timedelta(0)
    return delay <= timedelta(0) and (job.run_after is None or job.run_after <= timezone.now())


def is_news(added: Inserted, on_duplicate: str) -> bool:
    """Say whether workers may run a job now that they may not have run before."""
    return added.state == State.READY and (not added.is_duplicate or on_duplicate == "replace")


def add_many(task: Any, payloads: Iterable[Mapping[str, Any]], options: Options) -> tuple[list[str], list[Inserted]]:
    """Insert a job for each payload and wake workers; return the payloads as JSON, and the jobs.

    Transaction: joins the caller's, or opens one for all of them.
    """
    texts: list[str] = []
    found_keys: list[tuple[str, ...]] = []
    template = None
    for kwargs in payloads:
        if type(kwargs) is not dict and not isinstance(kwargs, Mapping):
            what = f"{task.name}: enqueue_many takes a dict of keyword arguments for each job"
            raise InvalidPayload(f"{what}, not {kwargs!r:.80}")
        try:
            found = checked(task, (), kwargs, options)
        except InvalidPayload as error:
            raise InvalidPayload(f"{error} (payload {len(texts) + 1} of enqueue_many)") from error
        if template is None:
            template = new_job(task, found, options)
        texts.append(found.kwargs)
        found_keys.append(found[2:])
    if template is None:
        return [], []
    # Each kind is made of one template, so that all have it or none.
    keys = Keys(*(kind if kind[0] else () for kind in zip(*found_keys, strict=True)))
    if not is_for_now(template):
        return texts, put_many(template, texts, keys, task.on_duplicate) or []
    if not limits.door.is_bounded(template.queue_name):
        added = put_many(template._replace(unless_bounded=True), texts, keys, task.on_duplicate)
        if added is not None:
            return texts, added
        limits.door.look_again()
    held = how_many_are_held(keys.dedupe, task.on_duplicate)
    later = limits.admit(template.queue_name, template.priority, len(texts), held)
    return texts, put_many(template, texts, keys, task.on_duplicate, later) or []


def put_many(
    template: NewJob, texts: Sequence[str], keys: Keys, on_duplicate: str, later: timedelta | None = None
) -> list[Inserted] | None:
    """Insert these jobs, whether or not there is room; None, and nothing is written: that is to be asked first.

    Raises: DuplicateJob.
    """
    store = storage()
    # Who is told of a duplicate may go on with the caller's transaction.
    with transaction.atomic(using=store.alias, savepoint=bool(keys.dedupe)):
        try:
            if keys.dedupe:
                added = duplicates.add_many_unless_held(template, texts, keys, on_duplicate, later)
            else:
                added = store.insert_many(template._replace(delay=later) if later else template, texts, keys)
        except QueueIsBounded:
            return None  # from inside of the block: the caller's transaction goes on
        let_in_after_commit(keys.concurrency)
        # All are alike, but for what was there before.
        news = [row for row in (added if keys.dedupe else added[:1]) if is_news(row, on_duplicate)]
        if news and not keys.concurrency:
            asks = bool(keys.group) or any(row.is_duplicate for row in news)
            wake(ANY_QUEUE if asks else template.queue_name)
    return added


def enqueue_on_commit(task: Any, /, *args: Any, using: str | None = None, **kwargs: Any) -> None:
    """Enqueue once the transaction on another database, `using`, has committed; at once where there is none.

    For projects whose jobs live in another database than what they belong to. Where both are one, an `enqueue` inside
    `atomic()` does better: a process that dies between this commit and the enqueue leaves no job.
    Raises: InvalidPayload and QueueFull, at once: after the commit there is nobody to try again. What the enqueue
    itself raises comes out of the `atomic` block, after its commit.
    """
    backend = task.get_backend()
    if hasattr(backend, "new_job"):
        # Now: the arguments may change until then.
        job = backend.new_job(task, args, kwargs)
        # In a test case nothing is known from before.
        if is_for_now(job) and (limits.door.is_bounded(job.queue_name) or limits.in_test_case()):
            job = admitted(job, task.on_duplicate)
        act = functools.partial(backend.add, task, job, is_admitted=True)
    else:
        act = functools.partial(task.enqueue, *args, **kwargs)

    # A function and no partial: see `wake`.
    def after_commit() -> None:
        act()

    transaction.on_commit(after_commit, using=using)


async def aenqueue_on_commit(task: Any, /, *args: Any, using: str | None = None, **kwargs: Any) -> None:
    """See `enqueue_on_commit`."""
    await sync_to_async(enqueue_on_commit)(task, *args, using=using, **kwargs)


async def aenqueue_many(task: Any, payloads: Iterable[Mapping[str, Any]]) -> Sequence[Any]:
    """See `enqueue_many`."""
    return await sync_to_async(enqueue_many)(task, payloads)


def enqueue_many(task: Any, payloads: Iterable[Mapping[str, Any]]) -> Sequence[Any]:
    """Enqueue one job for each dict of keyword arguments and return their results, in order.

    Shape: a sequence that makes each result when it is asked for.

    Raises: InvalidPayload, or with on_duplicate="raise" DuplicateJob, for the first one that cannot be enqueued, or
    QueueFull where there is no room for all of them; then none is.
    Transaction: joins the caller's, or opens one for all of them.
    """
    if not hasattr(task, "get_backend"):
        raise TypeError(f"enqueue_many takes a task, made by @task, not {task!r}")
    if not isinstance(payloads, Iterable):
        raise TypeError(f"{task.name}: enqueue_many takes dicts of keyword arguments, not {payloads!r:.80}")
    backend = task.get_backend()
    if hasattr(backend, "enqueue_many"):
        return backend.enqueue_many(task, payloads)  # type: ignore[no-any-return]
    return [task.enqueue(**kwargs) for kwargs in payloads]
