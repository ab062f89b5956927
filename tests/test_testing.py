"""What projects use to test their own tasks."""

from datetime import timedelta

import pytest
from django.db.models import F

from jobs import task
from jobs.compat import TaskResultStatus, task_backends
from jobs.decorator import JobTask
from jobs.models import Attempt, DeadLetter, Job
from jobs.states import State
from jobs.testing import assert_enqueued, run_jobs
from tests import tasks

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_done():
    tasks.done.clear()


# run_jobs


def test_run_jobs_runs_everything_that_is_due_and_says_how_many():
    tasks.add.enqueue(1)
    tasks.aadd.enqueue(2)

    assert run_jobs() == 2
    assert tasks.done == [(1, 0), (2, 0)]
    assert run_jobs() == 0


def test_run_jobs_runs_what_a_job_enqueues():
    tasks.flaky.enqueue(fails=1)

    assert run_jobs(advance=True) == 2
    assert Job.objects.get().return_value == 2


def test_job_that_is_not_due_waits_unless_time_is_advanced():
    tasks.add.using(run_after=timedelta(days=1)).enqueue(1)

    assert run_jobs() == 0
    assert run_jobs(advance=True) == 1


def test_run_jobs_of_some_queues_leaves_the_others():
    tasks.add.enqueue(1)
    tasks.detailed.enqueue(delivery_id="d")

    assert run_jobs(queues=["email"]) == 1
    assert Job.objects.get(queue_name="default").state == State.READY


def test_run_jobs_stops_at_max_jobs():
    for n in range(3):
        tasks.add.enqueue(n)

    assert run_jobs(max_jobs=2) == 2
    assert Job.objects.ready().count() == 1


def test_run_jobs_takes_expired_leases_back_first():
    tasks.add.enqueue(1)
    from jobs.storage import storage

    storage().claim("gone", "default", 1, timedelta(seconds=60))
    Job.objects.update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))

    assert run_jobs() == 1
    assert Job.objects.get().state == State.SUCCEEDED


def test_failing_job_ends_as_a_dead_letter():
    tasks.fail.enqueue("boom")

    run_jobs(advance=True)

    assert tasks.done == ["boom"] * 3
    assert DeadLetter.objects.get().message == "boom"
    assert list(Attempt.objects.values_list("number", flat=True)) == [1, 2, 3]


# assert_enqueued


def test_assert_enqueued_returns_the_job():
    tasks.add.enqueue(1, b=2)

    job = assert_enqueued(tasks.add, 1, b=2)

    assert (job.args, job.kwargs) == ([1], {"b": 2})


def test_assert_enqueued_finds_a_job_by_some_of_its_payload():
    tasks.detailed.enqueue(delivery_id="d", template_id="t")

    assert assert_enqueued(tasks.detailed, delivery_id="d").kwargs["template_id"] == "t"


def test_assert_enqueued_names_what_there_is_instead():
    tasks.add.enqueue(1, b=2)

    with pytest.raises(AssertionError, match=r"args=\[1\] kwargs=\{'b': 2\}"):
        assert_enqueued(tasks.add, 1, b=3)


def test_assert_enqueued_does_not_find_other_tasks_or_finished_jobs():
    tasks.aadd.enqueue(1)
    with pytest.raises(AssertionError, match="there are: none"):
        assert_enqueued(tasks.add, 1)

    run_jobs()
    with pytest.raises(AssertionError, match="there are: none"):
        assert_enqueued(tasks.aadd, 1)


# Backends


@pytest.fixture
def backends(settings):
    settings.TASKS = settings.TASKS | {
        "immediate": {"BACKEND": "jobs.testing.ImmediateBackend"},
        "dummy": {"BACKEND": "jobs.testing.DummyBackend"},
    }


def with_our_options(backend: str) -> JobTask:
    found: JobTask = task(backend=backend, max_attempts=3, timeout=5, idempotency_key="{a}")(tasks.add.func)
    return found


def test_immediate_backend_takes_our_options_and_runs_at_once(backends):
    result = with_our_options("immediate").enqueue(1, b=2)

    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 3)
    assert not Job.objects.exists()


def test_dummy_backend_takes_our_options_and_runs_nothing(backends):
    with_our_options("dummy").enqueue(1, b=2)

    [kept] = task_backends["dummy"].results
    assert (kept.args, kept.kwargs, tasks.done) == ([1], {"b": 2}, [])


@pytest.mark.parametrize("backend", ["immediate", "dummy"])
def test_other_backends_keep_what_using_says(backends, backend):
    changed = with_our_options(backend).using(run_after=timedelta(hours=1), priority=0)

    assert changed.delay == timedelta(hours=1)
