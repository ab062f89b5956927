"""A host that slept: what a worker still holds in mind when it wakes up belongs to others by then."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group

from jobs import lifecycle
from jobs.states import State
from tests.acceptance import tasks
from tests.acceptance.ledger import Ledger
from tests.acceptance.rows import have_state, have_succeeded, outcomes_of, row_of

pytestmark = pytest.mark.django_db(transaction=True)

LEASE = 3
ARGUMENTS = ("--lease", str(LEASE), "--poll-interval", "0.2", "--threads", "1")


@pytest.fixture
def stubborn(ledger: Ledger, vendor: str) -> Callable[[], object]:
    """Enqueue a transactional job that waits at the gate and takes an interruption for a sign to go on and write."""

    def enqueue() -> object:
        # A frozen transaction would stop every other writer of SQLite: there the job is frozen just before it.
        where = "before" if vendor == "sqlite" else "inside"
        return tasks.stubborn.enqueue(ledger=str(ledger), **{where: "gate"})

    return enqueue


def signs(ledger: Ledger, word: str) -> list[str]:
    """Return the processes that wrote this word."""
    return [line.split()[0] for line in ledger.lines() if line.endswith(word)]


def test_a_frozen_tree_cannot_settle_a_job_that_was_reaped(worker, ledger, stubborn, eventually):
    first = worker(*ARGUMENTS).wait_ready()
    result = stubborn()
    eventually(lambda: signs(ledger, "waits"))
    worker(*ARGUMENTS).wait_ready()
    lifecycle.pause("default")

    first.pause()
    eventually(lambda: outcomes_of(result) == ["lost"], within=LEASE + 15)
    first.resume()

    eventually(lambda: "lease lost" in first.log())
    assert signs(ledger, "goes on") == signs(ledger, "waits")
    assert not Group.objects.exists()
    assert (row_of(result).state, row_of(result).attempts, row_of(result).lease_token) == (State.READY, 0, 1)

    ledger.open()
    lifecycle.resume("default")
    eventually(lambda: have_succeeded(result), within=10)
    assert Group.objects.count() == 1


def test_a_frozen_tree_cannot_settle_a_job_that_another_claimed(worker, ledger, stubborn, eventually):
    first = worker(*ARGUMENTS).wait_ready()
    result = stubborn()
    eventually(lambda: signs(ledger, "waits"))
    second = worker(*ARGUMENTS).wait_ready()

    first.pause()
    eventually(lambda: len(signs(ledger, "waits")) == 2, within=LEASE + 15)
    first.resume()

    eventually(lambda: "lease lost" in first.log())
    stale, holder = signs(ledger, "waits")
    assert signs(ledger, "goes on") == [stale]
    assert not Group.objects.exists()
    assert have_state(State.RUNNING, result)
    assert f"-{second.pid}-" in row_of(result).leased_by

    ledger.open()
    eventually(lambda: have_succeeded(result))
    assert list(Group.objects.values_list("name", flat=True)) == [f"written by {holder}"]
    assert (row_of(result).attempts, row_of(result).lease_token) == (1, 2)
