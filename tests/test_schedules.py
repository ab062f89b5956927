"""The clock enqueues: each time once, whatever was missed, and what is broken disables itself."""

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, OperationalError, connection, transaction

from jobs import schedules, stats, task
from jobs.compat import ROOT
from jobs.decorator import DECLARED
from jobs.models import Job, Schedule, Tick
from jobs.models.schedule import NOT_DECLARED
from jobs.schedules import DEPLOY, MOST_MISSED, ON_TIME
from jobs.storage import storage
from jobs.testing import run_jobs
from tests import tasks
from tests.threads import at_once

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
ADD = "tests.tasks.add"


def a_schedule(**fields: Any) -> Schedule:
    values = {"name": "s", "task_path": ADD, "kwargs": {"a": 1, "b": 2}, "every": MINUTE}
    made = Schedule(**values | fields)
    schedules.plan(made)
    made.save()
    return made


def enqueue_due() -> int:
    return schedules.Keeper().enqueue_due()


def sync() -> None:
    schedules.sync(schedules.declarations())


def due(ago: timedelta = timedelta(), **fields: Any) -> Schedule:
    """A schedule that counts from a moment ago and has been due since."""
    moment = storage().now() - ago
    made = a_schedule(**{"starts_at": moment} | fields)
    Schedule.objects.filter(pk=made.pk).update(next_at=moment)
    made.refresh_from_db()
    return made


def ticks() -> list[Any]:
    return list(Tick.objects.order_by("at").values_list("at", flat=True))


def test_a_schedule_that_is_due_enqueues_its_job_and_knows_when_it_is_due_next():
    schedule = due()

    assert enqueue_due() == 1

    job = Job.objects.get()
    assert (job.task_path, job.kwargs) == (ADD, {"a": 1, "b": 2})
    tick = Tick.objects.get()
    assert (tick.at, tick.job_id) == (schedule.next_at, job.pk)
    schedule.refresh_from_db()
    assert (schedule.last_at, schedule.next_at) == (tick.at, tick.at + MINUTE)
    assert enqueue_due() == 0


def test_what_is_not_due_is_left_alone():
    a_schedule()

    assert enqueue_due() == 0
    assert not Job.objects.exists()


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("one", 1), ("all", 3)])
def test_times_that_came_while_no_worker_ran_are_skipped_or_made_up_for(missed, jobs):
    schedule = due(timedelta(hours=2, minutes=30), every=timedelta(hours=1), missed=missed)

    assert enqueue_due() == 1

    assert Job.objects.count() == jobs
    assert ticks() == [schedule.next_at + n * schedule.every for n in range(3)][3 - jobs :]
    schedule.refresh_from_db()
    assert schedule.next_at > storage().now()


def test_a_time_that_is_a_moment_late_is_not_missed():
    due(ON_TIME / 2, missed="skip")

    enqueue_due()

    assert Job.objects.count() == 1


def test_all_that_was_missed_has_a_bound_and_the_newest_count():
    due(timedelta(days=1), missed="all")

    enqueue_due()

    assert Job.objects.count() == MOST_MISSED
    assert storage().now() - ticks()[-1] < MINUTE
    assert ticks() == sorted(ticks())


def test_a_time_is_enqueued_once_even_if_a_worker_believes_that_it_was_not():
    schedule = due()
    enqueue_due()
    Schedule.objects.update(next_at=schedule.next_at)

    enqueue_due()

    assert (Job.objects.count(), Tick.objects.count()) == (1, 1)


def test_a_time_belongs_to_one_tick():
    schedule = due()
    enqueue_due()

    with pytest.raises(IntegrityError), transaction.atomic():
        Tick.objects.create(schedule=schedule, at=ticks()[0], enqueued_at=storage().now())


@pytest.mark.django_db(transaction=True)
def test_ten_schedulers_and_one_time_make_one_job():
    due()

    found = at_once(*[enqueue_due] * 10)

    assert sum(found) == 1
    assert (Job.objects.count(), Tick.objects.count()) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_dies_before_its_commit_leaves_the_time_to_others(monkeypatch):
    schedule = due()

    def dies(*args: Any, **options: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Schedule, "save", dies)
        with pytest.raises(SystemExit):
            enqueue_due()
    assert (Job.objects.count(), Tick.objects.count()) == (0, 0)

    enqueue_due()

    assert ticks() == [schedule.next_at]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kwargs": {"a": 1, "b": 2, "nobody": 1}}, "nobody"),
        ({"task_path": "tests.validated.formed", "kwargs": {"to": "nobody", "days": 1}}, "to: Enter a valid email"),
        ({"every": None, "cron": "0 0 1 1 *", "time_zone": "Mars/Phobos"}, "no time zone 'Mars/Phobos'"),
    ],
)
def test_a_broken_schedule_disables_itself_with_a_message_and_no_other(fields, problem):
    broken = a_schedule(name="broken")
    Schedule.objects.filter(pk=broken.pk).update(**fields | {"next_at": storage().now() - MINUTE})
    due(name="good")

    assert enqueue_due() == 2

    broken.refresh_from_db()
    assert problem in broken.problem
    assert broken.next_at is None
    assert Job.objects.count() == 1


