"""A breaker at work in real processes: nobody is charged, one job at a time is tried, and then all go on."""

import time

import pytest

from jobs import enqueue_many
from jobs.models import Attempt, Job, Queue
from tests.acceptance import tasks
from tests.acceptance.rows import have_succeeded

pytestmark = pytest.mark.django_db(transaction=True)

JOBS = 40


def is_paused() -> bool:
    return Queue.objects.filter(name="default", paused=True).exists()


def test_a_broken_line_pauses_the_queue_which_goes_on_by_itself_once_it_is_mended(worker, ledger, eventually):
    calls = enqueue_many(tasks.call_out, [{"ledger": str(ledger), "name": str(n)} for n in range(JOBS)])
    tree = worker("--processes", "2", "--threads", "4")

    eventually(is_paused, within=20)
    queue = Queue.objects.get(name="default")
    assert queue.paused_reason == "Breaker of tests.acceptance.tasks.call_out: the line is down"
    time.sleep(0.3)
    called = len(ledger.lines())
    eventually(lambda: len(ledger.lines()) > called, within=20)
    time.sleep(0.3)
    assert len(ledger.lines()) == called + 1
    assert Job.objects.running().count() == 0

    ledger.open("line")
    eventually(lambda: not is_paused(), within=30)
    Job.objects.scheduled().update(run_after=None, state="ready")
    eventually(lambda: have_succeeded(*calls), within=30)
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}
    assert not Attempt.objects.exists()
    assert "queue paused by its breaker" in tree.log()
    assert "queue resumed by its breaker" in tree.log()
