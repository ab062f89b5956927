"""`once` and `idempotency_key`: an effect happens once however often its job is delivered."""

import threading
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, transaction
from django.db.models import F

from jobs import Snooze, Uncertain, idempotency, once
from jobs.conf import Options
from jobs.exceptions import LeaseLost, TimedOut
from jobs.idempotency import Guard
from jobs.models import DeadLetter, IdempotencyRecord, Job
from jobs.runs import Run, ThreadGate, current_run
from jobs.states import RecordState, State
from jobs.storage import storage
from jobs.testing import run_jobs
from tests import tasks
from tests.gates import RecordingGate

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)
OPTIONS = Options()


class Effect:
    """Work that counts how often it happened."""

    def __init__(self, result="receipt", error=None):
        self.result, self.error, self.times = result, error, 0

    def __call__(self):
        self.times += 1
        if self.error:
            raise self.error
        return self.result


@pytest.fixture(autouse=True)
def nothing_done():
    tasks.done.clear()


@pytest.fixture
def run():
    """A job that is running, as a worker's thread sees it."""
    tasks.add.enqueue(1)
    [lease] = storage().claim("w1", "default", 1, LEASE)
    attempt = Run(lease, ThreadGate())
    token = current_run.set(attempt)
    yield attempt
    current_run.reset(token)


def record() -> IdempotencyRecord:
    return IdempotencyRecord.objects.get()


def lose_lease(attempt: Run) -> None:
    Job.objects.filter(pk=attempt.lease.id).update(state=State.READY, leased_by="", lease_expires_at=None)


def left_by_a_gone_worker(key: str = "k") -> IdempotencyRecord:
    """A record as it stands when a worker died between the effect and its record."""
    tasks.add.enqueue(1)
    [lease] = storage().claim("gone", "default", 1, LEASE)
    owner = f"job:{lease.id}:{lease.token}"
    kept = IdempotencyRecord.objects.create(
        key=key, state=RecordState.PROCESSING, owner=owner, job_id=lease.id, created_at=lease.claimed_at
    )
    Job.objects.filter(pk=lease.id).update(
        state=State.CANCELLED, finished_at=F("enqueued_at"), leased_by="", lease_expires_at=None
    )
    return kept


# The rule


def test_effect_happens_once_and_its_saved_result_is_returned_from_then_on():
    effect = Effect({"receipt": 7})

    results = [once("k", effect) for _ in range(3)]

    assert effect.times == 1
    assert results == [{"receipt": 7}] * 3
    assert (record().state, record().result, record().expires_at) == (RecordState.DONE, {"receipt": 7}, None)


def test_first_result_is_already_as_json_gives_it_back():
    assert once("k", Effect((1, 2))) == once("k", Effect()) == [1, 2]


def test_who_does_the_work_gets_its_secrets_and_the_record_does_not():
    effect = Effect({"id": 1, "client_secret": "hunter2"})

    assert once("k", effect) == {"id": 1, "client_secret": "hunter2"}
    assert once("k", effect) == {"id": 1, "client_secret": "[redacted]"}


def test_effect_without_a_result_happens_once_too():
    effect = Effect(None)

    assert [once("k", effect), once("k", effect)] == [None, None]
    assert effect.times == 1


def test_other_keys_are_other_effects():
    effect = Effect()

    once("a", effect)
    once("b", effect)

    assert effect.times == 2


def test_record_is_processing_while_the_work_runs():
    seen = []

    once("k", lambda: seen.append(record().state))

    assert seen == [RecordState.PROCESSING]


def test_record_names_the_job_that_caused_the_effect(run):
    once("k", Effect())

    assert (record().job_id, record().owner) == (run.lease.id, f"job:{run.lease.id}:{run.lease.token}")


def test_work_that_raises_leaves_no_record_so_that_a_retry_works():
    with pytest.raises(ValueError, match="declined"):
        once("k", Effect(error=ValueError("declined")))

    assert not IdempotencyRecord.objects.exists()
    assert once("k", Effect("second")) == "second"


