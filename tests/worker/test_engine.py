"""The engine, driven tick by tick: its executors never start, the test stands in for them."""

import threading
import time
from contextlib import closing
from datetime import timedelta

import pytest
from django.db import InternalError, OperationalError, ProgrammingError, connections
from django.db.models import F

from jobs import lifecycle
from jobs.conf import Options
from jobs.models import Attempt, DeadLetter, Job, Queue
from jobs.outcomes import ErrorReport, Failed, Snoozed, Succeeded
from jobs.states import State
from jobs.storage import storage
from jobs.tally import Tally
from jobs.verdicts import settlement
from jobs.worker.claimer import LEARN_SECONDS
from jobs.worker.engine import BUSY_SECONDS, LEAK_LOOK_SECONDS, REST_SECONDS, Engine
from jobs.worker.executors import GRANT_SECONDS
from jobs.worker.heartbeat import Heartbeat
from jobs.worker.plan import Plan
from jobs.worker.runner import AsyncRunner, Finished
from jobs.worker.slots import Slots
from jobs.worker.watchdog import IDLE_LOOK_SECONDS, LOOK_SECONDS, Watchdog
from tests import tasks

pytestmark = pytest.mark.django_db


class Told:
    """Keeps what the engine would announce."""

    def __init__(self):
        self.settled, self.lost = [], []

        self.behind = False

    def hears_successes(self):
        return True

    def is_behind(self):
        return self.behind

    def put(self, settlements, lost):
        self.settled.extend(settlements)
        self.lost.extend(lost)


@pytest.fixture
def engine_of():
    made = []

    def build(**plan):
        slots = Slots.create(4, rings=3)
        given = Plan(**{"worker_id": "w1", "threads": 2, "async_slots": 2} | plan)
        engine = Engine(given, storage(), Told(), Tally(), slots, AsyncRunner(Options()))
        made.append((slots, engine))
        return engine

    yield build
    for slots, engine in made:
        engine.loop.loop.close()
        slots.close()


def take(engine):
    """Take the leases that wait for a thread, as threads would."""
    return engine.threads.take_unstarted()


def hand_in(engine, lease, outcome=None):
    now = time.monotonic()
    engine.desk.finished.append(Finished(lease, outcome or Succeeded("1"), now, now))


def enqueue(count: int, task=tasks.add) -> None:
    for n in range(count):
        task.enqueue(n)


def test_a_slot_is_free_again_only_when_its_outcome_is_written(engine_of):
    enqueue(3)
    engine = engine_of()
    engine.tick()
    leases = take(engine)
    assert len(leases) == 2

    engine.tick()
    assert Job.objects.running().count() == 2

    for lease in leases:
        hand_in(engine, lease)
    engine.tick()
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 2
    assert Job.objects.running().count() == 1


def test_outcomes_of_a_batch_are_written_together(engine_of, django_assert_max_num_queries):
    enqueue(2)
    engine = engine_of()
    engine.tick()
    for lease in take(engine):
        hand_in(engine, lease)

    with django_assert_max_num_queries(3):
        engine.settler.settle_all()

    assert engine.held == {}
    assert [outcome for _, outcome in engine.announcer.settled] == [Succeeded("1")] * 2


def test_outcome_of_a_lost_lease_is_dropped_and_told(engine_of):
    enqueue(2)
    engine = engine_of()
    engine.tick()
    lost, kept = take(engine)
    Job.objects.filter(pk=lost.id).update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))
    lifecycle.reap()

    hand_in(engine, lost)
    hand_in(engine, kept)
    engine.settler.settle_all()

    assert Job.objects.get(pk=lost.id).state == State.READY
    assert Job.objects.get(pk=kept.id).state == State.SUCCEEDED
    assert [lease.key for lease in engine.announcer.lost] == [lost.key]
    assert ["lease_lost", "tests.tasks.add", "default", 1] in engine.tally.take()["events"]
    assert engine.held == {}


