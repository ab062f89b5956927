"""What the clock enqueues: schedules written in code or by people, each time once, however many workers look."""

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError
from django.utils.module_loading import autodiscover_modules

from . import conf, registry
from .decorator import DECLARED
from .enqueue import guard_secrets
from .exceptions import DuplicateJob, InvalidPayload, QueueFull
from .models import Schedule, Tick
from .models.schedule import NOT_DECLARED
from .secrets import redacted_text
from .states import Missed
from .storage import is_locked, storage
from .timing import WRITTEN, Declaration, Timing, newest, timing_of

log = logging.getLogger("jobs")

ON_TIME = timedelta(seconds=60)  # a time that came so recently is not missed
MOST_MISSED = 100
DEPLOY = timedelta(minutes=10)  # for so long workers of other code may know better
PUT_OFF_SECONDS = 2.0
AT_ONCE = 100  # schedules in one look
TIMES = ("cron", "time_zone", "every", "starts_at")


# Declared in code


def declarations() -> dict[str, Declaration]:
    """Return every schedule that tasks and settings declare, by name. Raises: what importing an app's tasks raises."""
    autodiscover_modules("tasks")
    return {**DECLARED, **conf.options().schedules}


def sync(wanted: Mapping[str, Declaration]) -> bool:
    """Let the rows of schedules that are declared follow the code; return whether any has changed.

    What people have switched stays switched, and what they have added under the same name stays theirs. One that no
    code has declared for as long as a deploy may take disables itself: others may run other code.
    """
    store = storage()
    rows = store.rows(Schedule)
    changed = False
    for declaration in wanted.values():
        try:
            refuse_secrets(declaration)  # not under a lock: it may have to load the task
            with store.atomic():
                store.limit_lock_waits()
                changed = follow(declaration) or changed
        except (InvalidPayload, ImproperlyConfigured) as error:
            log.error("schedule not declared", extra={"schedule": declaration.name, "problem": str(error)})
        except IntegrityError:
            log.info("another worker declares it too", extra={"schedule": declaration.name})
        except OperationalError as error:
            if not is_locked(error):
                raise
    moment = store.now()
    rows.filter(name__in=wanted, declared=True).update(declared_at=moment)
    gone = rows.filter(declared=True, declared_at__lt=moment - DEPLOY).exclude(problem=NOT_DECLARED)
    gone.update(problem=NOT_DECLARED, next_at=None)
    return changed


def follow(declaration: Declaration) -> bool:
    rows = storage().rows(Schedule)
    row = rows.select_for_update().filter(name=declaration.name).first() or Schedule(name=declaration.name)
    if row.pk is not None and not row.declared:
        log.warning("a person's schedule has the name of a declared one", extra={"schedule": row.name})
        return False
    written = {name: getattr(declaration, name) for name in ("task_path", *WRITTEN)}
    changed = {name for name, value in written.items() if getattr(row, name) != value}
    if row.declared and not row.problem and not changed and not is_ahead(row):
        return False
    for name in changed:
        setattr(row, name, written[name])
    is_mended = bool(row.problem)
    row.declared, row.declared_at, row.problem = True, storage().now(), ""
    if changed & set(TIMES) or is_mended or row.next_at is None or is_ahead(row):
        plan(row)
    row.save(using=storage().alias)
    return True


def refuse_secrets(declaration: Declaration) -> None:
    """Raises: InvalidPayload where a job of it would be refused: its row is no better place for a secret."""
    if not declaration.kwargs or (task := registry.find(declaration.task_path)) is None:
        return
    # A task of another backend is none of ours to guard.
    if hasattr(task, "allow_secrets") and (options := getattr(task.get_backend(), "jobs_options", None)):
        guard_secrets(task, (), declaration.kwargs, options)


def is_ahead(schedule: Schedule) -> bool:
    """Say whether it is due later than it should be: a clock that was wrong has planned it."""
    if schedule.next_at is None:
        return False
    coming = timing_of(schedule).after(storage().now())
    return coming is not None and coming < schedule.next_at


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
    """Let it enqueue from its next time on, whatever it had disabled itself for. Times until now are not missed.

    Raises: ValueError for one that no code declares any more.
    """
    if schedule.problem == NOT_DECLARED:
        raise ValueError("no code declares it any more")
    if schedule.enabled and not schedule.problem:
        return
    schedule.enabled, schedule.problem = True, ""
    plan(schedule)
    schedule.save(update_fields=["enabled", "problem", "next_at"])


