"""How far claims have got in a queue, and when the whole of it is looked at again."""

from datetime import timedelta

from jobs.storage import Place
from jobs.worker.horizon import COST, FULL_LOOK_SECONDS, LONGEST_REST_SECONDS, MAX_PLACES, Horizon
from tests.leases import MOMENT, a_lease


def leases(*places):
    return [
        a_lease(id=id, priority=priority, ready_at=MOMENT + timedelta(seconds=second))
        for priority, second, id in places
    ]


def place(priority, second, id):
    return Place(priority, MOMENT + timedelta(seconds=second), id)


def test_the_first_claim_looks_at_the_whole_queue():
    assert Horizon().begin(now=100.0) == ()


def test_a_claim_begins_behind_the_last_lease_of_each_priority():
    horizon = Horizon()

    horizon.note(leases((5, 1, 11), (5, 2, 12), (0, 1, 3)), (), is_full=True, began=100.0, ended=100.01)

    assert sorted(horizon.begin(100.02)) == [place(0, 1, 3), place(5, 2, 12)]


def test_in_a_backlog_the_whole_queue_is_looked_at_every_second():
    horizon = Horizon()
    horizon.note(leases((0, 1, 1)), (), is_full=True, began=100.0, ended=100.01)
    assert horizon.begin(100.01 + FULL_LOOK_SECONDS - 0.01)

    horizon.note(leases((0, 2, 2)), [place(0, 1, 1)], is_full=True, began=100.5, ended=100.51)

    assert horizon.begin(100.01 + FULL_LOOK_SECONDS) == ()


def test_without_a_backlog_the_whole_queue_is_looked_at_as_often_as_that_is_cheap():
    horizon = Horizon()

    horizon.note(leases((0, 1, 1)), (), is_full=False, began=100.0, ended=100.001)

    assert horizon.begin(100.001 + COST * 0.0011) == ()


def test_a_look_that_takes_long_is_not_taken_often():
    horizon = Horizon()

    horizon.note(leases((0, 1, 1)), (), is_full=False, began=100.0, ended=100.4)

    assert horizon.begin(100.4 + 0.99 * COST * 0.4)


def test_one_look_that_had_to_wait_puts_off_no_later_one():
    horizon = Horizon()
    horizon.note(leases((0, 1, 1)), (), is_full=False, began=100.0, ended=100.001)

    horizon.note(leases((0, 1, 2)), (), is_full=False, began=101.0, ended=161.0)

    assert horizon.begin(161.0 + COST * 0.0011) == ()


def test_looks_that_always_take_long_are_put_off_by_seconds_not_by_minutes():
    horizon = Horizon()
    for began in (100.0, 200.0):
        horizon.note(leases((0, 1, 1)), (), is_full=False, began=began, ended=began + 60.0)

    assert horizon.begin(260.0 + LONGEST_REST_SECONDS) == ()


def test_only_the_priorities_claimed_last_are_remembered():
    horizon = Horizon()
    for priority in range(MAX_PLACES + 2):
        horizon.note(leases((priority, 1, priority)), (), is_full=True, began=100.0, ended=100.01)

    assert [known.priority for known in horizon.begin(100.02)] == [2, 3, 4, 5]