@pytest.mark.parametrize("key", ["", "x" * 513, None, 7, "a\x00b"])
def test_key_that_cannot_be_stored_is_refused_before_the_work(key):
    effect = Effect()

    with pytest.raises(ImproperlyConfigured, match="key"):
        once(key, effect)

    assert effect.times == 0


def test_unknown_policy_is_refused():
    with pytest.raises(ImproperlyConfigured, match="on_uncertain"):
        once("k", Effect(), on_uncertain="ignore")


def test_once_nested_under_its_own_key_raises():
    with pytest.raises(ImproperlyConfigured, match="nested"):
        once("k", lambda: once("k", Effect()))

    assert not IdempotencyRecord.objects.exists()


def test_once_nested_under_another_key_is_fine():
    assert once("outer", lambda: once("inner", Effect(1)) + 1) == 2
    assert set(IdempotencyRecord.objects.values_list("key", "state")) == {("outer", "done"), ("inner", "done")}


def test_key_is_free_again_after_a_nested_error():
    with pytest.raises(ImproperlyConfigured):
        once("k", lambda: once("k", Effect()))

    assert once("k", Effect()) == "receipt"


def test_result_that_json_cannot_hold_raises_but_the_effect_counts_as_done():
    effect = Effect({1, 2})

    with pytest.raises(TypeError, match="return value"):
        once("k", effect)

    assert once("k", effect) is None
    assert effect.times == 1


# Time to live


@pytest.mark.parametrize("ttl", [3600, 3600.0, timedelta(hours=1)])
def test_record_expires_after_its_ttl_and_the_effect_may_happen_again(ttl):
    effect = Effect()
    once("k", effect, ttl=ttl)
    lives = record().expires_at - record().created_at
    assert timedelta(hours=1) <= lives < timedelta(hours=1, minutes=1)

    once("k", effect, ttl=ttl)
    assert effect.times == 1

    IdempotencyRecord.objects.update(expires_at=F("expires_at") - timedelta(hours=2))
    once("k", effect, ttl=ttl)
    assert effect.times == 2
    assert record().expires_at > storage().now()


def test_record_in_progress_never_expires():
    seen = []

    once("k", lambda: seen.append(record().expires_at), ttl=1)

    assert seen == [None]


# Uncertainty


def test_retry_takes_over_what_a_gone_worker_left(run):
    left_by_a_gone_worker()
    effect = Effect("again")

    assert once("k", effect) == "again"
    assert (effect.times, record().owner, record().job_id) == (1, run.owner, run.lease.id)


def test_dead_leaves_what_a_gone_worker_left_to_a_person(run):
    kept = left_by_a_gone_worker()
    effect = Effect()

    with pytest.raises(Uncertain, match="gone") as doubt:
        once("k", effect, on_uncertain="dead")

    assert effect.times == 0
    assert (doubt.value.key, doubt.value.retryable) == ("k", False)
    assert (record().state, record().owner) == (RecordState.PROCESSING, kept.owner)


def test_live_owner_elsewhere_means_come_back_later(run):
    tasks.add.enqueue(1)
    [other] = storage().claim("w2", "default", 1, LEASE)
    IdempotencyRecord.objects.create(
        key="k", state=RecordState.PROCESSING, owner=f"job:{other.id}:{other.token}", created_at=other.claimed_at
    )
    effect = Effect()

    with pytest.raises(Snooze):
        once("k", effect)

    assert effect.times == 0


def test_owner_outside_of_a_job_is_alive_until_locked_until():
    moment = storage().now()
    IdempotencyRecord.objects.create(
        key="k", state=RecordState.PROCESSING, owner="free:1", created_at=moment, locked_until=moment + LEASE
    )
    with pytest.raises(Snooze):
        once("k", Effect())

    IdempotencyRecord.objects.update(locked_until=moment - LEASE)
    assert once("k", Effect()) == "receipt"


