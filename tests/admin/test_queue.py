"""Queues in the admin: how full they are, pause and resume."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from jobs.models import Queue, Worker
from jobs.states import State

from .asking import answer_yes, choose, run, said
from .rows import a_job

LIST = "/admin/jobs/queue/"

pytestmark = pytest.mark.django_db


def a_worker(silent_for=timedelta()):
    now = timezone.now()
    return Worker.objects.create(
        worker_id=f"w{Worker.objects.count()}",
        tree="t",
        hostname="h",
        pid=1,
        threads=1,
        started_at=now,
        last_seen_at=now - silent_for,
    )


def test_a_queue_is_paused_with_a_reason(admin_client):
    queue = Queue.objects.create(name="email")
    url = reverse("admin:jobs_queue_pause", args=[queue.pk])

    question = admin_client.get(url)
    response = answer_yes(admin_client, url, question, reason=" smtp says 535 ")

    queue.refresh_from_db()
    assert (queue.paused, queue.paused_reason) == (True, "smtp says 535")
    assert said(response) == ["Paused 1 queue."]
    assert LogEntry.objects.get().change_message == "Pause."


def test_the_list_shows_who_is_paused_and_why(admin_client):
    Queue.objects.create(name="email", paused=True, paused_reason="smtp says 535")
    a_worker()

    response = admin_client.get(LIST)

    assert "smtp says 535" in response.content.decode()
    assert "email (smtp says 535)" in str(response.context["lead"].text)


def test_several_queues_are_paused_and_those_that_are_already_are_named(admin_client):
    open_one, paused_one = Queue.objects.create(name="a"), Queue.objects.create(name="b", paused=True)

    question = choose(admin_client, LIST, "pause", open_one.pk, paused_one.pk)
    response = answer_yes(admin_client, LIST, question, reason="")

    assert not Queue.objects.filter(paused=False).exists()
    assert said(response) == ["Paused 1 queue.", f"1 was skipped ({paused_one.pk}): it is paused already."]


def test_a_paused_queue_is_resumed(admin_client):
    queue = Queue.objects.create(name="email", paused=True, paused_reason="x", paused_at=timezone.now())

    run(admin_client, LIST, "resume", queue.pk)

    queue.refresh_from_db()
    assert (queue.paused, queue.paused_reason, queue.paused_at) == (False, "", None)


def test_a_page_offers_the_one_that_makes_sense(admin_client):
    queue = Queue.objects.create(name="email")
    url = reverse("admin:jobs_queue_change", args=[queue.pk])

    before = admin_client.get(url).content.decode()
    Queue.objects.update(paused=True, paused_at=timezone.now())
    after = admin_client.get(url).content.decode()

    assert ("/pause/" in before, "/resume/" in before) == (True, False)
    assert ("/pause/" in after, "/resume/" in after) == (False, True)


def test_the_list_tells_how_full_each_queue_is(admin_client):
    Queue.objects.create(name="default")
    a_job(ready_at=timezone.now() - timedelta(hours=2))
    a_job(State.DEAD)

    text = admin_client.get(LIST).content.decode().replace("\xa0", " ")

    assert '<td class="field-ready">1</td>' in text
    assert "<strong>1</strong>" in text
    assert "2 hours" in text


@pytest.mark.parametrize("model", ["queue", "job", "worker"])
def test_no_live_worker_is_the_first_thing_that_is_said(model, admin_client):
    a_worker(silent_for=timedelta(minutes=5))

    lead = admin_client.get(f"/admin/jobs/{model}/").context["lead"]

    assert lead.level == "bad"
    assert "runworker" in lead.text


def test_silent_workers_are_marked_in_words(admin_client):
    a_worker()
    a_worker(silent_for=timedelta(minutes=5))

    response = admin_client.get("/admin/jobs/worker/")

    text = response.content.decode()
    assert ("</span> alive</span>" in text, "</span> silent</span>" in text) == (True, True)
    assert "1 alive, 1 silent" in str(response.context["lead"].text)


@pytest.mark.parametrize(("silent_for", "level"), [(timedelta(), "good"), (timedelta(minutes=5), "bad")])
def test_a_workers_page_says_whether_it_lives(silent_for, level, admin_client):
    worker = a_worker(silent_for)

    assert admin_client.get(reverse("admin:jobs_worker_change", args=[worker.pk])).context["lead"].level == level


def test_limits_are_set_where_the_queue_is_shown(admin_client):
    queue = Queue.objects.create(name="default")
    url = reverse("admin:jobs_queue_change", args=[queue.pk])

    admin_client.post(url, {"max_depth": "1000", "max_age": "00:10:00", "on_full": "shed", "shed_below": "5"})

    queue.refresh_from_db()
    assert (queue.max_depth, queue.max_age, queue.on_full, queue.shed_below) == (
        1000,
        timedelta(minutes=10),
        "shed",
        5,
    )
    assert admin_client.post(url, {"max_depth": "0"}).status_code == 200
    queue.refresh_from_db()
    assert queue.max_depth == 1000


def test_who_may_only_look_changes_no_limits(staff):
    queue = Queue.objects.create(name="default")
    url = reverse("admin:jobs_queue_change", args=[queue.pk])

    assert staff("view_queue").post(url, {"max_depth": "5"}).status_code == 403
    assert staff("view_queue", "change_queue").post(url, {"name": "x", "paused": "on"}).status_code == 302
    queue.refresh_from_db()
    assert (queue.name, queue.paused) == ("default", False)
