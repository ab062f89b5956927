"""Schedules in the admin: written, switched, run now, and what is wrong with them said in the first line."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from jobs import schedules
from jobs.models import Job, Schedule, Tick
from tests import tasks

from .asking import answer_yes, choose, said
from .test_queue import a_worker

LIST = "/admin/jobs/schedule/"
ADD = "/admin/jobs/schedule/add/"
GIVEN = {
    "name": "nightly",
    "task_path": "tests.tasks.add",
    "kwargs": '{"a": 1, "b": 2}',
    "cron": "0 3 * * *",
    "time_zone": "Europe/Berlin",
    "every": "",
    "starts_at_0": "",
    "starts_at_1": "",
    "missed": "one",
}

pytestmark = pytest.mark.django_db


def a_schedule(**fields) -> Schedule:
    values = {"name": "s", "task_path": "tests.tasks.add", "kwargs": {"a": 1, "b": 2}, "cron": "0 3 * * *"}
    made = Schedule(**values | fields)
    schedules.plan(made)
    made.save()
    return made


def page(client, schedule: Schedule):
    return client.get(reverse("admin:jobs_schedule_change", args=[schedule.pk]))


def test_a_person_adds_a_schedule_of_a_task_that_is_registered(admin_client):
    form = admin_client.get(ADD)
    assert f'<option value="{tasks.add.module_path}">' in form.content.decode()

    response = admin_client.post(ADD, GIVEN, follow=True)

    schedule = Schedule.objects.get()
    assert (schedule.cron, schedule.time_zone, schedule.declared) == ("0 3 * * *", "Europe/Berlin", False)
    assert schedule.next_at > timezone.now()
    assert "was added successfully" in said(response)[0]


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"cron": "99 * * * *"}, "cron", "bad minute"),
        ({"time_zone": "Europe/Berln"}, "cron", "Did you mean"),
        ({"cron": ""}, None, "either cron or every"),
        ({"every": "00:05:00"}, "cron", "either cron or every"),
        ({"task_path": "os.system"}, "task_path", "not one of the available choices"),
        ({"kwargs": '{"a": 1, "b": 2, "nobody": 1}'}, "kwargs", "nobody"),
        ({"kwargs": "[1]"}, "kwargs", "object"),
    ],
)
def test_what_could_not_work_is_refused_at_its_field(admin_client, change, field, problem):
    response = admin_client.post(ADD, GIVEN | change)

    errors = response.context["adminform"].form.errors
    assert problem in str(errors.get(field or "__all__")), errors
    assert not Schedule.objects.exists()


def test_mending_a_broken_schedule_lets_it_go_on(admin_client):
    broken = a_schedule()
    schedules.give_up(broken, "InvalidPayload: no such argument")
    url = reverse("admin:jobs_schedule_change", args=[broken.pk])
    assert "InvalidPayload: no such argument" in str(admin_client.get(url).context["lead"].text)

    admin_client.post(url, GIVEN)

    broken.refresh_from_db()
    assert (broken.problem, broken.time_zone) == ("", "Europe/Berlin")
    assert broken.next_at is not None


def test_a_schedule_of_code_can_only_be_switched_and_run(admin_client):
    schedule = a_schedule(declared=True)

    response = page(admin_client, schedule)

    assert 'name="cron"' not in response.content.decode()
    assert [str(tool.label) for tool in response.context["tools"]] == ["Run now", "Disable"]
    assert admin_client.post(response.request["PATH_INFO"], GIVEN).status_code == 403


def test_it_is_disabled_and_enabled_after_asking(admin_client):
    schedule = a_schedule()

    for method, enabled in (("disable", False), ("enable", True)):
        url = reverse(f"admin:jobs_schedule_{method}", args=[schedule.pk])
        answer_yes(admin_client, url, admin_client.get(url))
        schedule.refresh_from_db()
        assert (schedule.enabled, schedule.next_at is not None) == (enabled, enabled)

    assert LogEntry.objects.count() == 2


def test_it_is_run_now_and_the_page_shows_the_job(admin_client):
    schedule = a_schedule()
    url = reverse("admin:jobs_schedule_run_now", args=[schedule.pk])

    answer_yes(admin_client, url, admin_client.get(url))

    job = Job.objects.get()
    assert Tick.objects.get().job == job
    assert f"#{job.pk}" in page(admin_client, schedule).content.decode()
    assert f"#{job.pk}" in admin_client.get(LIST).content.decode()


def test_one_that_cannot_be_run_is_named_and_the_others_run(admin_client):
    good, gone = a_schedule(), a_schedule(name="gone", task_path="tests.tasks.gone")

    question = choose(admin_client, LIST, "run_now", good.pk, gone.pk)
    response = answer_yes(admin_client, LIST, question)

    assert Job.objects.count() == 1
    assert any("there is no task tests.tasks.gone" in text for text in said(response))


def test_the_page_shows_the_next_five_times(admin_client, settings):
    settings.TIME_ZONE = "UTC"
    schedule = a_schedule(cron="0 3 1 1 *", time_zone="UTC")

    text = page(admin_client, schedule).content.decode()

    year = timezone.now().year
    assert [f"{year + n}-01-01 03:00:00 UTC" in text for n in range(1, 6)] == [True] * 5


def test_the_first_line_says_what_is_wrong(admin_client):
    a_worker()
    schedule = a_schedule()
    assert admin_client.get(LIST).context["lead"] is None
    assert page(admin_client, schedule).context["lead"].level == "good"

    Schedule.objects.update(next_at=timezone.now() - timedelta(minutes=5))
    assert "due for" in str(admin_client.get(LIST).context["lead"].text)
    assert "5 minutes" in str(page(admin_client, schedule).context["lead"].text)

    schedules.give_up(a_schedule(name="b"), "why")
    assert "1 schedule has disabled itself" in str(admin_client.get(LIST).context["lead"].text)


def test_who_may_only_look_sees_no_arguments_and_no_buttons(staff):
    client = staff("view_schedule")
    schedule = a_schedule(kwargs={"a": 4711, "b": 2})

    response = page(client, schedule)

    assert response.status_code == 200
    assert "4711" not in response.content.decode()
    assert response.context["tools"] == []
    for method in ("enable", "disable", "run_now"):
        assert client.get(reverse(f"admin:jobs_schedule_{method}", args=[schedule.pk])).status_code == 403
    assert client.get(ADD).status_code == 403


def test_running_and_switching_are_permissions_of_their_own(staff):
    schedule = a_schedule()

    assert [str(tool.label) for tool in page(staff("view_schedule", "run_schedule"), schedule).context["tools"]] == [
        "Run now"
    ]
    assert [str(tool.label) for tool in page(staff("view_schedule", "change_schedule"), schedule).context["tools"]] == [
        "Disable"
    ]
