"""The fixtures that a project's own tests get."""

import pytest

from jobs.compat import TaskResultStatus
from jobs.models import Job
from tests import tasks

pytest_plugins = ["jobs.pytest_plugin"]


def test_run_jobs_drains_the_queue(run_jobs):
    result = tasks.add.enqueue(1, b=2)

    ran = run_jobs()

    result.refresh()
    assert (ran, result.return_value) == (1, 3)


def test_assert_enqueued_finds_the_job_or_says_what_there_is_instead(assert_enqueued):
    result = tasks.add.enqueue(1, b=2)

    assert str(assert_enqueued(tasks.add, 1, b=2).pk) == result.id
    with pytest.raises(AssertionError, match="'b': 2"):
        assert_enqueued(tasks.add, 1, b=3)


def test_immediate_jobs_run_where_they_are_enqueued(immediate_jobs, db):
    result = tasks.add.enqueue(1, b=2)

    assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 3)
    assert not Job.objects.exists()


def test_dummy_jobs_are_kept_and_not_run(dummy_jobs, db):
    tasks.add.enqueue(1, b=2)

    assert [(kept.task.name, kept.args, kept.kwargs) for kept in dummy_jobs.results] == [("add", [1], {"b": 2})]
    assert not Job.objects.exists()