def test_no_outcome_is_forgotten_when_the_database_goes_away(engine_of, monkeypatch):
    enqueue(1)
    engine = engine_of()
    engine.tick()
    hand_in(engine, take(engine)[0])
    exchange = engine.store.exchange

    def gone(*args, **kwargs):
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(engine.store, "exchange", gone)
    with pytest.raises(OperationalError):
        engine.tick()
    assert engine.settler.waiting == 1

    monkeypatch.setattr(engine.store, "exchange", exchange)
    engine.tick()
    assert Job.objects.get().state == State.SUCCEEDED


def test_lost_reply_of_a_settle_is_no_lost_lease(engine_of, monkeypatch):
    enqueue(1)
    engine = engine_of()
    engine.tick()
    hand_in(engine, take(engine)[0])
    complete, calls = engine.store.complete, []

    def reply_lost(*args, **kwargs):
        accepted = complete(*args, **kwargs)
        calls.append(len(accepted))
        if len(calls) == 1:
            raise OperationalError("the server closed the connection")
        return accepted

    monkeypatch.setattr(engine.store, "complete", reply_lost)
    with pytest.raises(OperationalError):
        engine.settler.settle_all()
    engine.settler.settle_all()

    assert calls == [1, 0]
    assert engine.announcer.lost == []
    assert len(engine.announcer.settled) == 1


def test_jobs_that_a_lost_reply_hid_are_given_back(engine_of):
    enqueue(1)
    engine = engine_of()
    storage().claim("w1", "default", 1, timedelta(seconds=60))
    engine.suspect_leaks()
    engine.draining = True

    engine.tick()

    job = Job.objects.get()
    assert (job.state, job.attempts, job.crashes, job.suspect) == (State.READY, 0, 0, False)


def test_a_claim_that_commits_after_its_connection_was_given_up_is_found_too(engine_of):
    enqueue(1)
    engine = engine_of()
    engine.draining = True
    engine.suspect_leaks()
    engine.tick()
    storage().claim("w1", "default", 1, timedelta(seconds=60))

    engine.tick()
    assert Job.objects.running().count() == 1
    engine.leaks_at -= LEAK_LOOK_SECONDS
    engine.tick()

    assert Job.objects.ready().count() == 1


def test_leaks_are_looked_for_no_longer_than_a_lease_lasts(engine_of):
    engine = engine_of()
    now = time.monotonic()
    assert not engine.is_leak_look_due(now)

    engine.suspect_leaks()

    assert engine.is_leak_look_due(now + 59)
    assert not engine.is_leak_look_due(now + 61)


@pytest.mark.parametrize("error", [OperationalError("gone"), InternalError("read-only"), ProgrammingError("no column")])
def test_what_is_not_the_fault_of_an_outcome_buries_no_job(engine_of, monkeypatch, error):
    enqueue(1)
    engine = engine_of()
    engine.tick()
    hand_in(engine, take(engine)[0], Failed(ErrorReport(message="no"), retry_in=5.0))

    def failing(*args, **kwargs):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine.store, "settle", failing)
        with pytest.raises(type(error)):
            engine.settler.settle_all()
    engine.settler.settle_all()

    assert Job.objects.get().state == State.SCHEDULED


