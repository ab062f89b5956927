"""What the clock enqueues: schedules written in code or by people, each time once, however many workers look."""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, InterfaceError, OperationalError
from django.utils.module_loading import autodiscover_modules

from . import conf, registry
from .decorator import DECLARED
from .exceptions import QueueFull
from .models import Schedule, Tick
from .secrets import redacted_text
from .states import Missed
from .storage import storage
from .timing import WRITTEN, Declaration, Timing, newest, timing_of

log = logging.getLogger("jobs")

ON_TIME = timedelta(seconds=60)  # a time that came so recently is not missed
MOST_MISSED = 100
DEPLOY = timedelta(minutes=10)  # for so long another worker may know a task that this one does not
AT_ONCE = 100  # schedules in one look
NOT_DECLARED = "No code declares it any more."


# Declared in code


def declarations() -> dict[str, Declaration]:
    """Return every schedule that tasks and settings declare, by name. Raises: what importing an app's tasks raises."""
    autodiscover_modules("tasks")
    return {**DECLARED, **conf.options().schedules}


def sync() -> None:
    """Let the rows of schedules that are declared follow the code. What people have switched stays switched."""
    store = storage()
    wanted = declarations()
    for declaration in wanted.values():
        try:
            with store.atomic():
                follow(declaration)
        except IntegrityError:
            log.info("another worker declares it too", extra={"schedule": declaration.name})
    gone = store.rows(Schedule).filter(declared=True).exclude(name__in=wanted).exclude(problem=NOT_DECLARED)
    gone.update(problem=NOT_DECLARED, next_at=None)


def follow(declaration: Declaration) -> None:
    rows = storage().rows(Schedule)
    written = {name: getattr(declaration, name) for name in ("task_path", *WRITTEN)}
    row = rows.select_for_update().filter(name=declaration.name).first() or Schedule(name=declaration.name)
    if row.pk and row.declared and not row.problem and all(getattr(row, name) == written[name] for name in written):
        return
    for name, value in written.items():
        setattr(row, name, value)
    row.declared, row.problem = True, ""
    plan(row)
    row.save(using=storage().alias)


def plan(schedule: Schedule) -> None:
    """Set when a schedule is due next, and what is wrong with it."""
    schedule.next_at = None
    try:
        timing = timing_of(schedule)
    except ValueError as error:
        schedule.problem = str(error)[:1000]
        return
    if schedule.enabled and not schedule.problem:
        schedule.next_at = timing.after(storage().now())


def problem_with_call(task_path: str, kwargs: dict[str, Any]) -> str:
    """Say why a task could not be enqueued with these arguments; nothing when it could."""
    task = registry.find(task_path)
    if task is None:
        return f"There is no task {task_path}."
    try:
        task.get_backend().new_job(task, (), kwargs)
    except Exception as error:
        return redacted_text(str(error))
    return ""


# Switched by people


def enable(schedule: Schedule) -> None:
    """Let it enqueue from its next time on, whatever it had disabled itself for. Times until now are not missed."""
    schedule.enabled, schedule.problem = True, ""
    plan(schedule)
    schedule.save(update_fields=["enabled", "problem", "next_at"])


def disable(schedule: Schedule) -> None:
    schedule.enabled, schedule.next_at = False, None
    schedule.save(update_fields=["enabled", "next_at"])


def run_now(schedule: Schedule) -> str:
    """Enqueue its job once more, now, and return the job's id. Raises: what `enqueue` raises; LookupError."""
    store = storage()
    task = registry.find(schedule.task_path)
    if task is None:
        raise LookupError(f"there is no task {schedule.task_path}")
    with store.atomic():
        return enqueue_tick(schedule, task, store.now())


# Due


def enqueue_due() -> int:
    """Enqueue what schedules are due for, each in a transaction of its own; return how many were looked after.

    A schedule whose task this worker does not know is left to others for a while, and only then disables itself.
    """
    store = storage()
    moment = store.now()
    due = store.rows(Schedule).filter(next_at__lte=moment).order_by("next_at", "pk")
    settled = 0
    for pk in due.values_list("pk", flat=True)[:AT_ONCE]:
        with store.atomic():
            # Whoever has it locked looks after it.
            row = due.select_for_update(skip_locked=True).filter(pk=pk).first()
            settled += bool(row and look_after(row, moment))
    return settled


def look_after(schedule: Schedule, moment: datetime) -> bool:
    """Enqueue a schedule's jobs and set its next time; return whether that could be done here."""
    task = registry.find(schedule.task_path)
    if task is None:
        if moment - schedule.next_at < DEPLOY:  # type: ignore[operator]
            return False
        give_up(schedule, f"No worker knows the task {schedule.task_path}.")
        return True
    try:
        timing = timing_of(schedule)
        ticks = due_times(schedule, timing, moment)
        with storage().atomic():
            for tick in ticks:
                enqueue_tick(schedule, task, tick)
    except (OperationalError, InterfaceError):
        raise  # the database's, not the schedule's
    except QueueFull as full:
        log.warning("schedule waits for room", extra={"schedule": schedule.name, "queue": full.queue})
        return False
    except Exception as error:
        give_up(schedule, f"{type(error).__name__}: {redacted_text(str(error))}")
    else:
        schedule.next_at = timing.after(moment)
        schedule.last_at = ticks[-1] if ticks else schedule.last_at
        schedule.save(update_fields=["next_at", "last_at"])
    return True


def due_times(schedule: Schedule, timing: Timing, moment: datetime) -> list[datetime]:
    """Return the times for which a job is to be enqueued, oldest first."""
    most = MOST_MISSED if schedule.missed == Missed.ALL else 1
    found = newest(timing, schedule.next_at, moment, most)  # type: ignore[arg-type]
    if schedule.missed == Missed.SKIP:
        return [tick for tick in found if moment - tick <= ON_TIME]
    return found


def enqueue_tick(schedule: Schedule, task: Any, at: datetime) -> str:
    """Enqueue the job of one time and return its id; nothing when that has been done. The constraint decides."""
    store = storage()
    try:
        with store.atomic():
            tick = store.rows(Tick).create(schedule=schedule, at=at, enqueued_at=store.now())
    except IntegrityError:
        return ""
    job_id = str(task.enqueue(**schedule.kwargs).id)
    # A backend for tests may have given it an id that is no row's.
    tick.job = store.jobs.filter(pk=job_id).first() if job_id.isdecimal() else None
    tick.save(update_fields=["job"])
    return job_id


def give_up(schedule: Schedule, problem: str) -> None:
    """Disable a schedule that cannot work, with a message: it must take no worker along."""
    log.error("schedule disabled itself", extra={"schedule": schedule.name, "problem": problem})
    schedule.problem, schedule.next_at = problem[:1000], None
    schedule.save(update_fields=["problem", "next_at"])