def disable(schedule: Schedule) -> None:
    """Let it enqueue nothing until somebody enables it; what was wrong with it is settled by that."""
    schedule.enabled, schedule.next_at = False, None
    if schedule.problem != NOT_DECLARED:
        schedule.problem = ""
    schedule.save(update_fields=["enabled", "next_at", "problem"])


def run_now(schedule: Schedule) -> str:
    """Enqueue its job once more, now, and return the job's id. Raises: what `enqueue` raises; LookupError."""
    store = storage()
    task = registry.find(schedule.task_path)
    if task is None:
        raise LookupError(f"there is no task {schedule.task_path}")
    with store.atomic():
        return enqueue_tick(schedule, task, store.now())


# Due


class Keeper:
    """Looks after the schedules that are due, and remembers which it could not look after. Units: monotonic seconds.

    Threads: one.
    """

    def __init__(self) -> None:
        self.failing_since: dict[int, float] = {}
        self.put_off: dict[int, float] = {}  # until when others come first

    def enqueue_due(self) -> int:
        """Enqueue what schedules are due for, each in a transaction of its own; return how many were looked after.

        What cannot be done for one of them stops none of the others.
        Raises: DatabaseError where the database itself is gone.
        """
        store, now = storage(), time.monotonic()
        self.put_off = {pk: until for pk, until in self.put_off.items() if until > now}
        moment = store.now()
        due = store.rows(Schedule).filter(next_at__lte=moment).exclude(pk__in=self.put_off).order_by("next_at", "pk")
        settled = 0
        for pk in due.values_list("pk", flat=True)[:AT_ONCE]:
            row = None
            try:
                with store.atomic():
                    store.limit_lock_waits()
                    # Whoever has it locked looks after it.
                    row = due.select_for_update(skip_locked=True).filter(pk=pk).first()
                    done = row is not None and self.look_after(row, moment)
            except (DatabaseError, InterfaceError) as error:
                if not is_locked(error) and not store.connection.is_usable():
                    raise
                done = False
                log.warning("schedule could not be looked after", extra={"schedule": pk, "error": str(error).strip()})
            if done:
                settled += 1
                self.failing_since.pop(pk, None)
            elif row is not None:
                self.put_off[pk] = now + PUT_OFF_SECONDS
        return settled

    def look_after(self, schedule: Schedule, moment: datetime) -> bool:
        """Enqueue a schedule's jobs and set its next time; return whether that could be done here and now."""
        try:
            task = registry.find(schedule.task_path)
            if task is None:
                raise LookupError(f"No worker knows the task {schedule.task_path}.")
            timing = timing_of(schedule)
            next_at = timing.after(moment)
            for tick in due_times(schedule, timing, moment):
                try:
                    with storage().atomic():
                        enqueue_tick(schedule, task, tick)
                except QueueFull as full:
                    log.warning("schedule waits for room", extra={"schedule": schedule.name, "queue": full.queue})
                    schedule.next_at = tick
                    schedule.save(update_fields=["next_at", "last_at"])
                    return False
                schedule.last_at = tick
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            if not self.is_hopeless(schedule, error):
                return False
            give_up(schedule, str(error) if isinstance(error, LookupError) else f"{type(error).__name__}: {error}")
            return True
        schedule.next_at = next_at
        schedule.save(update_fields=["next_at", "last_at"])
        return True

    def is_hopeless(self, schedule: Schedule, error: Exception) -> bool:
        """Say whether trying again is no use: at once for a payload that is wrong, else once it has gone on for long.

        A task that is not known here may be new, and another worker's; what else fails may be the world outside.
        """
        if isinstance(error, InvalidPayload | ImproperlyConfigured | ValueError | DataError):
            return True
        began = self.failing_since.setdefault(schedule.pk, time.monotonic())
        return time.monotonic() - began >= DEPLOY.total_seconds()


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
    try:
        job_id = str(task.enqueue(**schedule.kwargs).id)
    except DuplicateJob as held:
        job_id = str(held.job_id or "")  # the job of an earlier time is not over yet
    # A backend for tests may have given it an id that is no row's.
    tick.job = store.jobs.filter(pk=job_id).first() if job_id.isdecimal() else None
    tick.save(update_fields=["job"])
    return job_id


def give_up(schedule: Schedule, problem: str) -> None:
    """Disable a schedule that cannot work, with a message: it must take no worker along."""
    text = redacted_text(problem)[:1000].replace("\0", "")
    log.error("schedule disabled itself", extra={"schedule": schedule.name, "problem": text})
    schedule.problem, schedule.next_at = text, None
    schedule.save(update_fields=["problem", "next_at"])