@pytest.mark.django_db(transaction=True)
def test_outcome_that_the_database_refuses_does_not_hold_up_its_neighbours(engine_of, vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite stores any text")
    enqueue(2)
    engine = engine_of()
    engine.tick()
    bad, good = take(engine)

    hand_in(engine, bad, Succeeded('"\\u0000"'))
    hand_in(engine, good)
    engine.settler.settle_all()

    assert Job.objects.get(pk=good.id).state == State.SUCCEEDED
    assert Job.objects.get(pk=bad.id).state == State.DEAD
    assert DeadLetter.objects.get().reason == "permanent_error"


def test_draining_engine_gives_back_what_never_started_with_nothing_charged(engine_of):
    enqueue(3)
    engine = engine_of()
    engine.tick()
    running = engine.threads.buffer.popleft()

    engine.drain(grace_seconds=10)
    engine.tick()

    assert Job.objects.get(pk=running.id).state == State.RUNNING
    assert Job.objects.ready().count() == 2
    assert [(job.attempts, job.crashes, job.worker_ids) for job in Job.objects.ready()] == [(0, 0, [])] * 2
    assert not Attempt.objects.exists()


def test_lease_that_waits_too_long_for_a_thread_is_released_for_others(engine_of):
    enqueue(2)
    engine = engine_of()
    engine.tick()
    leases = [lease._replace(claimed_monotonic=time.monotonic() - 60) for lease in take(engine)]
    engine.threads.put(leases, crew=1)

    engine.release_stale()

    assert Job.objects.ready().count() == 2
    assert engine.held == {}


def test_coroutine_that_waits_too_long_for_a_slot_is_released_for_others(engine_of):
    enqueue(2, tasks.aadd)
    engine = engine_of()
    engine.loop.put = engine.loop.waiting.extend
    engine.tick()
    leases = [lease._replace(claimed_monotonic=time.monotonic() - 60) for lease in engine.loop.take_unstarted()]
    engine.loop.waiting.extend(leases)

    assert engine.release_stale()

    assert len(leases) == Job.objects.ready().count() == 2
    assert engine.held == {}


def test_engine_that_has_no_room_does_not_look_again_and_again_when_woken(engine_of):
    enqueue(3)
    engine = engine_of()
    engine.tick()
    engine.woken({"default"})

    assert engine.tick() == BUSY_SECONDS


def test_lease_that_a_slow_database_has_just_given_is_not_given_back(engine_of):
    enqueue(2)
    engine = engine_of()
    engine.tick()
    leases = [lease._replace(claimed_monotonic=time.monotonic() - 6) for lease in take(engine)]
    engine.threads.put(leases, crew=1)
    engine.claim_took = 5.9

    engine.release_stale()

    assert Job.objects.running().count() == 2


def test_claim_that_fails_for_reasons_of_its_own_is_left_to_the_loop_that_backs_off(engine_of, monkeypatch):
    enqueue(1)
    engine = engine_of()

    def broken(*args, **kwargs):
        raise ProgrammingError("there is no table")

    monkeypatch.setattr(engine.store, "exchange", broken)

    with pytest.raises(ProgrammingError):
        engine.tick()


def test_nothing_is_claimed_while_receivers_are_behind(engine_of):
    enqueue(1)
    engine = engine_of()
    engine.announcer.behind = True

    assert engine.tick() == BUSY_SECONDS
    assert not Job.objects.running().exists()

    engine.announcer.behind = False
    engine.tick()
    assert Job.objects.running().count() == 1


def test_max_jobs_bounds_what_is_claimed_and_ends_the_engine(engine_of):
    enqueue(5)
    engine = engine_of(max_jobs=1)
    engine.tick()
    [lease] = take(engine)
    engine.tick()
    assert Job.objects.running().count() == 1

    hand_in(engine, lease)
    engine.tick()

    assert engine.draining
    assert Job.objects.ready().count() == 4


def test_released_job_does_not_count_against_max_jobs(engine_of):
    enqueue(1)
    engine = engine_of(max_jobs=1)
    engine.tick()

    engine.give_back(take(engine))

    assert engine.claimed == 0


def test_solo_engine_claims_one_suspect_and_no_other_job(engine_of):
    enqueue(4)
    Job.objects.filter(pk__in=Job.objects.order_by("pk")[:2]).update(suspect=True)
    engine = engine_of(solo=True)

    engine.tick()

    assert list(Job.objects.running().values_list("suspect", flat=True)) == [True]


def test_engine_claims_from_its_queues_only_and_not_from_paused_ones(engine_of):
    enqueue(1)
    tasks.add.using(queue_name="email").enqueue(1)
    engine_of(queues=["email"]).tick()
    assert list(Job.objects.running().values_list("queue_name", flat=True)) == ["email"]

    Queue.objects.create(name="default", paused=True)
    engine_of(worker_id="w2").tick()
    assert Job.objects.running().count() == 1


def test_a_woken_engine_looks_again_for_as_long_as_a_notification_may_be_swallowed(engine_of):
    engine = engine_of()
    engine.tick()
    engine.claimer.poll_at = time.monotonic() + 60
    engine.claimer.rest.note(0.0)
    enqueue(1)

    engine.woken()

    assert engine.bell.is_set()
    assert engine.tick() < 0.1
    assert Job.objects.running().count() == 1


def test_each_step_of_a_tick_may_take_the_whole_patience(engine_of, monkeypatch):
    engine = engine_of()
    enqueue(2)
    begun = []
    exchange = engine.exchange
    monkeypatch.setattr(engine, "exchange", lambda claims: (begun.append(engine.patience.waits), exchange(claims)))

    with engine.patience.waiting("default"):
        engine.tick()

    assert len(begun) == 2
    assert begun[0] < begun[1], "each begins to count anew"


def test_a_watchdog_that_rests_with_its_engine_is_roused_by_its_first_jobs(engine_of):
    engine = engine_of()
    watchdog = Watchdog(engine, Heartbeat(engine, storage(), 20.0))
    assert watchdog.tick() == LOOK_SECONDS
    engine.tick()
    assert not engine.roused.is_set()

    engine.idle_since -= 2 * REST_SECONDS
    assert watchdog.tick() == IDLE_LOOK_SECONDS
    enqueue(1)
    engine.woken(["default"])
    engine.tick()

    assert engine.roused.is_set()
    assert watchdog.tick() == LOOK_SECONDS


def test_an_engine_that_has_hardly_rested_rouses_nobody(engine_of):
    engine = engine_of()
    enqueue(1)

    engine.tick()

    assert engine.held
    assert not engine.roused.is_set()


def test_news_do_not_cut_the_pause_after_a_failure_short(engine_of):
    engine = engine_of()
    ringing = threading.Event()

    def ring():
        while not ringing.wait(0.01):
            engine.woken()

    thread = threading.Thread(target=ring)
    thread.start()
    try:
        began = time.monotonic()
        engine.hold_off(0.3)
        assert time.monotonic() - began >= 0.3
    finally:
        ringing.set()
        thread.join()


def test_an_order_to_drain_cuts_the_pause_after_a_failure_short(engine_of):
    engine = engine_of()
    threading.Timer(0.05, engine.drain, [10.0]).start()
    began = time.monotonic()

    engine.hold_off(60.0)

    assert time.monotonic() - began < 30


# Limited queues


@pytest.fixture
def limited(settings):
    """Limit the queue `default`, as the settings do."""

    def limit(**given):
        queues = {"default": given} if given else {}
        settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": {"queues": queues}}}

    return limit


def test_a_limited_queue_is_claimed_as_far_as_it_may_run_and_on_as_soon_as_a_job_is_written(engine_of, limited):
    limited(max_running=1)
    enqueue(3)
    engine = engine_of()

    engine.tick()
    [lease] = take(engine)
    engine.tick()
    assert take(engine) == []

    engine.desk.hand_in(Finished(lease, Succeeded("1"), time.monotonic(), time.monotonic()), dry=False)
    engine.tick()
    engine.tick()
    assert len(take(engine)) == 1


def test_what_a_worker_that_knew_of_no_limit_yet_has_claimed_is_counted_within_a_second(engine_of, limited):
    limited(max_running=2)
    enqueue(6)
    engine = engine_of(threads=9)
    engine.tick()
    first = take(engine)
    assert len(first) == 2
    storage().claim("another", "default", 2, timedelta(seconds=60))
    for lease in first:
        engine.desk.hand_in(Finished(lease, Succeeded("1"), time.monotonic(), time.monotonic()), dry=False)

    engine.claimer.recounts["default"].last_at -= LEARN_SECONDS
    for _ in range(3):
        engine.tick()

    assert take(engine) == []


def test_what_ran_before_a_limit_counts_until_the_last_of_it_has_ended(engine_of, limited):
    """More than the limit: each that ends makes room for none that waits."""
    enqueue(9)
    old = storage().claim("another", "default", 5, timedelta(seconds=60))
    limited(max_running=2)
    engine = engine_of(threads=9)
    engine.tick()

    for lease in old[:3]:
        assert take(engine) == []
        storage().settle([settlement(lease, Succeeded(), lease.claimed_at, lease.claimed_at)])
        for _ in range(3):
            engine.tick()

    assert take(engine) == []
    storage().settle([settlement(lease, Succeeded(), lease.claimed_at, lease.claimed_at) for lease in old[3:]])
    engine.claimer.poll_at = 0.0
    time.sleep(0.2)
    engine.tick()
    assert len(take(engine)) == 2


def test_what_a_rate_alone_has_let_in_counts_as_soon_as_there_is_a_limit_of_what_runs(engine_of, limited):
    limited(rate_limit=100)
    enqueue(9)
    engine = engine_of(threads=3)
    engine.tick()
    assert len(take(engine)) == 3

    limited(rate_limit=100, max_running=3)
    engine_two = engine_of(worker_id="w2", threads=3)
    for each in (engine_two, engine):
        for _ in range(3):
            each.tick()
        assert take(each) == []


def test_a_limited_queue_is_never_claimed_ahead_of_threads(engine_of, limited):
    limited(rate_limit=100)
    enqueue(10)
    engine = engine_of()
    engine.pace.observe(0.001, 500)

    for _ in range(4):
        engine.tick()

    assert len(engine.threads.buffer) == len(engine.held) == engine.plan.threads
    assert engine.claimer.next_look_at() > time.monotonic()


def test_a_claim_that_a_limit_puts_off_is_counted(engine_of, limited):
    limited(max_running=1)
    enqueue(3)
    engine = engine_of(threads=3)

    for _ in range(3):
        engine.tick()

    assert engine.tally.events["limited", "", "default"] >= 1


def test_what_others_have_waiting_keeps_no_thread_from_a_limited_queue(engine_of, limited):
    for _ in range(50):
        tasks.add.using(queue_name="email").enqueue(1)
    engine = engine_of()
    engine.pace.observe(0.001, 500)
    engine.tick()
    assert len(engine.threads.buffer) > engine.plan.threads

    limited(rate_limit=100)
    enqueue(5)
    engine.claimer.call(["default"], time.monotonic() + 1)
    engine.tick()
    engine.tick()

    assert [lease.queue_name for lease in take(engine)][:3] == ["default", "default", "email"]


def test_a_grant_that_does_not_begin_at_once_is_given_back(engine_of, limited):
    limited(rate_limit=100)
    enqueue(2)
    engine = engine_of()
    engine.tick()
    first, second = take(engine)
    answered_at = engine.desk.start_by[first.key] - GRANT_SECONDS

    assert engine.desk.may_start(first, answered_at + 0.09)
    assert not engine.desk.may_start(second, answered_at + 0.11)
    assert not engine.desk.start_by


def test_a_process_for_suspects_waits_for_a_limited_queue(engine_of, limited):
    limited(rate_limit=1, rate_period=60)
    enqueue(2)
    Job.objects.update(suspect=True)
    engine = engine_of(solo=True, poll_seconds=0.01)
    engine.tick()
    [lease] = take(engine)
    hand_in(engine, lease)
    engine.tick()
    engine.tick()
    time.sleep(0.05)

    assert not engine.has_served()


def test_what_is_claimed_once_a_limit_is_lifted_may_wait(engine_of, limited):
    limited(rate_limit=100)
    enqueue(5)
    engine = engine_of()
    engine.tick()
    for lease in take(engine):
        hand_in(engine, lease)

    limited()
    engine.tick()
    engine.tick()

    lease, *_ = take(engine)
    assert engine.desk.may_start(lease, lease.claimed_monotonic + 0.5)


def test_a_row_that_is_locked_costs_a_limited_queue_a_moment_and_no_other_anything(engine_of, limited, monkeypatch):
    limited(max_running=5)
    enqueue(1)
    tasks.add.using(queue_name="email").enqueue(1)
    engine = engine_of()

    def locked(*args):
        error = OperationalError("lock timeout")
        error.__cause__ = Exception()
        error.__cause__.sqlstate = "55P03"
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine.store, "take_limited", locked)
        engine.tick()
        engine.tick()
    assert [lease.queue_name for lease in take(engine)] == ["email"]
    assert engine.claimer.next_look_at() - time.monotonic() < 2 * BUSY_SECONDS

    time.sleep(2 * BUSY_SECONDS)
    engine.tick()
    assert [lease.queue_name for lease in take(engine)] == ["default"]


