"""`@task`: Django's task with our options. The walk enqueue - claim - run - settle begins here."""

import difflib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Self

from django.core.exceptions import ImproperlyConfigured

from . import annotations, conf, payload
from .breakers import Breaker
from .compat import Task, task_backends
from .timing import Declaration

DECLARED: dict[str, Declaration] = {}  # the schedules of tasks, by the task's path


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTask(Task):  # type: ignore[misc]
    """Django's `Task` with the options of this queue; None means the backend's default."""

    max_attempts: int | None = None  # runs that may raise, from 1
    max_crashes: int | None = None  # lost workers before the job is dead, from 1
    backoff: Callable[..., float] | None = None  # (attempt, exception) -> seconds
    timeout: float | timedelta | None = None  # seconds for one attempt
    permanent_errors: tuple[type[BaseException], ...] = ()  # exceptions that no retry can help
    breaker: Breaker | None = None  # pauses its queue after errors that no job is to blame for
    transactional: bool = False  # the task's writes and its success commit together
    idempotency_key: str | Callable[..., str] | None = None  # format string over the payload, or callable
    dedupe_key: str | Callable[..., str] | None = None  # as idempotency_key: one job for a key until it ends
    on_duplicate: str = "return"  # the job that holds the key, "raise", or "replace" what waits
    concurrency_key: str | Callable[..., str] | None = None  # as idempotency_key: so many of a key run at a time
    max_concurrent: int | None = None  # 1, with a concurrency_key
    group_key: str | Callable[..., str] | None = None  # as idempotency_key: the groups of a queue take turns
    expires_after: float | timedelta | None = None  # seconds from when it is due: not started by then, it is not run
    on_expired: str = "dead"  # a dead letter then, or "drop"
    on_uncertain: str = "retry"  # with idempotency_key, when nobody knows whether the effect happened
    schema_version: int = 1  # of the payload's shape
    # By version: takes what a job of it was called with, and returns the keyword arguments of the next version.
    upgrades: Mapping[int, Callable[..., Mapping[str, Any]]] | None = field(default=None, hash=False)
    # Refuses payloads at enqueue: a callable, a class with `model_validate`, or a Django form class.
    validate: Any = None
    # When it is enqueued by the clock: a cron expression, a length of time, or a dict as in OPTIONS["schedules"].
    schedule: Any = field(default=None, hash=False)
    annotations: str | None = None  # what they do to arguments: "check", "convert" or "off"
    allow_secrets: tuple[str, ...] = ()  # paths in the payload that the guard against secrets leaves alone
    expires_at: datetime | None = None  # set by using(expires_after=<a datetime>)
    delay: timedelta | None = None  # set by using(run_after=timedelta(...)): from the moment of enqueue

    def __post_init__(self) -> None:
        check_options(self)
        if self.schedule is not None and self.module_path not in DECLARED:  # `using` makes copies
            declare(self)
        Task.__post_init__(self)  # by name: super() does not work in a slots subclass

    def __reduce__(self) -> Any:
        return restored, (self.module_path, changes_to(self))

    def using(self, *, run_after: Any = None, **options: Any) -> Self:
        """Return a copy with other options: Django's four, and for one call `idempotency_key`, `dedupe_key`,
        `on_duplicate`, `concurrency_key`, `group_key`, `expires_after`, `max_attempts` and `timeout`.

        `run_after` may be a timedelta too: that long after the moment of enqueue, by the database's clock. And
        `expires_after` a datetime: the moment itself.

        Raises: TypeError for an unknown option, or for a `run_after` that is no moment.
        """
        refuse_unknown(options, PER_CALL | {"run_after"}, f"{self.name}.using()")
        changes = {name: value for name, value in options.items() if value is not None}
        if isinstance(run_after, timedelta):
            changes |= {"delay": run_after, "run_after": None}
        elif run_after is not None:
            if not isinstance(run_after, datetime):
                raise TypeError(f"{self.name}.using(): run_after takes a datetime or a timedelta, not {run_after!r}")
            changes |= {"delay": None, "run_after": run_after}
        if isinstance(moment := changes.get("expires_after"), datetime):
            changes |= {"expires_after": None, "expires_at": moment}
        elif moment is not None:
            changes |= {"expires_at": None}
        return replace(self, **changes)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here, as Django's immediate backend does with a payload that JSON has gone over."""
        values, named = self.read(args, kwargs)
        return Task.call(self, *values, **named)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        values, named = self.read(args, kwargs)
        return await Task.acall(self, *values, **named)

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        context = tuple(args[:1]) if self.takes_context else ()
        args, kwargs = annotations.loaded(self, annotations_of(self), args[len(context) :], kwargs)
        return (*context, *args), kwargs

    @property
    def timeout_length(self) -> timedelta | None:
        return conf.length_or_none(self.timeout)

    @property
    def expires_length(self) -> timedelta | None:
        return conf.length_or_none(self.expires_after)


