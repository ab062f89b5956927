"""Probes and findings: what is said when something is wrong."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from jobs import health
from jobs.models import Job, Queue, Schedule, Worker


@pytest.fixture(autouse=True)
def nothing_seen_yet(monkeypatch):
    monkeypatch.setattr(health, "migrated", set())


@pytest.fixture
def no_database(monkeypatch):
    class Refusing:
        def cursor(self):
            raise OperationalError("connection refused")

    monkeypatch.setattr(health, "connections", {"default": Refusing()})


def test_a_process_is_alive_without_its_database(client):
    # Without the db fixture any query would fail this test.
    response = client.get("/healthz")

    assert (response.status_code, response.content) == (200, b"alive\n")


@pytest.mark.django_db
def test_a_process_with_a_migrated_database_is_ready(client):
    response = client.get("/readyz")

    assert (response.status_code, response.content) == (200, b"ready\n")


@pytest.mark.django_db
def test_migrations_are_looked_at_once_in_a_process(client, django_assert_num_queries):
    client.get("/readyz")

    with django_assert_num_queries(1):
        client.get("/readyz")


@pytest.mark.django_db
def test_a_missing_migration_is_not_ready(client, monkeypatch):
    monkeypatch.setattr("django.db.migrations.executor.MigrationExecutor.migration_plan", lambda *_: [("one", False)])

    response = client.get("/readyz")

    assert response.status_code == 503
    assert b"manage.py migrate" in response.content


@pytest.mark.usefixtures("no_database")
def test_an_unreachable_database_is_not_ready(client):
    response = client.get("/readyz")

    assert response.status_code == 503
    assert b"cannot be reached" in response.content


@pytest.mark.usefixtures("no_database")
def test_findings_end_where_the_database_does():
    assert [finding.name for finding in health.findings()] == ["database"]


def worker(**fields):
    now = timezone.now()
    Worker.objects.create(
        **{"worker_id": "w", "tree": "t", "hostname": "h", "pid": 1, "threads": 1}
        | {"started_at": now, "last_seen_at": now}
        | fields
    )


@pytest.mark.django_db
def test_with_a_worker_and_no_backlog_all_is_well():
    worker()

    assert [finding.name for finding in health.findings() if not finding.ok] == []


@pytest.mark.django_db
def test_no_worker_is_a_finding():
    worker(last_seen_at=timezone.now() - timedelta(hours=1))

    assert "runworker" in health.workers().message
    assert not health.workers().ok


@pytest.mark.django_db
def test_a_job_that_waits_too_long_is_a_finding_that_names_its_queue():
    since = timezone.now() - timedelta(minutes=10)
    Job.objects.create(task_path="t", queue_name="email", state="ready", ready_at=since, enqueued_at=since)

    finding = health.waiting()

    assert (finding.ok, "'email'" in finding.message, "10 minutes" in finding.message) == (False, True, True)


@pytest.mark.django_db
def test_jobs_that_no_worker_knows_how_to_run_are_a_finding_that_names_their_tasks():
    now = timezone.now()
    soon = {"queue_name": "q", "state": "scheduled", "enqueued_at": now, "run_after": now}
    Job.objects.create(task_path="shop.tasks.later", **soon)
    job = Job.objects.create(task_path="shop.tasks.unknown", held_since=now, **soon)
    assert health.held().ok

    Job.objects.filter(pk=job.pk).update(held_since=now - timedelta(minutes=2))

    finding = health.held()
    assert not finding.ok
    assert "1 jobs wait for a worker that knows their task: shop.tasks.unknown." in finding.message


@pytest.mark.django_db
def test_an_expired_lease_is_a_finding():
    now = timezone.now()
    Job.objects.create(
        task_path="t", queue_name="q", state="running", enqueued_at=now, leased_by="w", lease_expires_at=now
    )

    assert not health.leases().ok


@pytest.mark.django_db
def test_a_paused_queue_is_told():
    Queue.objects.create(name="email", paused=True)

    assert "email" in health.paused().message


@pytest.mark.django_db
def test_a_schedule_that_is_broken_or_late_is_a_finding():
    schedule = Schedule.objects.create(name="report", task_path="t", cron="0 6 * * *")
    assert health.schedules().ok

    Schedule.objects.update(next_at=timezone.now() - timedelta(minutes=7))
    assert not health.schedules().ok
    assert "due for 7 minutes" in health.schedules().message

    Schedule.objects.filter(pk=schedule.pk).update(next_at=None, problem="there is no such task")
    assert not health.schedules().ok
    assert "manage.py jobs schedules" in health.schedules().message


@pytest.mark.django_db
def test_a_clock_that_is_off_is_a_finding(monkeypatch):
    class Ahead:
        def now(self):
            return timezone.now() + timedelta(seconds=30)

    monkeypatch.setattr(health, "storage", Ahead)

    assert not health.clock().ok
