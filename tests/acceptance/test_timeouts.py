"""Jobs that run longer than they may: interrupted where that is possible, and otherwise only after their process."""

import pytest

from jobs.models import Attempt, DeadLetter
from jobs.states import Reason, State
from tests.acceptance import tasks
from tests.acceptance.rows import have_state, have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)

POLL = ("--poll-interval", "0.2")


@pytest.mark.parametrize("task", [tasks.overrun, tasks.aoverrun], ids=["thread", "coroutine"])
def test_a_job_is_interrupted_at_its_timeout_and_its_process_lives_on(worker, ledger, eventually, task):
    tree = worker(*POLL, "--timeout-grace", "20").wait_ready()
    before = tree.children()

    result = task.enqueue(ledger=str(ledger), name="slow")

    eventually(lambda: have_state(State.DEAD, result))
    assert DeadLetter.objects.get().reason == Reason.TIMEOUT
    assert row_of(result).attempts == 1
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.exception_class) == ("failed", "jobs.exceptions.TimedOut")
    assert ledger.lines() == ["slow cleaned up"]
    assert tree.children() == before


@pytest.mark.parametrize("task", [tasks.sleep, tasks.swallow], ids=["in C", "swallowing"])
def test_a_job_that_ignores_its_timeout_is_settled_only_after_its_process(worker, ledger, eventually, task):
    tree = worker(*POLL, "--timeout-grace", "3", "--threads", "3").wait_ready()
    (old,) = tree.children()
    patient = tasks.hold.enqueue(ledger=str(ledger), name="patient")
    late = tasks.hold.enqueue(ledger=str(ledger), name="late", gate="never")
    eventually(lambda: ledger.has("patient started", "late started"))
    stuck = task.enqueue(ledger=str(ledger), name="stuck")
    eventually(lambda: ledger.has("stuck started"))

    # A neighbour that ends within the grace of the timeout is settled while the stuck job still holds its lease.
    ledger.open()
    eventually(lambda: have_succeeded(patient))
    assert have_state(State.RUNNING, stuck, late)
    assert old.is_running()

    eventually(lambda: have_state(State.DEAD, stuck), within=8)
    assert old not in tree.children()
    letter = DeadLetter.objects.get()
    assert (letter.job_id, letter.reason) == (int(stuck.id), Reason.TIMEOUT)
    assert (row_of(stuck).attempts, row_of(stuck).crashes) == (1, 0)
    # The other neighbour is interrupted, uncharged, and runs again in the successor.
    eventually(lambda: ledger.count("late started") == 2)
    assert outcomes_of(late) == ["interrupted"]
    assert (row_of(late).attempts, row_of(late).crashes, row_of(late).suspect) == (0, 0, False)


def test_a_timeout_before_the_task_itself_has_begun_is_an_attempt_like_others(worker, ledger, eventually):
    worker(*POLL).wait_ready()
    result = tasks.announced.enqueue(ledger=str(ledger), name="announced")
    eventually(lambda: outcomes_of(result) == ["failed"])

    ledger.open()

    eventually(lambda: have_succeeded(result))
    assert row_of(result).attempts == 2
    assert Attempt.objects.get().exception_class == "jobs.exceptions.TimedOut"
