"""`manage.py jobs schedules`: what the clock enqueues, seen and switched from a shell."""

import pytest

from jobs import schedules
from jobs.models import Job, Schedule
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
