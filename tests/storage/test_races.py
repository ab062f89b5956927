"""Pairs of operations on the same job, the second begun on another connection while the first has not committed yet."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models import F

from jobs import lifecycle
from jobs.leases import Lease
from jobs.models import Attempt, DeadLetter, Job
from jobs.outcomes import Succeeded
from jobs.states import State
from jobs.storage import storage
from jobs.verdicts import settlement
from tests import tasks
from tests.admin.rows import a_dead_letter

pytestmark = pytest.mark.django_db(transaction=True)

LEASE = timedelta(seconds=60)
UNDER_WAY_SECONDS = 0.3  # long enough for the second to get to where it has to wait, if it has to
KEEP = {name: timedelta(days=1) for name in ("succeeded", "cancelled", "dead")}


def interleaved(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what both returned; an error of the second instead of its value."""
    outcome: list[Any] = []

    def act() -> None:
        try:
            outcome.append(second())
        except Exception as error:
            outcome.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=act)
    with transaction.atomic():
        done = first()
        thread.start()
        thread.join(UNDER_WAY_SECONDS)
    thread.join(30)
    assert not thread.is_alive()
    return done, outcome[0]


def claim(worker: str = "w2", limit: int = 10) -> list[Lease]:
    return storage().claim(worker, "default", limit, LEASE)


@pytest.fixture
def expired() -> Lease:
    """A lease that has run out and that its holder has not given up."""
    tasks.add.enqueue(1)
    [lease] = claim("w1")
    Job.objects.update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))
    return lease


def settle(lease: Lease) -> set[int]:
    return storage().settle([settlement(lease, Succeeded("7"), lease.claimed_at, lease.claimed_at)])


def test_a_settle_before_a_reap_counts(expired):
    accepted, reaped = interleaved(lambda: settle(expired), lifecycle.reap)

    assert (accepted, reaped) == ({expired.id}, [])
    assert Job.objects.get().state == State.SUCCEEDED
    assert not Attempt.objects.exists()


def test_a_settle_after_a_reap_is_refused(expired):
    reaped, accepted = interleaved(lifecycle.reap, lambda: settle(expired))

    assert ([s.lease.key for s in reaped], accepted) == ([expired.key], set())
    assert Job.objects.get().state == State.READY
    assert not storage().was_settled(expired.id, expired.token)


def test_a_renewal_before_a_reap_keeps_the_lease(expired):
    renewed, reaped = interleaved(lambda: storage().renew("w1", LEASE), lifecycle.reap)

    assert ([row.renewed for row in renewed], reaped) == ([True], [])
    assert settle(expired) == {expired.id}


def test_a_renewal_during_a_reap_does_not_bring_the_lease_back(expired):
    reaped, renewed = interleaved(lifecycle.reap, lambda: storage().renew("w1", LEASE))

    assert len(reaped) == 1
    # Unknown or gone, by what the database can say without waiting, but not renewed.
    assert not any(row.renewed for row in renewed)
    assert Job.objects.get().lease_expires_at is None
    assert storage().renew("w1", LEASE) == []


def test_two_claims_share_what_there_is():
    for n in range(10):
        tasks.add.enqueue(n)

    first, second = interleaved(lambda: claim("w1", 6), lambda: claim("w2", 6))

    assert len(first) == 6
    assert {lease.id for lease in first}.isdisjoint(lease.id for lease in second)
    assert len(claim("w3")) + len(second) == 4


def test_a_job_that_is_being_cancelled_is_not_claimed():
    job_id = int(tasks.add.enqueue(1).id)

    report, leases = interleaved(lambda: lifecycle.cancel([job_id]), claim)

    assert (report.done, leases) == ([job_id], [])
    assert Job.objects.get().state == State.CANCELLED


def test_a_job_that_is_being_claimed_is_asked_to_stop():
    job_id = int(tasks.add.enqueue(1).id)

    leases, report = interleaved(claim, lambda: lifecycle.cancel([job_id]))

    assert ([lease.id for lease in leases], report.done) == ([job_id], [job_id])
    job = Job.objects.get()
    assert (job.state, job.cancel_requested) == (State.RUNNING, True)


@pytest.fixture
def letter() -> DeadLetter:
    """The letter of a dead job that will want its dedupe key back."""
    found = a_dead_letter()
    Job.objects.filter(pk=found.job_id).update(dedupe_key="welcome:42", dedupe_lock=None)
    return found


def take_the_key() -> int:
    """Do as an enqueue with the same key does."""
    job_id = int(tasks.add.enqueue(1).id)
    return Job.objects.filter(pk=job_id).update(dedupe_key="welcome:42", dedupe_lock="welcome:42")


def replay(letter: DeadLetter) -> lifecycle.Report:
    return lifecycle.replay([letter], by="somebody")


def test_a_key_that_a_replay_has_taken_back_is_refused_to_others(letter):
    report, refused = interleaved(lambda: replay(letter), take_the_key)

    assert report.done == [letter.pk]
    assert isinstance(refused, IntegrityError)
    assert Job.objects.get(dedupe_lock="welcome:42").pk == letter.job_id


def test_a_replay_whose_key_is_being_taken_leaves_the_job_dead_and_names_the_holder(letter):
    taken, report = interleaved(take_the_key, lambda: replay(letter))

    holder = Job.objects.get(dedupe_lock="welcome:42")
    assert (taken, report.done) == (1, [])
    assert f"held by job {holder.pk}" in report.skipped[0][1]
    assert Job.objects.get(pk=letter.job_id).state == State.DEAD


def test_two_replays_make_a_job_ready_once(letter):
    first, second = interleaved(lambda: replay(letter), lambda: replay(letter))

    assert (first.done, second.done) == ([letter.pk], [])
    assert [lease.id for lease in claim()] == [letter.job_id]


def prune() -> int:
    return storage().prune_jobs(0, 100, KEEP)[0]


def test_a_job_that_is_being_replayed_is_not_pruned(letter):
    Job.objects.update(finished_at=F("enqueued_at") - timedelta(days=9))

    report, pruned = interleaved(lambda: replay(letter), prune)

    assert (report.done, pruned) == ([letter.pk], 0)
    assert Job.objects.get().state == State.READY


def test_a_job_that_is_being_pruned_is_not_replayed(letter):
    Job.objects.update(finished_at=F("enqueued_at") - timedelta(days=9))

    pruned, report = interleaved(prune, lambda: replay(letter))

    assert (pruned, report.done) == (1, [])
    assert "no longer exists" in report.skipped[0][1]