def test_an_earlier_lease_of_the_same_job_is_not_a_live_owner(run):
    owner = f"job:{run.lease.id}:{run.lease.token - 1}"
    IdempotencyRecord.objects.create(
        key="k", state=RecordState.PROCESSING, owner=owner, created_at=run.lease.claimed_at
    )

    assert once("k", Effect()) == "receipt"


@pytest.mark.parametrize(("policy", "retryable"), [("retry", True), ("dead", False)])
def test_uncertain_work_leaves_the_record_in_doubt_and_carries_the_tasks_choice(run, policy, retryable):
    with pytest.raises(Uncertain) as doubt:
        once("k", Effect(error=Uncertain("after the data")), on_uncertain=policy)

    assert (doubt.value.key, doubt.value.retryable) == ("k", retryable)
    assert record().state == RecordState.PROCESSING


@pytest.mark.parametrize("interruption", [TimedOut("too long"), LeaseLost("gone"), KeyboardInterrupt(), SystemExit()])
def test_interruption_counts_as_uncertain_because_the_effect_may_have_happened(run, interruption):
    with pytest.raises(Uncertain) as doubt:
        once("k", Effect(error=interruption), on_uncertain="dead")

    assert doubt.value.__cause__ is interruption
    assert record().state == RecordState.PROCESSING


def test_interruption_is_passed_on_where_a_retry_may_take_over(run):
    with pytest.raises(TimedOut):
        once("k", Effect(error=TimedOut("too long")), on_uncertain="retry")

    assert record().state == RecordState.PROCESSING


def test_effect_does_not_begin_once_the_lease_is_lost(run):
    lose_lease(run)
    effect = Effect()

    with pytest.raises(LeaseLost):
        once("k", effect)

    assert (effect.times, IdempotencyRecord.objects.count()) == (0, 0)


def test_record_taken_over_by_another_owner_is_not_overwritten(run):
    def work():
        IdempotencyRecord.objects.update(owner="job:999:1")

    with pytest.raises(LeaseLost, match="another owner"):
        once("k", work)

    assert (record().state, record().owner) == (RecordState.PROCESSING, "job:999:1")


def test_failed_work_does_not_remove_a_record_that_was_taken_over(run):
    def work():
        IdempotencyRecord.objects.update(owner="job:999:1")
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        once("k", work)

    assert record().owner == "job:999:1"


def test_effect_whose_record_cannot_be_written_is_uncertain(run, monkeypatch):
    def unwritable(self, saved):
        raise OperationalError("the server is gone")

    monkeypatch.setattr(Guard, "update_done", unwritable)
    monkeypatch.setattr(idempotency.time, "sleep", lambda seconds: None)

    with pytest.raises(Uncertain, match="happened") as doubt:
        once("k", Effect(), on_uncertain="dead")

    assert (doubt.value.key, doubt.value.retryable) == ("k", False)
    assert record().state == RecordState.PROCESSING


# Inside a transaction


def test_a_test_cases_own_block_does_not_count_as_a_transaction():
    assert connection.in_atomic_block

    once("k", Effect(), on_uncertain="dead")

    assert record().state == RecordState.DONE


def test_record_rolls_back_with_the_block_and_the_effects_rows():
    def work():
        return Group.objects.create(name="written").name

    with transaction.atomic():
        once("k", work)
        transaction.set_rollback(True)

    assert not Group.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_record_commits_with_the_block_and_the_effects_rows():
    effect = Effect()
    with transaction.atomic():
        once("k", effect)

    assert once("k", effect) == "receipt"
    assert (effect.times, record().state) == (1, RecordState.DONE)