def annotations_of(task: Any) -> str:
    """Return what a task's annotations do: what it says itself, or its backend's option."""
    own = getattr(task, "annotations", None)
    return own or str(task_backends.settings.get(task.backend, {}).get("OPTIONS", {}).get("annotations", "check"))


def declare(task: JobTask) -> None:
    try:
        DECLARED[task.module_path] = Declaration.of(task.module_path, task.module_path, task.schedule)
    except (TypeError, ValueError) as error:
        raise wrong(task, "schedule", str(error)) from None


DJANGO_OPTIONS = {"priority", "queue_name", "backend", "takes_context"}
OWN_OPTIONS = {f.name for f in fields(JobTask)} - {f.name for f in fields(Task)} - {"delay", "expires_at"}
PER_CALL = {"priority", "queue_name", "backend", "idempotency_key", "dedupe_key", "on_duplicate", "concurrency_key"}
PER_CALL |= {"group_key", "expires_after", "max_attempts", "timeout"}


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a module-level function a task. Takes Django's options and ours; see `JobTask`.

    Raises: ImproperlyConfigured for a value that cannot work; TypeError for an unknown option.
    """
    if "run_after" in options:
        raise TypeError("run_after cannot be fixed in @task; use .using(run_after=...) when enqueuing")
    refuse_unknown(options, DJANGO_OPTIONS | OWN_OPTIONS, "@task")

    def decorated(function: Callable[..., Any]) -> Any:
        backend = task_backends[options.get("backend", "default")]
        try:
            return backend.task_class(func=function, **options)
        except TypeError as error:
            if not OWN_OPTIONS & options.keys() or issubclass(backend.task_class, JobTask):
                raise
            raise ImproperlyConfigured(
                f"{type(backend).__name__} does not take {', '.join(sorted(OWN_OPTIONS & options.keys()))}; "
                "use jobs.backend.JobsBackend, or in tests jobs.testing.ImmediateBackend or DummyBackend"
            ) from error

    return decorated if function is None else decorated(function)


def refuse_unknown(options: dict[str, Any], known: set[str], where: str) -> None:
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise TypeError(f"{where} has no option {name!r}; {hint}")


def check_options(task: JobTask) -> None:
    """Refuse values that cannot work where the developer wrote them, not in the worker at night."""
    readers: dict[str, Callable[[Any], Any]] = {
        "max_attempts": conf.count,
        "max_crashes": conf.count,
        "schema_version": conf.count,
        "max_concurrent": conf.count,
    }
    readers |= {"annotations": conf.annotations_mode, "expires_after": conf.length}
    readers |= {"backoff": conf.policy, "timeout": conf.length, "delay": conf.length_or_zero}
    for name, reader in readers.items():
        if (value := getattr(task, name)) is not None:
            try:
                reader(value)
            except (TypeError, ValueError) as error:
                raise wrong(task, "run_after" if name == "delay" else name, str(error)) from None
    if not isinstance(task.transactional, bool):
        raise wrong(task, "transactional", f"must be True or False, not {task.transactional!r}")
    if task.on_uncertain not in ("retry", "dead"):
        raise wrong(task, "on_uncertain", f"must be 'retry' or 'dead', not {task.on_uncertain!r}")
    if not isinstance(task.permanent_errors, tuple) or not all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in task.permanent_errors
    ):
        raise wrong(task, "permanent_errors", f"takes a tuple of exception classes, not {task.permanent_errors!r}")
    if task.breaker is not None and not isinstance(task.breaker, Breaker):
        raise wrong(task, "breaker", f"takes a jobs.breakers.Breaker, not {task.breaker!r}")
    if task.on_duplicate not in ("return", "raise", "replace"):
        raise wrong(task, "on_duplicate", f"must be 'return', 'raise' or 'replace', not {task.on_duplicate!r}")
    if task.on_expired not in ("dead", "drop"):
        raise wrong(task, "on_expired", f"must be 'dead' or 'drop', not {task.on_expired!r}")
    check_key(task, "idempotency_key", task.idempotency_key)
    check_key(task, "dedupe_key", task.dedupe_key)
    check_key(task, "concurrency_key", task.concurrency_key)
    check_key(task, "group_key", task.group_key)
    if task.max_concurrent is not None and task.concurrency_key is None:
        raise wrong(task, "max_concurrent", "needs a concurrency_key: it says how many of a key run at a time")
    if not isinstance(task.allow_secrets, tuple) or not all(isinstance(path, str) for path in task.allow_secrets):
        raise wrong(
            task, "allow_secrets", f"takes a tuple of paths like \"headers['X-Key']\", not {task.allow_secrets!r}"
        )
    for path in task.allow_secrets:
        check_path(task, path)
    if task.validate is not None and not (callable(task.validate) or hasattr(task.validate, "model_validate")):
        raise wrong(task, "validate", f"takes a callable, a pydantic model or a form class, not {task.validate!r}")
    if task.upgrades is not None:
        check_upgrades(task, task.upgrades)
    if annotations_of(task) == "convert":
        try:
            # Not remembered: names that the module defines further down are not known yet.
            annotations.Forms(task.func, task.takes_context, True)
        except TypeError as error:
            raise wrong(task, "annotations", f'"convert": {error}') from None


def check_upgrades(task: JobTask, upgrades: Any) -> None:
    if not isinstance(upgrades, Mapping) or not all(callable(upgrade) for upgrade in upgrades.values()):
        raise wrong(task, "upgrades", f"takes a dict of callables by schema version, not {upgrades!r}")
    versions = list(range(task.schema_version - len(upgrades), task.schema_version))
    if sorted(upgrades, key=repr) != sorted(versions, key=repr) or any(version < 1 for version in versions):
        given = ", ".join(map(repr, upgrades)) or "none"
        raise wrong(
            task, "upgrades", f"must lead to schema_version {task.schema_version} step by step, not from {given}"
        )


def check_key(task: JobTask, name: str, template: Any) -> None:
    if template is None or callable(template):
        return
    try:
        wanted = payload.fields_of(template)
    except (TypeError, ValueError) as error:
        raise wrong(task, name, f"is no format string: {error}") from None
    check_arguments(task, name, wanted)


def check_path(task: JobTask, path: str) -> None:
    """Refuse a path into the payload that can lead nowhere."""
    name = path.partition("[")[0]
    if name != "args":  # of what `*args` takes
        check_arguments(task, "allow_secrets", {name})


def check_arguments(task: JobTask, option: str, wanted: set[str]) -> None:
    parameters = payload.signature(task.func, task.takes_context).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unknown = sorted(wanted - {parameter.name for parameter in parameters})
    if unknown and not takes_any:
        raise wrong(task, option, f"names {unknown[0]!r}, which is no argument of the task")


def wrong(task: JobTask, name: str, why: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"task {task.module_path}: {name} {why}")


def changes_to(task: JobTask) -> dict[str, Any]:
    """Return what `using` changed since the module's own task was made: that alone travels when it is pickled."""
    original = pkgutil.resolve_name(task.module_path)
    names = [f.name for f in fields(task) if f.name != "func"]
    return {name: getattr(task, name) for name in names if getattr(task, name) != getattr(original, name)}


def restored(path: str, changes: dict[str, Any]) -> Any:
    return replace(pkgutil.resolve_name(path), **changes)
