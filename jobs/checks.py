"""System checks: what would go wrong at night is said at deploy."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections, router

from . import conf


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
    """W003: a schedule in the settings that names no task, or one that refuses its arguments."""
    from .schedules import problem_with_call

    if check_options():
        return []
    return [
        checks.Warning(f"The schedule {name!r} cannot work: {problem}", id="jobs.W003")
        for name, declared in conf.options().schedules.items()
        if (problem := problem_with_call(declared.task_path, dict(declared.kwargs)))
    ]


def check_limits(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W004: limits of a queue into which nothing can be enqueued: its name is misspelt."""
    known = conf.queues()
    if not known or check_options():
        return []
    return [
        checks.Warning(
            f"OPTIONS['queues'] limits {name!r}, which no QUEUES name.{conf.nearest(name, dict.fromkeys(known))}",
            id="jobs.W004",
        )
        for name in conf.options().queues
        if name not in known
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
    return [
        checks.Error(f"TASKS[{backend.alias!r}]: the queue name {name!r} is longer than 100 characters", id="jobs.E002")
        for name in backend.queues
        if len(name) > 100
    ]
