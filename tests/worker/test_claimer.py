"""What a process claims: from which queues, how much of each, and when it looks again."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from jobs.storage import ANY_QUEUE, ReadyQueue
from jobs.worker.claimer import RESCAN_SECONDS, Claimer, Recounts
from jobs.worker.horizon import COST, LONGEST_REST_SECONDS
from jobs.worker.plan import Plan
from tests.leases import a_lease


class Looks:
    """Stands in for the database: names the queues with ready jobs and counts how often it was asked."""

    def __init__(self, *names, pause=lambda: None):
        self.ready = [ReadyQueue(name, True, False, False, False) for name in names]
        self.pause = pause
        self.count = 0
        self.groups: tuple[str, ...] = ()  # that have ready jobs
        self.groups_named = 0

    def ready_queues(self):
        self.pause()
        self.count += 1
        return self.ready

    def ready_groups(self, queue_name, suspects, after, limit):
        self.groups_named += 1
        return [name for name in self.groups if after is None or name > after][:limit]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("jobs.worker.claimer.time", clock)
    monkeypatch.setattr("jobs.worker.claimer.random", SimpleNamespace(uniform=lambda low, high: 1.0))
    return clock


def claimer_of(store, **plan) -> Claimer:
    return Claimer(Plan(**{"worker_id": "w1"} | plan), store)


def nothing(claimer, claims, now):
    claimer.note(claims, [[] for _ in claims], now, now)


def everything(claimer, claims, now):
    claimer.note(claims, [[a_lease(id=n) for n in range(claim.limit)] for claim in claims], now, now)


def test_what_runs_is_counted_often_while_a_limit_is_new_and_then_now_and_then():
    recounts = Recounts()
    counted = []
    for now in range(100):
        if recounts.is_due(now):
            counted.append(now)
            recounts.note(now)

    assert counted == [0, 1, 2, *range(12, 100, 10)]


def test_one_queue_gets_all_the_room(clock):
    [claim] = claimer_of(Looks("a")).claims(room=500, now=clock.now)

    assert (claim.queue_name, claim.limit, claim.suspects) == ("a", 500, False)


def test_queues_share_the_room_and_take_turns(clock):
    claimer = claimer_of(Looks(*(f"q{n:02}" for n in range(20))))

    first = claimer.claims(room=500, now=clock.now)
    everything(claimer, first, clock.now)
    second = claimer.claims(room=500, now=clock.now)

    assert [claim.limit for claim in first + second] == [50] * 20
    assert len({claim.queue_name for claim in first + second}) == 20


def test_little_room_goes_to_one_queue(clock):
    claimer = claimer_of(Looks("a", "b"))

    assert [claim.limit for claim in claimer.claims(room=3, now=clock.now)] == [3]


def test_without_room_nobody_is_asked(clock):
    looks = Looks("a")

    assert claimer_of(looks).claims(room=0, now=clock.now) == []
    assert looks.count == 0


def test_a_queue_told_of_is_claimed_from_without_asking_which_queues_there_are(clock):
    looks = Looks()
    claimer = claimer_of(looks)
    claimer.poll_at = clock.now + 60

    claimer.call({"email"}, until=clock.now + 0.04)

    assert [claim.queue_name for claim in claimer.claims(4, clock.now)] == ["email"]
    assert looks.count == 0


def test_a_queue_told_of_is_looked_into_until_the_window_closes(clock):
    claimer = claimer_of(Looks())
    claimer.poll_at = clock.now + 60
    claimer.call({"email"}, until=clock.now + 0.04)

    for after, looked in ((0.0, 1), (0.02, 1), (0.05, 1), (0.06, 0)):
        claims = claimer.claims(4, clock.now + after)
        assert len(claims) == looked
        nothing(claimer, claims, clock.now + after)


def test_a_call_that_comes_late_is_still_answered_once(clock):
    claimer = claimer_of(Looks())
    claimer.poll_at = clock.now + 60
    claimer.call({"email"}, until=clock.now - 5)

    assert len(claimer.claims(4, clock.now)) == 1


def test_news_of_no_queue_in_particular_asks_the_database(clock):
    looks = Looks("a")
    claimer = claimer_of(looks)
    claimer.poll_at = clock.now + 60
    claimer.call({ANY_QUEUE}, until=clock.now + 0.04)

    assert [claim.queue_name for claim in claimer.claims(4, clock.now)] == ["a"]
    assert looks.count == 1


def test_a_queue_that_this_worker_does_not_serve_is_not_looked_into(clock):
    claimer = claimer_of(Looks("a"), queues=["b"])
    claimer.poll_at = clock.now + 60
    claimer.call({"a"}, until=clock.now + 0.04)

    assert claimer.claims(4, clock.now) == []


def test_a_process_for_suspects_asks_which_queues_have_any(clock):
    claimer = claimer_of(Looks("a"), solo=True)
    claimer.poll_at = clock.now + 60
    claimer.call({"a"}, until=clock.now + 0.04)

    assert claimer.claims(1, clock.now) == []
    assert claimer.store.count == 1


def test_a_busy_worker_asks_now_and_then_which_other_queues_have_work(clock):
    looks = Looks("a")
    claimer = claimer_of(looks)
    everything(claimer, claimer.claims(500, clock.now), clock.now)

    everything(claimer, claimer.claims(500, clock.now + RESCAN_SECONDS - 0.01), clock.now)
    assert looks.count == 1

    looks.ready.append(ReadyQueue("b", True, False, False, False))
    claims = claimer.claims(500, clock.now + RESCAN_SECONDS)
    assert sorted(claim.queue_name for claim in claims) == ["a", "b"]


def test_asking_which_queues_have_work_never_takes_more_than_a_tenth_of_the_time(clock):
    looks = Looks("a", pause=lambda: setattr(clock, "now", clock.now + 0.2))
    claimer = claimer_of(looks)
    everything(claimer, claimer.claims(500, clock.now), clock.now)

    clock.now += COST * 0.2 - 0.1
    everything(claimer, claimer.claims(500, clock.now), clock.now)
    assert looks.count == 1

    clock.now += 0.2
    claimer.claims(500, clock.now)
    assert looks.count == 2


def test_one_look_that_had_to_wait_puts_off_no_later_one(clock):
    pauses = iter([0.001, 30.0, 0.001])
    looks = Looks(pause=lambda: setattr(clock, "now", clock.now + next(pauses)))
    claimer = claimer_of(looks)
    for _ in range(2):
        claimer.call({ANY_QUEUE}, until=clock.now)
        claimer.claims(4, clock.now)
        clock.now += 0.02

    looks.ready.append(ReadyQueue("a", True, False, False, False))
    claimer.call({ANY_QUEUE}, until=clock.now)

    assert [claim.queue_name for claim in claimer.claims(4, clock.now)] == ["a"]


def test_looks_that_always_take_long_are_put_off_by_seconds_not_by_minutes(clock):
    looks = Looks("a", pause=lambda: setattr(clock, "now", clock.now + 30.0))
    claimer = claimer_of(looks)
    for looked in (1, 2, 3):
        claimer.call({ANY_QUEUE}, until=clock.now)
        claimer.claims(4, clock.now)
        assert looks.count == looked
        clock.now += LONGEST_REST_SECONDS + 0.01


def test_calls_that_come_while_there_is_no_room_are_kept_but_do_not_pile_up(clock):
    claimer = claimer_of(Looks())
    claimer.poll_at = clock.now + 60
    for n in range(1000):
        claimer.call({"email", "sms"}, until=clock.now + n)
        assert claimer.claims(0, clock.now) == []

    assert len(claimer.calls) == 2
    assert sorted(claim.queue_name for claim in claimer.claims(500, clock.now)) == ["email", "sms"]


def test_a_queue_that_ran_dry_behind_its_places_is_looked_into_once_more(clock):
    claimer = claimer_of(Looks("a"))
    everything(claimer, claimer.claims(500, clock.now), clock.now)
    behind = claimer.claims(500, clock.now + 0.01)
    assert behind[0].places

    nothing(claimer, behind, clock.now + 0.02)

    assert not claimer.rota.turns
    [again] = claimer.claims(500, claimer.next_look_at())
    assert (again.queue_name, again.places) == ("a", ())


def test_an_idle_worker_polls_ever_less_often(clock):
    claimer = claimer_of(Looks(), poll_seconds=1.0)
    waits = []

    for _ in range(6):
        claimer.poll_at = 0.0
        claimer.poll_next(100.0, has_found=False)
        waits.append(claimer.poll_at - 100.0)

    assert waits == [1.5, 2.25, 3.375, 5.0, 5.0, 5.0]


def test_finding_work_makes_polls_frequent_again(clock):
    claimer = claimer_of(Looks(), poll_seconds=1.0)
    claimer.idle_seconds = 5.0

    claimer.poll_next(100.0, has_found=True)

    assert (claimer.idle_seconds, claimer.poll_at) == (1.0, 100.0 + RESCAN_SECONDS)


@pytest.fixture
def grouped(clock, monkeypatch):
    """A claimer that knows of one queue, whose groups take turns, and the looks it takes."""
    monkeypatch.setattr("jobs.worker.turns.random.randrange", lambda _: 0)
    looks = Looks()
    looks.ready = [ReadyQueue("a", True, False, False, False, has_groups=True)]
    looks.groups = ("", "x", "y")
    return claimer_of(looks), looks


def test_of_a_queue_with_groups_each_gets_a_share_in_its_turn(clock, grouped):
    claimer, _ = grouped

    claims = []
    for room in (2, 2, 500):
        [claim] = claimer.claims(room, clock.now)
        everything(claimer, [claim], clock.now)
        claims.append(claim)

    assert [claim.groups for claim in claims] == [("", "x"), ("y", ""), ("x", "y", "")]
    assert [claim.shares for claim in claims] == [(1, 0), (1, 0), (166, 2)]
    assert not any(claim.places for claim in claims)


def test_a_queue_whose_groups_have_nothing_left_is_left_alone(clock, grouped):
    claimer, looks = grouped
    everything(claimer, claimer.claims(500, clock.now), clock.now)

    looks.groups = ()
    nothing(claimer, claimer.claims(500, clock.now), clock.now)

    assert claimer.claims(500, clock.now) == []
    assert not claimer.rota.turns


def test_groups_that_were_emptied_by_others_hide_none_that_have_more(clock, grouped):
    claimer, looks = grouped
    everything(claimer, claimer.claims(2, clock.now), clock.now)  # "y" is known, and its turn is next
    looks.groups = ("z",)

    stale = claimer.claims(1, clock.now)
    nothing(claimer, stale, clock.now)
    fresh = claimer.claims(1, clock.now)

    assert [claim.groups for claim in stale + fresh] == [("y",), ("z",)]


def test_groups_whose_jobs_are_all_locked_are_not_asked_for_again_and_again(clock, grouped):
    claimer, looks = grouped

    for _ in range(50):
        nothing(claimer, claimer.claims(500, clock.now), clock.now)

    assert looks.groups_named <= 10
    assert claimer.next_look_at() > clock.now


def test_the_turn_of_jobs_without_a_key_leaves_the_queue_to_the_groups(clock, grouped):
    claimer, _ = grouped

    [claim] = claimer.claims(1, clock.now)
    nothing(claimer, [claim], clock.now)

    assert claim.groups == ("",)
    assert [claim.groups for claim in claimer.claims(1, clock.now)] == [("x",)]


def test_where_priorities_age_a_claim_begins_behind_no_place(clock):
    claimer = Claimer(Plan(worker_id="w1"), Looks("a"), ageing=timedelta(minutes=10))
    everything(claimer, claimer.claims(500, clock.now), clock.now)

    [claim] = claimer.claims(500, clock.now)

    assert (claim.places, claim.groups, claim.ageing) == ((), ("",), timedelta(minutes=10))
    nothing(claimer, [claim], clock.now)
    assert claimer.claims(500, clock.now) == []
