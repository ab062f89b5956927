"""The web's /metrics: bounded gauges for whoever may see them."""

import subprocess
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import OperationalError
from django.utils import timezone

from jobs import stats, views
from jobs.metrics import METRICS
from jobs.models import Job, Queue, Worker

from .scrape import families, samples

TOKEN = "s3cret-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def queue(db, settings):
    """A paused queue, one with two ready jobs and a dead one, and a worker."""
    settings.JOBS_METRICS_TOKEN = TOKEN
    now = timezone.now()
    fields = {"task_path": "shop.tasks.bill", "enqueued_at": now}
    Queue.objects.create(name="sms", paused=True)
    Job.objects.bulk_create(
        [
            Job(**fields, queue_name="email", state="ready", ready_at=now - timedelta(seconds=90)),
            Job(**fields, queue_name="email", state="ready", ready_at=now),
            Job(**fields, queue_name="email", state="dead", finished_at=now),
            Job(**fields, queue_name="email", state="scheduled", run_after=now, held_since=now),
            Job(**fields, queue_name="sms", state="ready", ready_at=now - timedelta(days=1)),
        ]
    )
    Worker.objects.create(worker_id="w", tree="t", hostname="h", pid=1, threads=1, started_at=now, last_seen_at=now)


def scraped(client):
    return samples(client.get("/metrics", headers=BEARER).content.decode())


@pytest.mark.usefixtures("queue")
def test_the_gauges_tell_depth_age_pause_and_workers(client):
    found = scraped(client)

    assert found["jobs_depth", "email", "ready"] == 2
    assert found["jobs_depth", "email", "dead"] == found["jobs_dead",] == 1
    assert 90 <= found["jobs_oldest_claimable_age_seconds", "email"] < 150
    assert found["jobs_oldest_claimable_age_seconds", "sms"] == 0
    assert found["jobs_queue_paused", "sms"] == 1
    assert found["jobs_held", "email"] == 1
    assert found["jobs_running",] == found["jobs_leases_expired",] == 0
    assert found["jobs_workers_alive",] == 1


@pytest.mark.usefixtures("queue")
def test_every_gauge_of_the_table_is_served_and_what_this_process_refused(client):
    text = client.get("/metrics", headers=BEARER).content.decode()

    gauges = {name for name, described in METRICS.items() if described.kind == "gauge"}
    assert families(text) == gauges | {"jobs_turned_away", "jobs_webhooks"}


@pytest.mark.usefixtures("queue")
def test_a_scrape_asks_as_many_questions_for_many_jobs_as_for_few(client, django_assert_max_num_queries):
    Job.objects.bulk_create(
        [
            Job(task_path="t", queue_name=f"q{n}", state="ready", ready_at=timezone.now(), enqueued_at=timezone.now())
            for n in range(50)
        ]
    )

    with django_assert_max_num_queries(13):
        client.get("/metrics", headers=BEARER)


@pytest.mark.usefixtures("queue")
def test_counts_stop_at_the_limit(client, monkeypatch):
    monkeypatch.setattr(stats, "MAX_COUNTED", 1)

    assert scraped(client)["jobs_depth", "email", "ready"] == 1


@pytest.mark.usefixtures("queue")
def test_promtool_finds_nothing_wrong_with_the_gauges(client, executable):
    text = client.get("/metrics", headers=BEARER).content

    checked = subprocess.run([executable("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=30)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 403),
        ({"Authorization": "Bearer "}, 403),
        ({"Authorization": f"Basic {TOKEN}"}, 403),
        ({"Authorization": "Bearer ü"}, 403),
        ({"Authorization": f"bearer {TOKEN}"}, 200),
    ],
)
def test_only_the_token_opens_the_metrics(client, headers, status):
    assert client.get("/metrics", headers=headers).status_code == status


@pytest.mark.usefixtures("queue")
def test_an_empty_token_setting_opens_nothing(client, settings):
    settings.JOBS_METRICS_TOKEN = ""

    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 403


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize(("is_staff", "status"), [(True, 200), (False, 403)])
def test_staff_see_the_metrics_and_other_users_do_not(client, is_staff, status):
    client.force_login(User.objects.create_user("somebody", is_staff=is_staff))

    assert client.get("/metrics").status_code == status


@pytest.mark.usefixtures("queue")
def test_a_scrape_with_the_token_needs_no_session(rf, settings):
    request = rf.get("/metrics", headers=BEARER)
    assert not hasattr(request, "user")

    assert views.metrics(request).status_code == 200


@pytest.mark.usefixtures("queue")
def test_metrics_are_read_and_nothing_else(client):
    assert client.post("/metrics", headers=BEARER).status_code == 405


def test_a_silent_database_is_said_and_not_a_crash(rf, settings, monkeypatch):
    settings.JOBS_METRICS_TOKEN = TOKEN

    def broken():
        raise OperationalError("connection refused at 10.0.0.7")

    monkeypatch.setattr("jobs.metrics.storage", broken)
    request = rf.get("/metrics", headers=BEARER)
    request.user = AnonymousUser()

    response = views.metrics(request)

    assert response.status_code == 503
    assert b"10.0.0.7" not in response.content
