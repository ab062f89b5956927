"""Outcomes whose rows are locked, or whose values are refused: none holds up another, none is forgotten."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.models import F

from jobs.models import DeadLetter, ErrorGroup, Job
from jobs.outcomes import ErrorReport, Failed, Succeeded
from jobs.states import Reason, State
from jobs.worker.plan import BATCH
from jobs.worker.runner import Finished

from .test_engine import engine_of, enqueue, hand_in, take

__all__ = ["engine_of"]

pytestmark = pytest.mark.django_db(transaction=True)

RETRY = Failed(ErrorReport("builtins.ValueError", "no"), retry_in=3600.0)
DEAD = Failed(ErrorReport("builtins.ValueError", "no"), reason=Reason.PERMANENT_ERROR)


@pytest.fixture(autouse=True)
def only_where_rows_are_locked(vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite locks no rows")


@contextmanager
def somebody_else() -> Iterator[Any]:
    """A transaction of somebody else's, on a connection of its own."""
    other = connections["default"].copy()
    other.ensure_connection()
    other.set_autocommit(False)
    try:
        yield other
    finally:
        other.rollback()
        other.close()


def lock(other: Any, *leases: Any) -> None:
    ids = [lease.id for lease in leases]
    other.cursor().execute("SELECT 1 FROM jobs_job WHERE id = ANY(%s) FOR UPDATE", [ids])


def states() -> dict[int, str]:
    return dict(Job.objects.values_list("pk", "state"))


def try_again(engine: Any) -> None:
    engine.settler.locked_until = 0.0
    engine.tick()


@pytest.mark.parametrize("outcome", [Succeeded("1"), RETRY, DEAD])
def test_a_locked_row_holds_up_no_other_whatever_its_outcome(engine_of, outcome):
    enqueue(3)
    engine = engine_of(threads=3)
    engine.tick()
    locked, good, failed = take(engine)
    with somebody_else() as other:
        lock(other, locked)
        for lease, its in ((locked, outcome), (good, Succeeded("1")), (failed, DEAD)):
            hand_in(engine, lease, its)
        engine.tick()
        found = states()

    assert found == {locked.id: State.RUNNING, good.id: State.SUCCEEDED, failed.id: State.DEAD}
    assert set(engine.held) == {locked.key}
    try_again(engine)
    assert engine.held == {}
    assert State.RUNNING not in states().values()


def test_a_row_that_was_deleted_while_its_outcome_waited_is_lost_and_not_locked_for_ever(engine_of):
    enqueue(2)
    engine = engine_of()
    engine.tick()
    gone, good = take(engine)
    with somebody_else() as other:
        other.cursor().execute("DELETE FROM jobs_job WHERE id = %s", [gone.id])
        hand_in(engine, gone)
        hand_in(engine, good)
        engine.tick()
        assert set(engine.held) == {gone.key}
        other.commit()

    try_again(engine)

    assert (engine.held, engine.settler.locked) == ({}, [])
    assert [lease.key for lease in engine.announcer.lost] == [gone.key] or engine.settler.uncounted


def test_locked_rows_take_no_threads_from_others(engine_of):
    enqueue(10)
    engine = engine_of(threads=2)
    engine.tick()
    leases = take(engine)
    with somebody_else() as other:
        lock(other, *leases)
        for lease in leases:
            # Slow ones: a thread is free only when its outcome is written, or put aside.
            now = lease.claimed_monotonic
            engine.desk.finished.append(Finished(lease, Succeeded("1"), now, now + 3))
        engine.tick()
        engine.tick()

    assert len(take(engine)) == 2
    assert len(engine.settler.locked) == 2


def test_what_is_put_aside_has_a_bound(engine_of):
    engine = engine_of()
    engine.settler.locked = [None] * (BATCH + 7)
    engine.held |= {(n, 1): None for n in range(BATCH + 7)}

    assert engine.room() <= 0


def test_no_outcome_is_forgotten_when_the_database_goes_after_the_commit(engine_of, monkeypatch):
    enqueue(3)
    engine = engine_of(threads=3)
    engine.tick()
    locked, lost, good = take(engine)
    was_settled, calls = engine.store.was_settled, []

    def failing_once(*lease):
        calls.append(lease)
        if len(calls) == 1:
            raise OperationalError("the server closed the connection")
        return was_settled(*lease)

    monkeypatch.setattr(engine.store, "was_settled", failing_once)
    with somebody_else() as other:
        lock(other, locked)
        Job.objects.filter(pk=lost.id).update(lease_token=F("lease_token") + 1)
        for lease in (locked, lost, good):
            hand_in(engine, lease)
        with pytest.raises(OperationalError):
            engine.tick()
        engine.tick()

    try_again(engine)
    engine.settler.count()
    assert engine.held == {}
    assert [row.lease.id for row, _ in engine.announcer.settled] == [good.id, locked.id]
    assert [lease.id for lease in engine.announcer.lost] == [lost.id]


def test_a_refused_outcome_beside_a_locked_one_holds_up_nothing(engine_of):
    enqueue(3)
    engine = engine_of(threads=3)
    engine.tick()
    locked, bad, good = take(engine)
    with somebody_else() as other:
        lock(other, locked)
        for lease, outcome in ((locked, Succeeded("1")), (bad, Succeeded('"\\u0000"')), (good, Succeeded("1"))):
            hand_in(engine, lease, outcome)
        engine.tick()
        found = states()

    assert found == {locked.id: State.RUNNING, bad.id: State.DEAD, good.id: State.SUCCEEDED}
    assert set(engine.held) == {locked.key}


def test_a_locked_error_group_holds_up_the_deaths_in_it_and_no_success(engine_of):
    enqueue(3)
    engine = engine_of(threads=3)
    engine.tick()
    first, dead, good = take(engine)
    hand_in(engine, first, DEAD)
    engine.tick()
    with somebody_else() as other:
        other.cursor().execute("SELECT 1 FROM jobs_errorgroup FOR UPDATE")
        hand_in(engine, dead, DEAD)
        hand_in(engine, good)
        engine.tick()
        assert states()[good.id] == State.SUCCEEDED
        assert set(engine.held) == {dead.key}

    try_again(engine)

    assert engine.held == {}
    assert ErrorGroup.objects.get().count == DeadLetter.objects.count() == 2


def test_after_a_locked_row_nothing_waits_for_another_one(engine_of, monkeypatch):
    enqueue(4)
    engine = engine_of(threads=4)
    engine.tick()
    leases = take(engine)
    exchange, waits = engine.store.exchange, []

    def watched(worker_id, claims, lease, successes=None):
        waits.append(successes is not None)
        return exchange(worker_id, claims, lease, successes)

    monkeypatch.setattr(engine.store, "exchange", watched)
    with somebody_else() as other:
        lock(other, *leases)
        for lease in leases:
            hand_in(engine, lease)
            engine.tick()

    assert waits.count(True) == 1
    assert len(engine.settler.locked) == 4


def test_outcomes_that_cannot_be_written_at_the_end_are_told(engine_of, caplog):
    enqueue(1)
    engine = engine_of()
    engine.tick()
    [lease] = take(engine)
    with somebody_else() as other:
        lock(other, lease)
        hand_in(engine, lease)

        assert engine.last_words() is False

    assert "outcomes not written" in caplog.text
