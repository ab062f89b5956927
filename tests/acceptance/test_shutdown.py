"""A worker that is asked to stop: nothing is lost, nothing is charged, and nothing runs twice at once."""

import pytest

from jobs import enqueue_many
from jobs.models import Attempt, Job
from jobs.states import State
from jobs.worker.plan import EXIT_SECOND_SIGNAL
from jobs.worker.supervisor import LAST_CHORES_SECONDS
from tests.acceptance import tasks
from tests.acceptance.rows import have_state, have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)

POLL = ("--poll-interval", "0.2")


def test_sigterm_loses_nothing_and_charges_nothing(worker, ledger, eventually):
    tree = worker(*POLL, "--processes", "2", "--threads", "2").wait_ready()
    names = [str(number) for number in range(200)]
    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": name, "seconds": 0.02} for name in names])
    eventually(lambda: len(ledger.lines()) >= 20)

    tree.terminate()

    assert tree.exit_code(within=15) == 0
    done = ledger.lines()
    assert 20 <= len(done) < 200
    assert Job.objects.filter(state=State.SUCCEEDED, attempts=1).count() == len(done)
    assert Job.objects.filter(state=State.READY, attempts=0, worker_ids=[]).count() == 200 - len(done)
    assert not Job.objects.exclude(crashes=0, suspect=False).exists()
    assert not Attempt.objects.exists()

    assert worker("--drain", *POLL).exit_code() == 0
    assert sorted(ledger.lines()) == sorted(f"{name} done" for name in names)


def test_sigterm_waits_for_a_running_job_and_starts_no_other(worker, ledger, eventually):
    tree = worker(*POLL, "--threads", "1").wait_ready()
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    eventually(lambda: ledger.has("held started"))
    waiting = tasks.work.enqueue(ledger=str(ledger), name="waiting")

    tree.terminate()
    eventually(lambda: "worker stopping" in tree.log())
    ledger.open()

    assert tree.exit_code(within=15) == 0
    assert have_succeeded(held)
    assert outcomes_of(held) == []
    assert (row_of(waiting).state, row_of(waiting).attempts) == (State.READY, 0)


def test_a_job_longer_than_the_grace_is_released_once_its_process_is_dead(worker, ledger, eventually):
    tree = worker(*POLL, "--grace", "1").wait_ready()
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    ahold = tasks.ahold.enqueue(ledger=str(ledger), name="async")
    eventually(lambda: ledger.has("held started", "async started"))

    tree.terminate()

    eventually(lambda: have_state(State.READY, held, ahold), within=10)
    assert f'jobs="[{held.id}, {ahold.id}]"' in tree.log().partition("runs cut off")[2]
    assert not tree.children()
    assert tree.exit_code() == 0
    for result in (held, ahold):
        assert outcomes_of(result) == ["interrupted"]
        assert (row_of(result).attempts, row_of(result).crashes, row_of(result).suspect) == (0, 0, False)
    assert ledger.lines().count("held done") == ledger.lines().count("async done") == 0


def test_a_second_signal_skips_the_grace(worker, ledger, eventually):
    tree = worker(*POLL, "--grace", "60").wait_ready()
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    eventually(lambda: ledger.has("held started"))
    tree.terminate()
    eventually(lambda: "worker stopping" in tree.log())

    tree.terminate()

    assert tree.exit_code(within=10) == 130
    assert outcomes_of(held) == ["interrupted"]
    assert (row_of(held).state, row_of(held).attempts, row_of(held).crashes) == (State.READY, 0, 0)


def test_ctrl_c_reaches_the_whole_group_and_counts_once(worker, ledger, eventually):
    tree = worker(*POLL, "--processes", "2", "--threads", "1").wait_ready()
    held = [tasks.hold.enqueue(ledger=str(ledger), name=name) for name in ("one", "two")]
    eventually(lambda: ledger.has("one started", "two started"))

    tree.interrupt()
    eventually(lambda: "worker stopping" in tree.log())
    assert len(tree.children()) == 2
    ledger.open()

    assert tree.exit_code(within=15) == 0
    assert have_succeeded(*held)
    assert not Attempt.objects.exists()


@pytest.fixture
def cut_off(worker, eventually):
    """A worker whose database has never answered."""
    tree = worker(*POLL, "--grace", "1", DATABASE_URL="postgresql://127.0.0.1:1/nothing").wait_ready()
    eventually(lambda: "housekeeping failed" in tree.log(), within=10)
    return tree


@pytest.mark.any_database
def test_a_worker_whose_database_is_away_does_not_wait_for_it_for_long(cut_off):
    cut_off.terminate()

    assert cut_off.exit_code(within=LAST_CHORES_SECONDS + 5) == 0
    assert "worker stops without the database" in cut_off.log()


@pytest.mark.any_database
def test_a_second_signal_ends_that_wait(cut_off, eventually):
    cut_off.terminate()
    eventually(lambda: len(cut_off.processes()) == 1, within=5)

    cut_off.terminate()

    assert cut_off.exit_code(within=2) == EXIT_SECOND_SIGNAL
    assert "Traceback" not in cut_off.log()
