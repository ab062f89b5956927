"""The figures are right, and cost the same whatever the backlog."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from jobs import stats
from jobs.models import Job, Queue, Worker
from jobs.states import State

NOW = timezone.now()


def job(state=State.READY, *, queue="default", since=timedelta(), **fields):
    """Return an unsaved job that reached its state `since` ago."""
    at = NOW - since
    times = {
        State.READY: {"ready_at": at},
        State.SCHEDULED: {"run_after": at},
        State.RUNNING: {"leased_by": "w1", "lease_expires_at": NOW + timedelta(seconds=60)},
        State.DEAD: {"finished_at": at},
        State.SUCCEEDED: {"finished_at": at},
        State.CANCELLED: {"finished_at": at},
    }[state]
    return Job(
        **{"task_path": "shop.tasks.bill", "queue_name": queue, "state": state, "enqueued_at": at} | times | fields
    )


def figures(name="default"):
    [found] = [queue for queue in stats.queues(NOW) if queue.name == name]
    return found


@pytest.mark.django_db
def test_jobs_are_counted_by_queue_and_state():
    Job.objects.bulk_create(
        [job(state, queue=queue) for queue in ("default", "email") for state in State for _ in range(2)]
        + [job(State.DEAD, queue="email")]
    )

    found = {queue.name: dict(queue.depths()) for queue in stats.queues(NOW)}

    assert found == {
        "default": {"scheduled": 2, "ready": 2, "blocked": 0, "running": 2, "dead": 2},
        "email": {"scheduled": 2, "ready": 2, "blocked": 0, "running": 2, "dead": 3},
    }


@pytest.mark.django_db
def test_a_queue_without_jobs_is_listed_when_it_has_a_row():
    Queue.objects.create(name="quiet", paused=True, paused_reason="maintenance")

    assert stats.queues(NOW) == [
        stats.QueueFigures("quiet", paused=True, paused_reason="maintenance", paused_by="person")
    ]


@pytest.mark.django_db
def test_the_oldest_claimable_job_is_found_behind_better_and_suspect_ones():
    Job.objects.bulk_create(
        [
            job(since=timedelta(minutes=1), priority=10),
            job(since=timedelta(minutes=2), suspect=True),
            job(since=timedelta(minutes=9), priority=-5),
            job(since=timedelta(minutes=8), priority=-5),
            job(since=timedelta(minutes=3), priority=-50),
        ]
    )

    assert figures().oldest == timedelta(minutes=9)


@pytest.mark.django_db
def test_a_due_job_that_nobody_promoted_counts_as_claimable():
    Job.objects.bulk_create([job(since=timedelta(minutes=1)), job(State.SCHEDULED, since=timedelta(minutes=4))])

    assert figures().oldest == timedelta(minutes=4)


@pytest.mark.django_db
def test_delayed_running_and_dead_jobs_are_not_claimable():
    Job.objects.bulk_create([job(State.SCHEDULED, since=-timedelta(hours=1)), job(State.RUNNING), job(State.DEAD)])

    assert figures().oldest is None


@pytest.mark.django_db
def test_nothing_is_claimable_in_a_paused_queue():
    Queue.objects.create(name="default", paused=True)
    Job.objects.bulk_create([job(since=timedelta(minutes=1))])

    assert (figures().ready, figures().oldest) == (1, None)


@pytest.mark.django_db
@pytest.mark.parametrize("state", [State.SCHEDULED, State.READY, State.RUNNING, State.DEAD])
def test_no_count_goes_beyond_its_limit(state, monkeypatch):
    monkeypatch.setattr(stats, "MAX_COUNTED", 5)
    Job.objects.bulk_create([job(state) for _ in range(9)])

    assert dict(figures().depths())[state] == 5


@pytest.mark.django_db
def test_no_more_queues_than_the_limit_are_listed(monkeypatch):
    monkeypatch.setattr(stats, "MAX_QUEUES", 3)
    Job.objects.bulk_create([job(state, queue=f"q{number}") for number in range(6) for state in State])

    assert len(stats.queues(NOW)) == 3


@pytest.mark.django_db
def test_an_expired_lease_is_counted_until_somebody_takes_the_job_back():
    Job.objects.bulk_create(
        [
            job(State.RUNNING, lease_expires_at=NOW - timedelta(seconds=1)),
            job(State.RUNNING, lease_expires_at=NOW + timedelta(seconds=1)),
        ]
    )

    assert stats.expired_leases(NOW) == 1


@pytest.mark.django_db
def test_silent_workers_are_told_from_those_that_live():
    for number, seen in enumerate((timedelta(0), stats.STALE_AFTER, stats.STALE_AFTER * 2)):
        Worker.objects.create(
            worker_id=f"w{number}", tree="t", hostname="h", pid=1, threads=1, started_at=NOW, last_seen_at=NOW - seen
        )

    assert stats.workers(NOW) == stats.WorkerFigures(alive=2, stale=1)


@pytest.fixture
def backlog(db):
    """A table where each state has some rows and the history many, and the planner knows."""
    Job.objects.bulk_create(
        [job(state, queue=queue) for state in State for queue in ("default", "email", "sms") for _ in range(100)]
    )
    columns = ", ".join(str(field.column) for field in Job._meta.local_concrete_fields if not field.primary_key)
    with connection.cursor() as cursor:
        for _doubling in range(5):
            cursor.execute(f"INSERT INTO jobs_job ({columns}) SELECT {columns} FROM jobs_job WHERE state = 'succeeded'")
        cursor.execute("ANALYZE")


def plan(sql):
    prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN (COSTS OFF)"
    with connection.cursor() as cursor:
        cursor.execute(f"{prefix} {sql}")
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def reads_the_whole_table(plan, table="jobs_job"):
    """SQLite says SCAN without an index (a partial index holds its state only); PostgreSQL says Seq Scan."""
    return any(
        f"Seq Scan on {table}" in line
        or (line.split()[:1] == ["SCAN"] and line.split()[1] in (table, "job") and "USING" not in line)
        for line in plan.splitlines()
    )


QUERIES = {
    "counts of ready jobs": (stats.READY_COUNTS, {}),
    "oldest ready jobs": (stats.OLDEST_READY, {}),
    **{
        f"first {state} jobs": (stats.FIRST_ONES, {"state": state.value, "order": order})
        for state, order in stats.ORDERS.items()
    },
}


@pytest.mark.usefixtures("backlog")
@pytest.mark.parametrize("name", QUERIES)
def test_no_figure_reads_the_whole_table(name):
    sql, parts = QUERIES[name]

    found = plan(stats.filled(sql, **parts))

    assert not reads_the_whole_table(found), found
    assert "jobs_job_" in found


def test_the_plan_test_would_notice_a_full_scan(backlog):
    assert reads_the_whole_table(plan("SELECT COUNT(*) FROM jobs_job WHERE crashes = 7"))
