"""System checks: what would go wrong at night is said at deploy."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections, router

from . import conf, payload, registry, schedules
from .exceptions import InvalidPayload
from .timing import Declaration


def register() -> None:
    checks.register(check_options, "jobs")
    checks.register(check_database, "jobs")
    checks.register(check_schedules, "jobs")
    checks.register(check_limits, "jobs")


def check_options(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """E001: an option of TASKS[...]["OPTIONS"] that is unknown or has a wrong value."""
    return [
        checks.Error(f"TASKS[{alias!r}]: {problem}", id="jobs.E001")
        for alias, params in getattr(settings, "TASKS", {}).items()
        if params.get("BACKEND") == conf.BACKEND
        for problem in conf.problems_of(params.get("OPTIONS", {}))
    ]


def check_schedules(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W003: a schedule, in code or in the settings, that names no task, or one whose arguments it does not take."""
    if check_options():
        return []  # which says what is wrong
    try:
        declared_by_name = schedules.declarations()
    except (Exception, SystemExit) as error:
        return [checks.Warning(f"Schedules in code could not be read: {error!r}", id="jobs.W003")]
    return [
        checks.Warning(f"The schedule {name!r} cannot work: {problem}", id="jobs.W003")
        for name, declared in declared_by_name.items()
        if (problem := problem_of(declared))
    ]


def own_options() -> list[conf.Options]:
    """Return the options of the backend that are in force, if they are right: `check_options` speaks of the others."""
    own = [params for params in getattr(settings, "TASKS", {}).values() if params.get("BACKEND") == conf.BACKEND]
    return [] if not own or check_options() else [conf.options()]


def problem_of(declared: Declaration) -> str:
    """Say why a schedule cannot work. The task's own validator is not asked: it may need the database."""
    task = registry.find(declared.task_path)
    if task is None:
        return f"There is no task {declared.task_path}."
    try:
        payload.bound(task.func, task.takes_context, (), declared.kwargs)
    except InvalidPayload as error:
        return str(error)
    return ""


def check_limits(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W004: limits of a queue into which nothing can be enqueued: its name is misspelt."""
    known = conf.queues()
    return [
        checks.Warning(
            f"OPTIONS['queues'] limits {name!r}, which no QUEUES name.{conf.nearest(name, dict.fromkeys(known))}",
            id="jobs.W004",
        )
        for options in own_options()
        for name in options.queues
        if known and name not in known
    ]


def check_database(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W001: jobs routed away from the default database; W002: SQLite opened so that writers trip over each other."""
    from .models import Job

    alias = router.db_for_write(Job)
    found: list[checks.CheckMessage] = []
    if alias != DEFAULT_DB_ALIAS:
        found.append(
            checks.Warning(
                f"Jobs are routed to the database {alias!r}: enqueue does not join transactions of 'default'.",
                hint="Enqueue in transaction.on_commit(), or keep jobs in the database of your models.",
                id="jobs.W001",
            )
        )
    if connections[alias].vendor == "sqlite":
        options = connections[alias].settings_dict.get("OPTIONS", {})
        if options.get("transaction_mode") != "IMMEDIATE":
            found.append(
                checks.Warning(
                    f"The SQLite database {alias!r} does not begin transactions as IMMEDIATE: workers will meet "
                    "'database is locked'.",
                    hint="Set OPTIONS['transaction_mode'] = 'IMMEDIATE' and journal_mode=WAL in its init_command.",
                    id="jobs.W002",
                )
            )
    return found


def backend_problems(backend: Any) -> list[checks.CheckMessage]:
    """E002: a queue name longer than the column."""
    most = conf.LONGEST_QUEUE_NAME
    return [
        checks.Error(
            f"TASKS[{backend.alias!r}]: the queue name {name!r} is longer than {most} characters", id="jobs.E002"
        )
        for name in backend.queues
        if len(name) > most
    ]