def test_work_that_raises_in_a_block_takes_its_own_rows_back_and_leaves_the_block_usable():
    def work():
        Group.objects.create(name="half")
        raise ValueError("declined")

    with transaction.atomic():
        with pytest.raises(ValueError, match="declined"):
            once("k", work)
        Group.objects.create(name="kept")

    assert list(Group.objects.values_list("name", flat=True)) == ["kept"]
    assert not IdempotencyRecord.objects.exists()


def test_on_uncertain_inside_a_block_is_an_error_that_names_the_block():
    with pytest.raises(ImproperlyConfigured, match=r"transaction\.atomic"), transaction.atomic():
        once("k", Effect(), on_uncertain="dead")


def test_uncertain_inside_a_block_is_an_error_that_names_the_block():
    with pytest.raises(ImproperlyConfigured, match=r"transaction\.atomic"), transaction.atomic():
        once("k", Effect(error=Uncertain()))

    assert not IdempotencyRecord.objects.exists()


# Races, with real connections


def racers(count: int, act) -> None:
    """Let threads, each with a connection of its own, begin at the same moment."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def one() -> None:
        try:
            start.wait()
            act()
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]


@pytest.mark.django_db(transaction=True)
def test_of_racing_duplicates_one_causes_the_effect_and_the_others_come_back_later():
    happened, results, snoozed = [], [], []
    gate = threading.Event()

    def work():
        happened.append(1)
        gate.wait(30)
        return "receipt"

    def act():
        try:
            results.append(once("k", work))
        except Snooze:
            snoozed.append(1)
            if len(snoozed) == 7:
                gate.set()

    racers(8, act)

    assert (len(happened), results, len(snoozed)) == (1, ["receipt"], 7)


@pytest.mark.django_db(transaction=True)
def test_racing_duplicates_in_transactions_cause_the_effect_once():
    results = []

    def act():
        with transaction.atomic():
            results.append(once("k", lambda: Group.objects.create(name=str(uuid.uuid4())).name))

    racers(6, act)

    assert Group.objects.count() == 1
    assert results == [Group.objects.get().name] * 6


@pytest.mark.django_db(transaction=True)
def test_record_is_committed_before_the_effect_begins():
    seen = []

    def look():
        seen.append(IdempotencyRecord.objects.values_list("state", flat=True).first())
        connection.close()

    def work():
        other = threading.Thread(target=look)
        other.start()
        other.join()

    once("k", work, on_uncertain="dead")

    assert seen == [RecordState.PROCESSING]


@pytest.mark.django_db(transaction=True)
def test_connection_lost_after_the_effect_is_opened_again_for_the_record(monkeypatch):
    monkeypatch.setattr(idempotency.time, "sleep", lambda seconds: None)
    write, failures = Guard.update_done, []

    def fails_once(self, saved):
        if not failures:
            failures.append(1)
            raise OperationalError("the server is gone")
        write(self, saved)

    monkeypatch.setattr(Guard, "update_done", fails_once)
    effect = Effect()

    assert once("k", effect) == "receipt"
    assert (effect.times, record().state) == (1, RecordState.DONE)


# Interruptions: nothing is injected while a record is written


def test_interruption_during_the_write_of_the_record_waits_until_it_is_written(run, monkeypatch):
    run.gate = gate = RecordingGate()
    write = Guard.update_done

    def interrupted(self, saved):
        run.gate.interrupt(TimedOut("too long"))
        write(self, saved)

    monkeypatch.setattr(Guard, "update_done", interrupted)

    with pytest.raises(TimedOut):
        once("k", Effect())

    assert (gate.delivered, record().state) == ([], RecordState.DONE)


def test_interruption_during_the_first_write_stops_before_the_effect(run, monkeypatch):
    run.gate = gate = RecordingGate()
    claim, effect = Guard.claim, Effect()

    def interrupted(self):
        run.gate.interrupt(TimedOut("too long"))
        return claim(self)

    monkeypatch.setattr(Guard, "claim", interrupted)

    with pytest.raises(TimedOut):
        once("k", effect)

    assert (gate.delivered, effect.times) == ([], 0)


def test_interruption_on_its_way_when_the_work_ends_waits_for_the_record(run):
    run.gate = gate = RecordingGate()

    with pytest.raises(TimedOut):
        once("k", lambda: run.gate.interrupt(TimedOut("too long")))

    assert (gate.delivered, record().state) == ([TimedOut], RecordState.DONE)


def test_interruption_inside_the_work_reaches_it_in_a_real_thread(run):
    def work():
        run.gate.interrupt(TimedOut("too long"))
        for _ in range(1000):
            pass
        raise AssertionError("not interrupted")

    with pytest.raises(Uncertain) as doubt:
        once("k", work, on_uncertain="dead")

    assert isinstance(doubt.value.__cause__, TimedOut)
    assert record().state == RecordState.PROCESSING


# The option `idempotency_key`


def test_duplicates_are_both_enqueued_and_the_effect_happens_once():
    first, second = tasks.charge.enqueue(7), tasks.charge.enqueue(7)

    run_jobs()

    first.refresh()
    second.refresh()
    assert tasks.done == [7]
    assert (first.return_value, second.return_value) == ("receipt 7", "receipt 7")
    assert record().key == "tests.tasks.charge|charge:7"


def test_other_tasks_with_the_same_key_have_their_own_effect():
    tasks.charge.enqueue(7)
    tasks.charge_for_a_person.enqueue(7)

    run_jobs()

    assert tasks.done == [7, 7]


def test_worker_gone_between_effect_and_record_sends_a_careful_job_to_a_person():
    left_by_a_gone_worker("tests.tasks.charge_for_a_person|charge:7")
    result = tasks.charge_for_a_person.enqueue(7)

    run_jobs()

    letter = DeadLetter.objects.get()
    assert (letter.reason, str(letter.job_id)) == ("uncertain", result.id)
    assert letter.record_key == "tests.tasks.charge_for_a_person|charge:7"
    assert tasks.done == []


def test_worker_gone_between_effect_and_record_lets_another_job_repeat_the_effect():
    left_by_a_gone_worker("tests.tasks.charge|charge:7")
    tasks.charge.enqueue(7)

    run_jobs()

    assert tasks.done == [7]
    assert record().state == RecordState.DONE


def test_task_that_raises_uncertain_is_dead_at_once_when_it_chose_so():
    tasks.charge_for_a_person.enqueue(7, how="uncertain")

    run_jobs(advance=True)

    assert tasks.done == [7]
    assert DeadLetter.objects.get().reason == "uncertain"


def test_job_that_fails_leaves_no_record_and_is_retried():
    tasks.charge_for_a_person.using(max_attempts=2).enqueue(7, how="fails")

    run_jobs(advance=True)

    assert tasks.done == [7, 7]
    assert not IdempotencyRecord.objects.exists()


def test_transactional_task_commits_its_record_with_its_rows():
    for _ in range(2):
        tasks.write_once.enqueue("a")

    run_jobs()

    assert Group.objects.count() == 1
    assert set(Job.objects.values_list("state", "return_value")) == {("succeeded", Group.objects.get().pk)}


def test_transactional_task_that_fails_takes_its_record_back():
    tasks.write_once.using(max_attempts=1).enqueue("a", then="raise")

    run_jobs()

    assert not Group.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_snooze_because_of_a_live_owner_spends_no_attempt():
    moment = storage().now()
    IdempotencyRecord.objects.create(
        key="tests.tasks.charge|charge:7",
        state=RecordState.PROCESSING,
        owner="free:1",
        created_at=moment,
        locked_until=moment + LEASE,
    )
    tasks.charge.enqueue(7)

    run_jobs()

    job = Job.objects.get()
    assert (job.state, job.attempts, job.idempotency_key) == (State.SCHEDULED, 0, "charge:7")