# Breakers

DOWN = Snoozed(10, ErrorReport("tests.LineDown", "the line is down"))


def test_a_tripped_queue_gives_back_what_has_not_started_and_keeps_the_jobs_of_others(engine_of):
    enqueue(3, tasks.call_out)
    enqueue(2)
    engine = engine_of(threads=5)
    while len(engine.held) < 5:
        engine.tick()
    leases = take(engine)
    calls = [lease for lease in leases if lease.queue_name == "email"]
    rest = [lease for lease in leases if lease not in calls[:2]]
    engine.threads.put(rest, 0)
    for lease in calls[:2]:
        hand_in(engine, lease, DOWN)

    engine.tick()

    assert {lease.queue_name for lease in take(engine)} == {"default"}
    assert not Job.objects.running().filter(queue_name="email").exists()
    assert Queue.objects.get(name="email").paused
    assert engine.tally.events["tripped", "tests.tasks.call_out", "email"] == 1


def test_an_engine_tries_a_job_of_a_tripped_queue_and_opens_it(engine_of):
    enqueue(2, tasks.call_out)
    trip = {"task_path": "tests.tasks.call_out", "reason": "down", "probe": timedelta(seconds=60)}
    lifecycle.trip("email", **trip)
    engine = engine_of(threads=5)
    engine.tick()
    assert take(engine) == []

    Queue.objects.update(probe_at=storage().now())
    engine.claimer.probed_at = float("-inf")
    engine.tick()
    (tried,) = take(engine)
    hand_in(engine, tried)
    engine.tick()

    assert not Queue.objects.get(name="email").paused
    engine.woken(["email"])
    engine.tick()
    assert len(take(engine)) == 1


