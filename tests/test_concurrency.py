"""Of the jobs with one concurrency key only so many run at a time; the rest wait, in nobody's way."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.models import Count

from jobs import enqueue_many, lifecycle, stats, task
from jobs.leases import Lease, Remains
from jobs.models import DeadLetter, Job
from jobs.outcomes import ErrorReport, Failed, Interrupted, Outcome, Snoozed, Succeeded, Success
from jobs.states import State
from jobs.storage import storage
from jobs.testing import run_jobs
from jobs.verdicts import settlement
from tests import tasks
from tests.threads import at_once
from tests.worker.test_housekeeping import keeper

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)


def shared(key: str = "k", **options: Any) -> Any:
    return tasks.two_at_a_time.using(concurrency_key=key, **options)


def claim(limit: int = 100, worker: str = "w") -> list[Lease]:
    return storage().claim(worker, "default", limit, HOUR)


def settle(lease: Lease, outcome: Outcome) -> None:
    """End a run as a worker does, and as it does hand on the slot."""
    from jobs.concurrency import freed_by, let_in

    row = settlement(lease, outcome, lease.claimed_at, lease.claimed_at)
    assert storage().settle([row])
    let_in(freed_by([row]))


def waiting() -> int:
    return int(Job.objects.blocked().count())


def test_no_more_are_handed_out_than_may_run_at_a_time():
    for n in range(5):
        shared().enqueue(n)

    first = claim()
    assert [lease.args for lease in first] == ["[0]", "[1]"]
    assert (claim(), waiting()) == ([], 3)

    settle(first[0], Succeeded())
    assert [lease.args for lease in claim()] == ["[2]"]
    assert (claim(), waiting()) == ([], 2)


def test_one_at_a_time_is_what_a_key_alone_means():
    for n in range(3):
        tasks.add.using(concurrency_key="alone").enqueue(n)

    assert len(claim()) == 1


def test_other_keys_and_jobs_without_one_do_not_wait():
    enqueue_many(shared("a"), [{"n": n} for n in range(100)])
    shared("b").enqueue(1)
    tasks.add.enqueue(1)

    assert len(claim()) == 4


def test_the_best_of_those_who_wait_comes_next():
    running, _ = shared().enqueue(1), shared().enqueue(2)
    shared(priority=-5).enqueue(3)
    shared().enqueue(4)
    shared(priority=5).enqueue(5)
    leases = {str(lease.id): lease for lease in claim()}

    settle(leases[running.id], Succeeded())

    assert [lease.args for lease in claim()] == ["[5]"]


def fail(retry_in: float | None) -> Failed:
    return Failed(ErrorReport(message="x"), retry_in=retry_in)


@pytest.mark.parametrize("outcome", [Succeeded(), fail(3600), Snoozed(3600)], ids=lambda o: type(o).__name__)
def test_a_run_that_is_over_frees_its_slot(outcome):
    for n in range(3):
        shared().enqueue(n)
    first, _ = claim()

    settle(first, outcome)

    assert len(claim()) == 1


def test_a_batch_of_successes_frees_their_slots():
    enqueue_many(shared(), [{"n": n} for n in range(4)])
    leases = claim()
    from jobs.concurrency import keys_of, let_in

    assert storage().complete([Success(lease, None, 0.0, 0.1) for lease in leases])
    let_in(keys_of(leases))

    assert len(claim()) == 2


def test_a_run_that_is_taken_back_keeps_its_slot():
    for n in range(3):
        shared().enqueue(n)
    claim()

    lifecycle.take_back_stopped("w", Remains(), "shutdown")
    assert sorted(lease.args for lease in claim()) == ["[0]", "[1]"]

    Job.objects.running().update(lease_expires_at=storage().now() - HOUR)
    assert len(lifecycle.reap()) == 2
    assert waiting() == 1


def test_an_interrupted_run_keeps_its_slot():
    for n in range(3):
        shared().enqueue(n)
    first, _ = claim()

    settle(first, Interrupted("a deploy"))

    assert [lease.args for lease in claim()] == ["[0]"]


def test_a_retry_waits_for_a_slot_when_it_is_due():
    for n in range(3):
        shared().enqueue(n)
    first, _ = claim()
    settle(first, fail(0.0001))
    assert len(claim()) == 1

    keeper().tick()

    assert Job.objects.get(pk=first.id).blocked
    assert claim() == []


def test_scheduled_jobs_hold_no_slot_and_get_one_when_they_are_due():
    enqueue_many(shared(run_after=HOUR), [{"n": n} for n in range(5)])
    shared().enqueue(9)
    assert len(claim()) == 1

    Job.objects.scheduled().update(run_after=storage().now() - HOUR)
    keeper().tick()

    assert (len(claim()), waiting()) == (1, 4)


@pytest.mark.parametrize("end", ["cancel", "expire", "replace"])
def test_who_gives_a_slot_up_before_it_runs_lets_the_next_in(end):
    first = shared(dedupe_key="d", expires_after=HOUR).enqueue(0)
    for n in range(1, 4):
        shared().enqueue(n)
    assert waiting() == 2

    if end == "cancel":
        lifecycle.cancel([int(first.id)])
    elif end == "expire":
        Job.objects.filter(pk=first.id).update(expires_at=storage().now() - HOUR)
        lifecycle.expire()
    else:
        shared(dedupe_key="d", on_duplicate="replace", run_after=HOUR).enqueue(9)

    assert [lease.args for lease in claim()] == ["[1]", "[2]"]


def test_a_replayed_job_waits_for_its_turn():
    tasks.fail.using(concurrency_key="k", max_attempts=1).enqueue()
    run_jobs()
    tasks.add.using(concurrency_key="k").enqueue(1)

    lifecycle.replay(DeadLetter.objects.all(), by="somebody")

    assert len(claim()) == 1
    assert waiting() == 1


def test_rollback_lets_nobody_in_and_an_open_transaction_keeps_nobody_out():
    with transaction.atomic():
        shared().enqueue(1)
        shared().enqueue(2)
        transaction.set_rollback(True)
    shared().enqueue(3)

    with transaction.atomic():
        shared().enqueue(4)
        [others] = at_once(lambda: [shared().enqueue(n) for n in (5, 6)] if is_postgresql() else None)
        assert not isinstance(others, BaseException)

    keeper().tick()
    assert len(claim()) == 2


def is_postgresql() -> bool:
    return connection.vendor == "postgresql"


@pytest.mark.django_db
def test_jobs_of_a_test_case_run_one_after_another(db):
    enqueue_many(tasks.add.using(concurrency_key="k"), [{"a": n} for n in range(5)])

    assert run_jobs() == 5


def test_what_a_process_that_died_did_not_hand_out_housekeeping_does(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jobs.concurrency.let_in", lambda keys: None)
        enqueue_many(shared("a"), [{"n": n} for n in range(5)])
        shared("b").enqueue(1)
    assert (claim(), waiting()) == ([], 6)

    keeper().tick()

    assert len(claim()) == 3


def test_housekeeping_looks_at_some_keys_at_each_beat(monkeypatch):
    monkeypatch.setattr("jobs.worker.housekeeping.KEYS_AT_ONCE", 10)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.concurrency.let_in", lambda keys: None)
        enqueue_many(tasks.two_at_a_time.using(concurrency_key="{n}"), [{"n": n} for n in range(25)])
    house = keeper()

    for expected in (10, 20, 25):
        house.tick()
        assert Job.objects.ready().count() == expected


def test_jobs_of_many_queues_share_a_key():
    shared(queue_name="email").enqueue(1)
    shared().enqueue(2)
    shared(queue_name="email").enqueue(3)

    assert len(claim()) == 1
    assert len(storage().claim("w", "email", 9, HOUR)) == 1
    assert waiting() == 1


def test_a_drain_waits_for_whose_turn_comes_and_not_for_what_nobody_here_may_run():
    shared().enqueue(1)
    shared().enqueue(2)
    shared(queue_name="email").enqueue(3)
    house = keeper(drain=True)
    first, _ = claim()
    house.tick()
    assert not house.findings.drained

    lifecycle.pause("email")
    settle(first, Succeeded())  # whose slot goes to the e-mail
    Job.objects.running().delete()
    shared(queue_name="email").enqueue(4)
    shared().enqueue(5)
    assert waiting() == 1
    house.tick()

    assert house.findings.drained
    assert house.findings.left["waiting for their turn"] == 1


def test_lists_and_figures_tell_who_waits_for_a_turn_from_who_may_be_claimed():
    for n in range(5):
        shared().enqueue(n)

    [queue] = stats.queues(storage().now())

    assert (queue.ready, queue.blocked) == (2, 3)
    assert stats.listed(Job.objects.all(), "blocked").count() == 3
    assert stats.listed(Job.objects.all(), "ready").count() == 2


# Races


def test_however_many_enqueue_and_run_at_once_no_key_has_more_than_its_slots():
    keys, most = ("x", "y", "z"), 2
    over: list[Any] = []
    done: list[int] = []
    all_fed = threading.Event()

    def feed() -> None:
        for n in range(25):
            shared(keys[n % 3]).enqueue(n)

    def work(worker: str) -> Callable[[], None]:
        def act() -> None:
            idle = 0
            while idle < 40:
                leases = claim(5, worker)
                idle = 0 if leases or not all_fed.is_set() else idle + 1
                held = Job.objects.filter(blocked=False, finished_at=None).exclude(state=State.SCHEDULED)
                counts = held.values_list("concurrency_key").annotate(Count("pk"))
                over.extend(row for row in counts if row[1] > most)
                for lease in leases:
                    settle(lease, Succeeded())
                    done.append(lease.id)

        return act

    def feed_all() -> None:
        for result in at_once(feed, feed):
            assert result is None, result
        all_fed.set()

    results = at_once(feed_all, work("w1"), work("w2"))

    assert results == [None, None, None]
    assert not over
    assert len(done) == len(set(done)) == 50
    assert not Job.objects.exclude(state=State.SUCCEEDED).exists()


def test_two_that_hand_out_the_same_slots_in_opposite_orders_both_get_through():
    with transaction.atomic():
        for key in ("a", "b", "c"):
            enqueue_many(shared(key), [{"n": n} for n in range(30)])

    def unblock(keys: list[str]) -> Callable[[], None]:
        def act() -> None:
            for _ in range(30):
                with transaction.atomic():
                    storage().unblock(keys)

        return act

    assert at_once(unblock(["a", "b", "c"]), unblock(["c", "b", "a"]), unblock(["b"])) == [None] * 3
    assert len(claim()) == 6


def test_whoever_stands_still_with_a_lock_on_a_key_holds_up_nobody_who_settles(vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite locks no keys")
    for n in range(3):
        shared().enqueue(n)
    first, _ = claim()
    may_end, holds = threading.Event(), threading.Event()

    def stand_still() -> None:
        with transaction.atomic():
            storage().unblock(["k"])
            holds.set()
            may_end.wait(20)

    def go_on() -> float:
        assert holds.wait(10)
        began = time.monotonic()
        settle(first, Succeeded())
        took = time.monotonic() - began
        may_end.set()
        return took

    _, took = at_once(stand_still, go_on)

    assert isinstance(took, float), took
    assert took < 5
    assert Job.objects.get(pk=first.id).state == State.SUCCEEDED
    keeper().tick()
    assert len(claim()) == 1


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"concurrency_key": "{nobody}"}, "concurrency_key names 'nobody'"),
        ({"concurrency_key": "k", "max_concurrent": 0}, "max_concurrent must be at least 1"),
        ({"max_concurrent": 2}, "max_concurrent needs a concurrency_key"),
    ],
)
def test_options_that_cannot_work_are_refused_where_they_are_written(wrong, problem):
    with pytest.raises(ImproperlyConfigured, match=problem):
        task(**wrong)(tasks.add.func)