def test_a_statement_that_fails_disables_nothing_and_stops_no_other_schedule(monkeypatch):
    schedule = due(MINUTE, name="first")
    due(name="second")
    insert = storage().insert
    calls = []

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise OperationalError("somebody holds a lock")
        return insert(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(storage(), "insert", fails_once)
        assert enqueue_due() == 1

    schedule.refresh_from_db()
    assert (schedule.problem, schedule.next_at is None) == ("", False)
    assert [tick.schedule.name for tick in Tick.objects.all()] == ["second"]


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_gone_is_for_housekeeping_to_wait_for(monkeypatch):
    schedule = due()

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(storage(), "insert", fails)
        patched.setattr(storage().connection, "is_usable", lambda: False)
        with pytest.raises(OperationalError):
            enqueue_due()

    schedule.refresh_from_db()
    assert schedule.problem == ""


def test_a_task_that_this_worker_does_not_know_is_left_to_others_during_a_deploy(monkeypatch):
    keeper = schedules.Keeper()
    schedule = due(2 * DEPLOY, task_path="tests.tasks.of_new_code")

    assert keeper.enqueue_due() == 0
    schedule.refresh_from_db()
    assert (schedule.problem, schedule.next_at is None) == ("", False)

    keeper.failing_since[schedule.pk] -= DEPLOY.total_seconds()
    keeper.put_off.clear()
    assert keeper.enqueue_due() == 1
    schedule.refresh_from_db()
    assert "tests.tasks.of_new_code" in schedule.problem


def test_what_fails_for_a_reason_of_the_world_outside_is_tried_again(monkeypatch):
    schedule = due()

    def fails(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the address book does not answer")

    with monkeypatch.context() as patched:
        patched.setattr("jobs.enqueue.validate", fails)
        assert enqueue_due() == 0
    schedule.refresh_from_db()
    assert schedule.problem == ""

    assert enqueue_due() == 1
    assert Job.objects.count() == 1


def test_schedules_that_cannot_be_looked_after_keep_no_others_waiting(monkeypatch):
    monkeypatch.setattr(schedules, "AT_ONCE", 3)
    keeper = schedules.Keeper()
    for n in range(3):
        due(MINUTE, name=f"unknown {n}", task_path="tests.tasks.of_new_code")
    due(name="good")

    assert [keeper.enqueue_due() for _ in range(2)] == [0, 1]


def test_a_time_whose_job_would_be_a_duplicate_is_done_by_the_job_that_is_there():
    schedule = due(task_path="tests.tasks.one_at_most", kwargs={})
    enqueue_due()
    again = schedule.next_at + MINUTE
    Schedule.objects.update(next_at=again - 2 * MINUTE, starts_at=again - 2 * MINUTE)

    assert enqueue_due() == 1

    schedule.refresh_from_db()
    assert schedule.problem == ""
    assert {tick.job_id for tick in Tick.objects.all()} == {Job.objects.get().pk}


def test_a_secret_in_an_error_is_not_kept():
    key = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
    schedule = due(kwargs={"a": key, "b": 1})

    enqueue_due()

    schedule.refresh_from_db()
    assert schedule.problem
    assert key not in schedule.problem


def test_enabling_goes_on_from_now_and_disabling_stops():
    schedule = due(timedelta(hours=1))

    schedules.disable(schedule)
    assert enqueue_due() == 0
    schedules.enable(schedule)

    schedule.refresh_from_db()
    assert schedule.next_at > storage().now()
    assert enqueue_due() == 0


def test_running_now_changes_nothing_of_when_it_is_due():
    schedule = a_schedule()
    schedules.disable(schedule)

    job_id = schedules.run_now(schedule)

    assert Job.objects.get().pk == int(job_id)
    assert Tick.objects.get().job_id == int(job_id)
    schedule.refresh_from_db()
    assert (schedule.enabled, schedule.next_at) == (False, None)
    assert run_jobs() == 1


# Declared in code


@pytest.fixture
def declared(monkeypatch) -> Callable[..., Any]:
    """Declare schedules as code does, and nothing else."""
    monkeypatch.setattr("jobs.schedules.DECLARED", found := {})

    def declare(name: str, given: Any) -> None:
        from jobs.timing import Declaration

        found[name] = Declaration.of(name, ADD, given)

    declare.forget = found.clear  # type: ignore[attr-defined]
    return declare


def test_a_task_may_say_when_it_is_enqueued():
    assert DECLARED["tests.tasks.nightly"].cron == "0 3 * * *"
    assert tasks.nightly.using(priority=5).schedule == "0 3 * * *"


def test_a_task_with_a_schedule_that_cannot_be_right_is_refused_where_it_is_written():
    with pytest.raises(ImproperlyConfigured, match=r"tests.tasks.add: schedule .*bad minute"):
        task(tasks.add.func, schedule="99 * * * *")


def test_rows_follow_the_code_and_keep_what_people_have_switched(declared):
    declared("a", {"cron": "0 3 * * *", "kwargs": {"a": 1, "b": 2}})
    sync()
    row = Schedule.objects.get()
    assert (row.name, row.cron, row.declared, row.task_path) == ("a", "0 3 * * *", True, ADD)
    planned = row.next_at
    assert planned is not None

    Schedule.objects.update(next_at=planned - timedelta(days=1))
    sync()
    row.refresh_from_db()
    assert row.next_at == planned - timedelta(days=1)  # a restart forgets no time that was missed

    schedules.disable(row)
    declared("a", {"every": 60})
    sync()
    row = Schedule.objects.get()
    assert (row.enabled, row.next_at, row.every, row.cron) == (False, None, MINUTE, "")


def test_a_schedule_that_no_code_declares_any_more_stops_until_some_does(declared):
    declared("a", 60)
    a_schedule(name="of a person")
    sync()

    declared.forget()
    sync()
    assert Schedule.objects.get(name="a").problem == ""  # another worker's code may declare it
    Schedule.objects.filter(name="a").update(declared_at=storage().now() - DEPLOY - MINUTE)
    sync()
    row = Schedule.objects.get(name="a")
    assert (row.problem, row.next_at) == (NOT_DECLARED, None)
    with pytest.raises(ValueError, match="no code declares it"):
        schedules.enable(row)
    assert Schedule.objects.get(name="of a person").problem == ""

    declared("a", 60)
    sync()
    row.refresh_from_db()
    assert row.problem == ""
    assert row.next_at is not None


def test_code_takes_no_person_s_schedule(declared, caplog):
    a_schedule(name="a", cron="0 4 * * *", every=None)

    declared("a", 60)
    sync()

    row = Schedule.objects.get()
    assert (row.cron, row.every, row.declared) == ("0 4 * * *", None, False)
    assert "a person's schedule has the name of a declared one" in caplog.text


def test_a_secret_in_a_declared_schedule_reaches_no_row(declared, caplog):
    declared("a", {"every": 60, "kwargs": {"a": 1, "b": "postgres://app:hunter2@db/app"}})
    declared("b", 60)
    sync()

    assert [row.name for row in Schedule.objects.all()] == ["b"]
    assert "schedule not declared" in caplog.text


def test_a_declared_schedule_of_another_backend_s_task_is_followed(declared, settings):
    settings.TASKS = settings.TASKS | {"other": {"BACKEND": f"{ROOT}.backends.immediate.ImmediateBackend"}}
    plain = import_module(ROOT).task(backend="other")(tasks.add.func)  # without our options
    declared("a", {"every": 60, "kwargs": {"a": 1, "b": 2}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.schedules.registry.find", lambda path: plain)
        sync()

    assert Schedule.objects.get().name == "a"


def test_what_is_due_stays_due_when_something_else_changes(declared):
    declared("a", {"every": 3600, "kwargs": {"a": 1, "b": 2}})
    sync()
    overdue = storage().now() - MINUTE
    Schedule.objects.update(next_at=overdue)

    declared("a", {"every": 3600, "kwargs": {"a": 1, "b": 3}})
    sync()

    row = Schedule.objects.get()
    assert (row.next_at, row.kwargs["b"]) == (overdue, 3)


def test_what_a_wrong_clock_has_planned_is_planned_anew(declared):
    declared("a", 3600)
    sync()
    Schedule.objects.update(next_at=storage().now() + timedelta(days=1))

    sync()

    assert Schedule.objects.get().next_at <= storage().now() + timedelta(hours=1)


def test_settings_may_declare_schedules_of_any_task(settings, declared):
    own = {"schedules": {"report": {"task": ADD, "cron": "0 6 * * *", "time_zone": "Asia/Tokyo", "missed": "skip"}}}
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": own}}

    sync()

    row = Schedule.objects.get()
    assert (row.name, row.time_zone, row.missed, row.declared) == ("report", "Asia/Tokyo", "skip", True)


@pytest.mark.django_db(transaction=True)
def test_workers_that_start_together_declare_each_schedule_once(declared):
    declared("a", 60)

    assert at_once(*[sync] * 4) == [None] * 4

    assert Schedule.objects.count() == 1


# Housekeeping


def test_old_times_are_pruned_but_for_the_last_of_each_schedule():
    schedule = due(timedelta(days=30), every=timedelta(days=10), missed="all")
    enqueue_due()
    assert len(ticks()) == 4

    assert storage().prune_ticks(100, timedelta(days=7)) == 3
    schedule.refresh_from_db()
    assert ticks() == [schedule.last_at]


def test_figures_say_what_is_broken_and_late():
    due(timedelta(minutes=5), name="late")
    schedules.disable(a_schedule(name="off"))
    Schedule.objects.create(name="broken", task_path=ADD, every=MINUTE, problem="why")

    figures = stats.schedules(storage().now())

    assert (figures.enabled, figures.disabled, figures.broken) == (1, 1, 1)
    assert timedelta(minutes=5) <= figures.late < timedelta(minutes=6)


def test_a_row_says_either_cron_or_every():
    for fields in ({"cron": "* * * * *", "every": MINUTE}, {"every": None}):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor():
            Schedule.objects.create(**{"name": "x", "task_path": ADD, "every": MINUTE} | fields)