@pytest.mark.parametrize("seconds", [0.005, 5.0])
def test_a_tripped_queue_is_tried_although_others_have_a_backlog(engine_of, seconds):
    enqueue(40)
    tasks.call_out.enqueue()
    lifecycle.trip("email", task_path="tests.tasks.call_out", reason="down", probe=timedelta(seconds=60))
    engine = engine_of(threads=2)
    engine.pace.observe(seconds, 1)
    while len(engine.threads.buffer) < 2:
        engine.tick()
    running = [engine.threads.buffer.popleft() for _ in range(2)]
    Queue.objects.update(probe_at=storage().now())
    engine.claimer.probed_at = float("-inf")

    hand_in(engine, running[0])
    for _ in range(2):
        engine.tick()

    assert engine.threads.buffer[0].queue_name == "email"


def test_a_database_that_fails_while_leases_are_given_back_leaves_none_in_nobody_s_hands(engine_of, monkeypatch):
    enqueue(3, tasks.call_out)
    enqueue(2)
    engine = engine_of(threads=5)
    while len(engine.held) < 5:
        engine.tick()
    engine.breakers.tripped = {"email"}

    def gone(*given):
        raise OperationalError("server closed the connection")

    with monkeypatch.context() as patch:
        patch.setattr(engine.store, "settle", gone)
        with pytest.raises(OperationalError):
            engine.heed_breakers()
    assert {lease.queue_name for lease in engine.threads.buffer} == {"default"}
    engine.tick()

    assert not Job.objects.running().filter(queue_name="email", lease_token=1).exists()
    assert all(lease.queue_name == "default" or lease.token == 2 for lease in engine.held.values())


@pytest.mark.django_db(transaction=True)
def test_a_queue_row_that_somebody_has_locked_holds_up_no_engine(engine_of, vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite locks no rows")
    Queue.objects.create(name="email")
    enqueue(2, tasks.call_out)
    engine = engine_of(threads=5)
    engine.tick()
    for lease in take(engine):
        hand_in(engine, lease, DOWN)
    other = connections["default"].copy()
    with closing(other):
        other.set_autocommit(False)
        other.cursor().execute("SELECT 1 FROM jobs_queue FOR UPDATE")
        engine.tick()
        # It is not asked for at every round while it is locked.
        began = time.monotonic()
        engine.tick()
        assert time.monotonic() - began < 0.2
        other.rollback()
    assert not Queue.objects.get(name="email").paused

    engine.breakers.locked_until = 0.0
    engine.tick()

    assert Queue.objects.get(name="email").paused
