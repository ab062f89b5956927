"""Limits of a queue, kept by real workers together."""

import time

import pytest

from jobs import enqueue_many
from jobs.models import Job, Queue
from jobs.models.queue import Grant
from jobs.states import State
from tests.acceptance import tasks

pytestmark = pytest.mark.django_db(transaction=True)


def finished() -> int:
    return Job.objects.filter(state=State.SUCCEEDED).count()


def test_two_trees_together_run_no_more_at_a_time_than_may(worker, ledger, eventually):
    Queue.objects.create(name="default", max_running=2)
    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": str(n), "seconds": 0.1} for n in range(12)])

    for tree in (worker(), worker()):
        tree.wait_ready()
    eventually(lambda: finished() == 12, within=20)

    runs = list(Job.objects.values_list("last_attempted_at", "finished_at"))
    at_a_time = max(sum(began <= moment < ended for began, ended in runs) for moment, _ in runs)
    assert at_a_time == 2


def test_two_trees_together_start_no_more_in_a_second_than_the_rate_allows(worker, ledger, eventually):
    Queue.objects.create(name="default", rate_limit=5)
    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": str(n)} for n in range(20)])

    for tree in (worker(), worker()):
        tree.wait_ready()
    eventually(lambda: finished() == 20, within=20)

    moments = sorted(Grant.objects.values_list("granted_at", flat=True))
    for first, sixth in zip(moments, moments[5:], strict=False):
        assert (sixth - first).total_seconds() >= 1
    assert (moments[-1] - moments[0]).total_seconds() < 10


def test_a_limit_that_a_person_sets_is_kept_within_a_second(worker, ledger, eventually):
    worker("--threads", "4").wait_ready()
    Queue.objects.update_or_create(name="default", defaults={"max_running": 1})
    time.sleep(1.2)
    held = [tasks.hold.enqueue(ledger=str(ledger), name=str(n)) for n in range(3)]

    eventually(lambda: len(ledger.lines()) == 1)
    time.sleep(0.5)
    assert Job.objects.running().count() == 1

    Queue.objects.update(max_running=None)
    eventually(lambda: Job.objects.running().count() == 3)
    ledger.open()
    eventually(lambda: finished() == len(held))
