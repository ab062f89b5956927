"""The small parts of a worker, each alone."""

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.leases import Lease
from jobs.storage import ReadyQueue
from jobs.worker.announcer import MOST_WAITING, Announcer
from jobs.worker.housekeeping import Trust
from jobs.worker.pace import Pace
from jobs.worker.plan import MAX_AHEAD, Plan
from jobs.worker.rota import Rota
from jobs.worker.slots import Slots
from jobs.worker.supervisor import quotas
from jobs.worker.watchdog import Watchdog
from tests.leases import a_lease


def ready(name: str, *, plain: bool = True, suspects: bool = False, paused: bool = False) -> ReadyQueue:
    return ReadyQueue(name, plain, suspects, paused, False)


def lease_claimed(seconds_ago: float) -> Lease:
    return a_lease(claimed_monotonic=time.monotonic() - seconds_ago)


def watchdog_of(*, lease_seconds: float, renewed_seconds_ago: float) -> Watchdog:
    engine: Any = SimpleNamespace(plan=Plan(worker_id="w", lease_seconds=lease_seconds), patience=None)
    heartbeat: Any = SimpleNamespace(renewed_at=time.monotonic() - renewed_seconds_ago, patience=None)
    return Watchdog(engine, heartbeat)


def test_queues_take_turns_whatever_their_backlog():
    rota = Rota(frozenset(), solo=False)
    rota.update([ready("a"), ready("b"), ready("c")])

    turns = [rota.next() for _ in range(6)]

    assert turns == ["a", "b", "c", "a", "b", "c"]


def test_a_rescan_keeps_the_order_of_those_who_wait_for_their_turn():
    rota = Rota(frozenset(), solo=False)
    rota.update([ready("a"), ready("b")])
    rota.next()

    rota.update([ready("a"), ready("b"), ready("c")])

    assert [rota.next() for _ in range(3)] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("wanted", "solo", "queue"),
    [
        ({"mail"}, False, ready("other")),
        (set(), False, ready("a", paused=True)),
        (set(), False, ready("a", plain=False, suspects=True)),
        (set(), True, ready("a")),
    ],
)
def test_a_worker_leaves_alone_what_is_not_its_concern(wanted, solo, queue):
    rota = Rota(frozenset(wanted), solo)

    rota.update([queue])

    assert not rota.turns


def test_nothing_is_claimed_ahead_before_it_is_known_how_long_a_job_takes():
    assert Pace().ahead(threads=8) == 0


def test_short_jobs_are_claimed_ahead_in_hundreds_and_slow_ones_not_at_all():
    short, slow = Pace(), Pace()
    short.observe(0.01, jobs=100)
    slow.observe(30.0, jobs=10)

    assert short.ahead(threads=4) == MAX_AHEAD
    assert slow.ahead(threads=4) == 0


def test_one_slow_batch_after_many_short_ones_shrinks_the_buffer_at_once():
    pace = Pace()
    for _ in range(50):
        pace.observe(0.01, jobs=100)

    pace.observe(5.0, jobs=10)

    assert pace.ahead(threads=4) <= 4


def test_a_supervisor_reads_what_a_process_marked_as_started():
    slots = Slots.create(3)
    slots.mark(0, 11, 5, deadline=None)
    slots.mark(2, 12, 7, deadline=100.0)
    slots.mark(1, 13, 1, deadline=None)
    slots.clear(1)

    assert slots.started() == {11: 5, 12: 7}
    assert slots.overdue(105.1, grace_seconds=5) == {12}
    assert slots.overdue(104.9, grace_seconds=5) == set()
    slots.close()


def test_a_stale_run_beside_its_successor_does_not_hide_it():
    slots = Slots.create(2)
    slots.mark(0, 11, 6, deadline=None)
    slots.mark(1, 11, 5, deadline=None)

    assert slots.started() == {11: 6}
    slots.close()


def test_a_reaper_acts_only_after_it_could_write_for_a_heartbeat_without_interruption():
    trust = Trust(needed_seconds=20)
    for now in range(20):
        trust.wrote(now)
        assert not trust.is_earned(now)

    trust.wrote(20)

    assert trust.is_earned(20)


@pytest.mark.parametrize("broken_by", ["failure", "pause"])
def test_an_outage_or_a_pause_of_the_reaper_takes_its_trust_away(broken_by):
    trust = Trust(needed_seconds=20)
    for now in range(41):
        trust.wrote(now)

    if broken_by == "failure":
        trust.failed()
        trust.wrote(41)
    else:
        trust.wrote(60)

    assert not trust.is_earned(60)


def test_a_lease_that_ran_out_while_it_waited_is_not_started():
    watchdog = watchdog_of(lease_seconds=60, renewed_seconds_ago=55)

    assert not watchdog.is_kept(lease_claimed(seconds_ago=58), time.monotonic())


def test_a_lease_that_was_renewed_while_it_waited_may_start():
    watchdog = watchdog_of(lease_seconds=60, renewed_seconds_ago=10)

    assert watchdog.is_kept(lease_claimed(seconds_ago=58), time.monotonic())
    assert watchdog.is_kept(lease_claimed(seconds_ago=1), time.monotonic())


def test_max_jobs_is_shared_out_so_that_the_sum_is_exact():
    assert quotas(10, 3) == [4, 3, 3]
    assert quotas(1, 4) == [1]
    assert quotas(None, 2) == [None, None]


def test_a_plan_survives_its_journey_to_a_process():
    plan = Plan(worker_id="w", queues=["a"], max_jobs=3, solo=True)

    assert Plan.from_line(plan.line()) == plan
    assert plan.lease == timedelta(seconds=60)


def test_an_announcer_is_behind_until_its_receivers_have_caught_up(eventually):
    announcer = Announcer()
    for _ in range(MOST_WAITING + 1):
        assert not announcer.is_behind()
        announcer.put([], [])

    assert announcer.is_behind()
    announcer.start()

    eventually(lambda: not announcer.is_behind())
    announcer.stop(5)
