"""Coroutine tasks in a worker's event loop."""

import pytest

from jobs import lifecycle
from jobs.models import DeadLetter
from jobs.states import State
from tests.acceptance import tasks
from tests.acceptance.rows import have_state, have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)


def test_many_coroutines_run_at_once_beside_one_thread(worker, ledger, eventually):
    worker("--threads", "1").wait_ready()
    names = [str(number) for number in range(20)]

    results = [tasks.ahold.enqueue(ledger=str(ledger), name=name) for name in names]

    eventually(lambda: ledger.has(*(f"{name} started" for name in names)))
    ledger.open()
    eventually(lambda: have_succeeded(*results))
    assert all(ledger.count(f"{name} done") == 1 for name in names)


def test_a_running_coroutine_shows_its_progress_and_is_cancelled_on_request(worker, ledger, eventually):
    worker("--lease", "3").wait_ready()
    result = tasks.ahold.enqueue(ledger=str(ledger), name="long")
    eventually(lambda: row_of(result).progress_percent == 40)
    assert (row_of(result).state, row_of(result).progress_message) == (State.RUNNING, "waiting")

    assert lifecycle.cancel([int(result.id)]).done == [int(result.id)]

    eventually(lambda: have_state(State.CANCELLED, result))
    assert ledger.lines() == ["long started", "long cancelled"]
    assert outcomes_of(result) == ["cancelled"]
    assert not DeadLetter.objects.exists()
