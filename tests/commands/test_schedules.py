"""`manage.py jobs schedules`: what the clock enqueues, seen and switched from a shell."""

import pytest

from jobs import schedules, stats
from jobs.models import Job, Queue, Schedule
from jobs.models.schedule import NOT_DECLARED
from jobs.storage import storage
from tests import tasks
from tests.admin.test_schedule import a_schedule

from .console import jobs

pytestmark = pytest.mark.django_db


def test_the_list_says_when_each_is_due_and_what_is_wrong():
    a_schedule(name="nightly", time_zone="Europe/Berlin")
    schedules.give_up(a_schedule(name="broken"), "InvalidPayload: no such argument")

    ran = jobs("schedules")

    assert "nightly  tests.tasks.add  0 3 * * * (Europe/Berlin)" in ran.out
    assert "broken has disabled itself: InvalidPayload: no such argument" in ran.out
    assert [row["state"] for row in jobs("schedules", "list", "--json").json] == ["broken", "enabled"]


def test_one_that_is_gone_from_the_code_is_off_and_nothing_is_wrong():
    schedules.give_up(a_schedule(name="old"), NOT_DECLARED)

    assert "old is off: No code declares it any more." in jobs("schedules").out
    assert jobs("schedules", "--json").json[0]["state"] == "disabled"
    figures = stats.schedules(storage().now())
    assert (figures.broken, figures.disabled) == (0, 1)


def test_disabling_a_broken_one_settles_it():
    schedules.give_up(a_schedule(name="broken"), "InvalidPayload: no such argument")

    assert jobs("schedules", "disable", "broken").out == "broken is disabled. Next: -.\n"


def test_one_is_shown_with_its_next_times_and_what_came_of_the_last():
    a_schedule(name="nightly", cron="0 3 * * *", time_zone="UTC")
    job = jobs("schedules", "run", "nightly", "--json").json["job"]

    found = jobs("schedules", "show", "nightly", "--json").json
    assert len(found["coming"]) == 5
    assert all("T03:00:00" in moment for moment in found["coming"])
    assert [(row["job"], row["state"]) for row in found["results"]] == [(int(job), "ready")]
    assert "then 4" in jobs("schedules", "show", "nightly").out
    assert "has not enqueued anything" in jobs("schedules", "show", a_schedule(name="new").name).out


def test_a_full_queue_is_a_message_and_no_traceback():
    a_schedule(name="nightly")
    Queue.objects.create(name="default", max_depth=1)
    tasks.add.enqueue(1, 2)

    assert "default" in jobs("schedules", "run", "nightly").error
    assert "default" in jobs("enqueue", "tests.tasks.add", "--args", "[1, 2]").error


def test_without_schedules_it_says_so():
    assert jobs("schedules").out == "There are no schedules.\n"
    assert jobs("schedules", "--json").json == []


def test_one_is_switched_off_and_on_and_run_now():
    a_schedule(name="nightly")

    assert "nightly is disabled. Next: -" in jobs("schedules", "disable", "nightly").out
    assert not Schedule.objects.get().enabled
    assert "nightly is enabled. Next: 20" in jobs("schedules", "enable", "nightly").out

    ran = jobs("schedules", "run", "nightly")
    assert ran.out == f"Enqueued job {Job.objects.get().pk}.\n"
    assert jobs("schedules", "run", "nightly", "--json").json["job"] == str(Job.objects.latest("pk").pk)


def test_a_misspelt_name_is_told_the_nearest_and_none_is_asked_for():
    a_schedule(name="nightly")

    assert jobs("schedules", "run", "nigthly").error == "There is no schedule 'nigthly'. Did you mean 'nightly'?"
    assert "Which schedule?" in jobs("schedules", "disable").error


def test_one_whose_task_is_gone_says_so():
    a_schedule(name="old", task_path="tests.tasks.gone")

    assert jobs("schedules", "run", "old").error == "old: there is no task tests.tasks.gone"
