"""The limits do the queue's whole work: their rows end as the queue's own do, and begin as its own do."""

from contextlib import closing

import pytest

from benchmarks import tasks
from benchmarks.limits import WORKER
from benchmarks.limits.__main__ import connected
from jobs import enqueue_many
from jobs.models import Job
from jobs.states import State
from jobs.testing import run_jobs
from tests.acceptance.worker_tree import database_url

pytestmark = pytest.mark.django_db(transaction=True)

# What differs from job to job, and from worker to worker.
OWN = {"id", "kwargs", "worker_ids"}


@pytest.fixture
def limit(monkeypatch):
    """The bare SQL for the database under test, and its connection."""
    monkeypatch.setenv("DATABASE_URL", database_url())
    bare, connection = connected()
    with closing(connection):
        yield bare, connection


def left_by(job: Job) -> dict[str, object]:
    """Return the columns of a row; of a moment only whether there is one."""
    columns = [field.attname for field in Job._meta.concrete_fields if field.attname not in OWN]
    values = {name: getattr(job, name) for name in columns}
    return {name: (value is not None) if name.endswith("_at") else value for name, value in values.items()}


@pytest.mark.parametrize(("task", "answers"), [(tasks.noop, False), (tasks.answer, True)])
def test_a_bare_drain_leaves_what_the_queue_leaves(limit, task, answers):
    bare, connection = limit
    task.enqueue(n=1)
    run_jobs()
    ours = Job.objects.get()
    enqueue_many(task, [{"n": n} for n in range(7)])

    done = bare.drain(connection, "default", answers=answers)

    theirs = Job.objects.exclude(pk=ours.pk)
    assert done == 7
    assert {job.state for job in theirs} == {State.SUCCEEDED}
    for job in theirs:
        expected = left_by(ours) | ({"return_value": job.kwargs} if answers else {})
        assert left_by(job) == expected
        assert job.worker_ids == [WORKER]


def test_bare_drains_one_by_one_and_together_do_the_same(limit):
    bare, connection = limit
    enqueue_many(tasks.noop, [{"n": n} for n in range(1200)])

    assert bare.drain(connection, "default", 500, singly=True) == 500
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 500
    assert bare.drain_together(connection, "default") == 700
    assert Job.objects.filter(state=State.SUCCEEDED, attempts=1, lease_token=1).count() == 1200


def test_a_bare_settle_is_fenced(limit):
    bare, connection = limit
    tasks.noop.enqueue(n=1)
    claimed = bare.claim(connection, "default")
    Job.objects.update(lease_token=7)

    with pytest.raises(RuntimeError, match="lease"):
        bare.settle(connection, claimed)


def test_a_bare_insert_writes_what_enqueue_writes(limit):
    bare, connection = limit
    tasks.noop.enqueue(n=1)
    ours = Job.objects.get()

    one = bare.insert(connection, "benchmarks.tasks.noop", 1)
    many = bare.insert_many(connection, "benchmarks.tasks.noop", range(3))

    found = {job.pk: job for job in Job.objects.exclude(pk=ours.pk)}
    assert sorted(found) == sorted([one, *many])
    assert [found[pk].kwargs["n"] for pk in [one, *many]] == [1, 0, 1, 2]
    assert all(left_by(job) == left_by(ours) for job in found.values())
