"""What a process runs right now, readable by its supervisor after its death."""

import os

import pytest

from jobs.worker.slots import HEARTBEAT, RING, Slots


@pytest.fixture
def slots():
    made = Slots.create(4)
    yield made
    made.close()


def test_overdue_are_those_beyond_their_deadline_and_the_grace(slots):
    slots.mark(0, 1, 1, 100.0)
    slots.mark(1, 2, 1, 104.0)
    slots.mark(2, 3, 1, None)

    assert slots.overdue(now=100.0, grace_seconds=5) == set()
    assert slots.overdue(now=106.0, grace_seconds=5) == {1}
    assert slots.overdue(now=1e9, grace_seconds=5) == {1, 2}


def test_finished_attempt_is_not_overdue(slots):
    slots.mark(0, 1, 1, 100.0)
    slots.clear(0)

    assert slots.overdue(now=1e9, grace_seconds=0) == set()


def test_rows_stay_readable_after_the_process_has_died():
    slots = Slots.create(4)
    child = os.fork()
    if child == 0:
        Slots(slots.descriptor, 4).mark(3, 2**62, 2**61, 1.5)
        os._exit(0)
    os.waitpid(child, 0)

    assert slots.rows() == [(2**62, 2**61, 1.5)]
    slots.close()


def test_process_without_executors_has_no_rows():
    slots = Slots.create(0)

    assert slots.started() == {}
    slots.close()


def test_a_process_that_closes_its_slots_leaves_nothing_open(slots):
    other = Slots(os.dup(slots.descriptor), 4)
    other.mark(1, 7, 1, None)

    other.close()

    assert slots.started() == {7: 1}


def test_beats_of_a_loop_change_nothing_else():
    slots = Slots.create(2)
    slots.mark(0, 5, 1, None)

    for _ in range(3):
        slots.beat(HEARTBEAT)

    assert slots.beats() == [0, 3, 0]
    assert slots.rows() == [(5, 1, 0.0)]
    slots.close()


def test_what_ended_last_can_still_be_read_when_its_process_is_gone():
    slots = Slots.create(3, rings=2)
    slots.mark(0, 5, 1, None)
    first, second = slots.ring(0), slots.ring(1)
    for n in range(1, RING + 3):
        first.add(n, 7)
    second.add(2**62, 2**61)

    remains = slots.remains()

    assert remains.running == {5: 1}
    assert remains.ended == {(n, 7) for n in range(3, RING + 3)} | {(2**62, 2**61)}
    slots.close()


def test_every_ring_ends_where_the_memory_does():
    slots = Slots.create(4, rings=3)
    last = slots.ring(2)

    for n in range(1, RING + 1):
        last.add(n, n)

    assert len(slots.remains().ended) == RING
    assert slots.started() == {}
    slots.close()
