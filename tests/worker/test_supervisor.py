"""What a supervisor knows of the life of its processes, without starting any."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.conf import Options
from jobs.storage import storage
from jobs.tally import Merged
from jobs.worker.child import Child
from jobs.worker.nursery import START_SECONDS
from jobs.worker.plan import EXIT_DONE, Plan
from jobs.worker.slots import ENGINE, LOOPS, WATCHDOG, Slots
from jobs.worker.supervisor import AWAY_SECONDS, CHORE_SECONDS, Seat, Supervisor, Tree
from jobs.worker.takeback import leaves_suspects

LEASE = 12.0


@pytest.fixture
def supervisor():
    plan = Plan(worker_id="", lease_seconds=LEASE, heartbeat_seconds=4.0)
    return Supervisor(Tree(plan), storage(), Options(), Merged())


@pytest.fixture
def child(supervisor):
    """A process in the first seat that has begun and gone on until now."""
    slots = Slots.create(2)
    found: Any = Child.__new__(Child)
    found.slots, found.beats = slots, slots.beats()
    found.plan = supervisor.tree.plan
    found.ready, found.ending, found.killed = True, False, False
    found.stuck, found.frozen = set(), []
    found.started_at = time.monotonic()
    found.heard_at = [found.started_at] * len(LOOPS)
    found.process = SimpleNamespace(pid=4711, poll=lambda: None, kill=lambda: None)
    found.read = list
    supervisor.seats[0].child = found
    yield found
    slots.close()


def look(supervisor, child, seconds: float, was_away: bool = False, beating: tuple[int, ...] = ()) -> None:
    for loop in beating:
        child.slots.beat(loop)
    supervisor.look_after(supervisor.seats[0], child, child.started_at + seconds, was_away)


def test_a_drain_that_nobody_listens_to_any_more_has_succeeded_all_the_same(supervisor):
    def say(text):
        raise BrokenPipeError

    supervisor.tree.drain = True
    supervisor.say = say
    supervisor.housekeeping.findings.drained = True

    supervisor.say_goodbye()

    assert supervisor.exit_code == EXIT_DONE


def test_a_process_whose_loops_go_on_is_left_alone(supervisor, child):
    for seconds in range(1, 60):
        look(supervisor, child, seconds, beating=tuple(range(len(LOOPS))))

    assert not child.killed


def test_a_process_in_which_one_loop_stands_still_for_a_lease_is_replaced(supervisor, child):
    others = tuple(loop for loop in range(len(LOOPS)) if loop != ENGINE)
    for seconds in range(1, int(LEASE) + 1):
        look(supervisor, child, seconds, beating=others)
    assert not child.killed

    look(supervisor, child, LEASE + 1, beating=others)

    assert child.killed
    assert child.frozen == ["engine"]


def test_a_supervisor_that_was_paused_itself_gives_all_loops_their_time_again(supervisor, child):
    look(supervisor, child, 1000.0, was_away=True)
    assert not child.killed

    look(supervisor, child, 1000.0 + LEASE - 1)
    assert not child.killed

    look(supervisor, child, 1000.0 + LEASE + 1)
    assert child.killed


def test_a_process_that_ends_may_stand_still(supervisor, child):
    child.ending = True

    look(supervisor, child, LEASE * 3)

    assert not child.killed


def test_a_process_that_never_gets_ready_is_replaced(supervisor, child):
    child.ready = False

    look(supervisor, child, START_SECONDS - 1)
    assert not child.killed

    look(supervisor, child, START_SECONDS + 1)
    assert child.killed


def test_a_job_that_ignored_its_timeout_is_the_first_cause(supervisor, child):
    child.slots.mark(0, 7, 1, deadline=child.started_at + 1)

    look(supervisor, child, LEASE * 2)

    assert (child.stuck, child.frozen) == ({7}, [])


def test_the_probe_says_which_loop_of_which_process_stands_still(supervisor, child):
    assert supervisor.problem() == ""

    child.heard_at[WATCHDOG] -= LEASE

    assert supervisor.problem() == "The watchdog of process 4711 has stood still for 12 s."


def test_the_probe_says_that_housekeeping_stands_still(supervisor):
    supervisor.chores_at -= LEASE + CHORE_SECONDS + 1

    assert supervisor.problem() == "The housekeeping of this tree stands still: restart the worker."


def test_the_probe_says_that_the_supervisor_stands_still(supervisor):
    supervisor.ticked_at -= LEASE + 1

    assert supervisor.problem() == "The supervisor stands still: restart the worker."


def test_a_pause_of_the_supervisor_is_told_by_its_own_ticks(supervisor, monkeypatch):
    seen = []
    monkeypatch.setattr(supervisor, "look_after", lambda seat, child, now, was_away: seen.append(was_away))
    monkeypatch.setattr(supervisor, "seat_solos", lambda: None)
    monkeypatch.setattr(supervisor, "fill_seats", lambda: None)
    supervisor.seats[0].child = SimpleNamespace(ready=True, process=SimpleNamespace(pid=4711))

    supervisor.tick()
    supervisor.ticked_at -= AWAY_SECONDS + 1
    supervisor.tick()

    assert seen == [False, True]


@pytest.mark.parametrize(("ran", "code", "failures"), [(3, EXIT_DONE, 0), (0, EXIT_DONE, 1), (3, 9, 1)])
def test_a_process_that_ended_soon_without_having_run_anything_is_a_bad_start(supervisor, child, ran, code, failures):
    seat = supervisor.seats[0]
    seat.ran = ran

    supervisor.plan_restart(seat, child, code)

    assert seat.failures == failures


@pytest.mark.parametrize(
    ("solo_is_ready", "another_works", "started"), [(False, True, 0), (True, True, 1), (False, False, 1)]
)
def test_suspects_go_first_as_long_as_others_work(
    supervisor, child, monkeypatch, solo_is_ready, another_works, started
):
    starts = []
    monkeypatch.setattr(supervisor, "start", lambda seat, plan: starts.append(seat))
    supervisor.seats.append(Seat())
    child.ready = another_works
    supervisor.solos.append(Seat(solo=True, child=SimpleNamespace(ready=solo_is_ready)))

    supervisor.fill_seats()

    assert len(starts) == started


@pytest.mark.parametrize(
    ("killed", "said_goodbye", "frozen", "suspected"),
    [(False, False, [], True), (True, False, ["engine"], True), (True, False, [], False), (False, True, [], False)],
)
def test_only_a_process_that_died_of_itself_or_stood_still_leaves_suspects(
    child, killed, said_goodbye, frozen, suspected
):
    child.killed, child.said_goodbye, child.frozen = killed, said_goodbye, frozen

    assert leaves_suspects(child) == suspected


def test_a_supervisor_whose_processes_all_work_is_calm(supervisor, child):
    assert supervisor.is_calm()


@pytest.mark.parametrize("under_way", ["start", "restart", "solo", "drain", "stop"])
def test_a_supervisor_looks_closely_while_anything_is_under_way(supervisor, child, under_way):
    if under_way == "start":
        child.ready = False
    elif under_way == "restart":
        supervisor.seats.append(Seat())
    elif under_way == "solo":
        supervisor.solos.append(Seat(solo=True, child=SimpleNamespace(ready=True)))
    elif under_way == "drain":
        supervisor.tree.drain = True
    else:
        supervisor.stopping = True

    assert not supervisor.is_calm()


def test_a_host_that_allows_no_more_processes_keeps_those_that_work_and_is_asked_again(supervisor, child, monkeypatch):
    asked = []

    def refused() -> Any:
        asked.append(time.monotonic())
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(supervisor.nursery, "child", refused)
    supervisor.seats.append(Seat())
    supervisor.housekeeping.findings.suspects_wait = True

    for _ in range(3):
        supervisor.tick()
    assert len(asked) == 1
    supervisor.start_again_at = 0.0
    supervisor.tick()

    assert len(asked) == 2
    assert supervisor.seats[0].child is child
    assert supervisor.solos == []


@pytest.mark.parametrize(("child_is_ready", "may_start"), [(True, True), (False, False)])
def test_no_process_is_kept_ready_before_those_that_work_have_started(
    supervisor, child, monkeypatch, child_is_ready, may_start
):
    asked = []
    monkeypatch.setattr(supervisor.nursery, "look_after", lambda may_start: asked.append(may_start))
    child.ready = child_is_ready

    supervisor.tick()

    assert asked == [may_start]
