"""What every storage promises: one suite, run on the database's own storage and on the portable one beneath it."""

import functools
import gc
import json
import sqlite3
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest
from django.db import DatabaseError, DataError, OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import F

from jobs.leases import Lease
from jobs.models import Attempt, DeadLetter, ErrorGroup, Grant, IdempotencyRecord, Job, Queue, Schedule
from jobs.outcomes import (
    Buried,
    Cancelled,
    ErrorReport,
    Failed,
    Interrupted,
    Lost,
    Released,
    Snoozed,
    Succeeded,
    Success,
)
from jobs.states import Reason, RecordState, State
from jobs.storage import ANY_QUEUE, Claim, Keys, NewJob, Place, QueueIsBounded, Storage, storage
from jobs.storage.base import portions
from jobs.storage.cursors import MAKES, Direct
from jobs.verdicts import settlement
from tests.admin.rows import a_dead_letter, a_job, a_record

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)
WEEK = timedelta(days=7)
KEEP = {"succeeded": WEEK, "cancelled": WEEK, "dead": 10 * WEEK}
ERROR = ErrorReport("builtins.ValueError", "no customer 7", "Traceback: no customer 7")
ANYTHING: object = object()


class Portable(Storage):
    """The portable storage on the clock of the database under test: that one line differs on each of them."""

    def now(self) -> datetime:
        return storage().now()


@pytest.fixture(params=["own", "portable"])
def store(request) -> Storage:
    return storage() if request.param == "own" else Portable("default")


def new(**fields) -> NewJob:
    values = {
        "task_path": "tests.tasks.add",
        "backend": "default",
        "queue_name": "default",
        "priority": 0,
        "args": "[]",
        "kwargs": "{}",
        "schema_version": 1,
        "max_attempts": 5,
        "max_crashes": 3,
    }
    return NewJob(**values | fields)


def add(store: Storage, **fields) -> int:
    return store.insert([new(**fields)])[0].id


def claim(store: Storage, limit: int = 10, worker: str = "w1", queue: str = "default", **more) -> list[Lease]:
    return store.claim(worker, queue, limit, LEASE, **more)


def claimed(store: Storage, **fields) -> Lease:
    add(store, **fields)
    [lease] = claim(store, queue=fields.get("queue_name", "default"))
    return lease


def row_for(lease: Lease, outcome):
    return settlement(lease, outcome, lease.claimed_at, lease.claimed_at + timedelta(seconds=1))


def settle(store: Storage, lease: Lease, outcome, **more) -> set[int]:
    return store.settle([row_for(lease, outcome)], **more)


def success(lease: Lease, value: str | None = None) -> Success:
    return Success(lease, value, 0.25, 1.5)


def age(seconds: float = 3600, column: str = "lease_expires_at", **which) -> None:
    """Let time pass for rows: tests do not wait."""
    Job.objects.filter(**which).update(**{column: F(column) - timedelta(seconds=seconds)})


def state_of(job_id: int) -> str:
    return Job.objects.get(pk=job_id).state


# Insert


def test_inserted_job_has_what_was_asked_and_is_ready(store):
    row = new(args="[1]", kwargs='{"b": "ü"}', priority=7, timeout=timedelta(seconds=9), idempotency_key="k")

    [inserted] = store.insert([row])

    job = Job.objects.get(pk=inserted.id)
    assert (job.args, job.kwargs, job.priority, job.timeout) == ([1], {"b": "ü"}, 7, timedelta(seconds=9))
    assert (job.state, job.attempts, job.lease_token, job.idempotency_key) == (State.READY, 0, 0, "k")
    assert job.ready_at == job.enqueued_at == inserted.enqueued_at
    assert job.worker_ids == []


@pytest.mark.parametrize("text", ["50 % of %s", "%(kwargs)s", "O'Hara", "back\\slash", "{name}", "$1", "a -- b"])
def test_text_of_a_task_that_means_something_in_sql_is_stored_as_it_is(store, text):
    names = {"queue_name": text, "task_path": text, "idempotency_key": text}

    [inserted] = store.insert([new(**names, priority=-5, timeout=timedelta(seconds=1.5))])

    job = Job.objects.get(pk=inserted.id)
    assert {name: getattr(job, name) for name in names} == names
    assert (job.priority, job.timeout) == (-5, timedelta(seconds=1.5))


@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Asia/Kathmandu")])
def test_the_moment_of_insertion_is_that_of_the_row_whatever_the_time_zone(store, zone, monkeypatch):
    monkeypatch.setitem(connection.__dict__, "timezone", zone)

    [inserted] = store.insert([new()])

    assert inserted.enqueued_at == Job.objects.values_list("enqueued_at", flat=True).get(pk=inserted.id)


def test_many_are_inserted_in_the_order_given(store):
    inserted = store.insert([new(args=f"[{n}]") for n in range(50)])

    assert [Job.objects.get(pk=row.id).args for row in inserted] == [[n] for n in range(50)]
    assert [row.id for row in inserted] == sorted(row.id for row in inserted)


def test_payloads_too_large_for_one_statement_are_inserted_by_several_in_order(store, monkeypatch):
    monkeypatch.setattr("jobs.storage.base.PORTION_CHARACTERS", 20)
    texts = [f'{{"n":{n}}}' for n in range(9)] + ['{"n":"' + "x" * 50 + '"}'] + ['{"n":10}']
    keys = [f"key-{n}" for n in range(len(texts))]

    inserted = store.insert_many(new(), texts, Keys(idempotency=keys))

    jobs = [Job.objects.get(pk=row.id) for row in inserted]
    assert [job.kwargs for job in jobs] == [json.loads(text) for text in texts]
    assert [job.idempotency_key for job in jobs] == keys
    assert [row.id for row in inserted] == sorted(row.id for row in inserted)


@pytest.mark.parametrize(
    ("sizes", "count", "cuts"),
    [
        ([], 3, []),
        ([1] * 7, 3, [3, 3, 1]),
        ([4, 4, 4, 4], 9, [2, 2]),
        ([50, 1, 50], 9, [1, 1, 1]),
        ([1, 9, 1], 9, [2, 1]),
    ],
)
def test_payloads_are_cut_by_their_number_and_by_their_size(sizes, count, cuts, monkeypatch):
    monkeypatch.setattr("jobs.storage.base.PORTION_CHARACTERS", 10)

    parts = list(portions(["x" * size for size in sizes], count))

    assert [part.stop - part.start for part in parts] == cuts
    assert [part.start for part in parts] == [sum(cuts[:n]) for n in range(len(cuts))]


ADDING = {
    "one": lambda store, job: store.insert([job]),
    "unless held": lambda store, job: store.insert_unless_held(job._replace(dedupe_key="k")),
    "many": lambda store, job: store.insert_many(job, ["{}", "{}"]),
    "many unless held": lambda store, job: store.insert_many_unless_held(
        job, ["{}", "{}"], Keys(dedupe=["k", "l"], idempotency=["i", "j"])
    ),
}


@pytest.mark.parametrize("way", ADDING)
@pytest.mark.parametrize("fields", [{}, {"group_key": "g", "delay": timedelta()}])
def test_what_is_not_to_go_into_a_bounded_queue_unasked_does_not(store, way, fields):
    add, job = ADDING[way], new(unless_bounded=True, **fields)
    Queue.objects.create(name="other", max_depth=1)
    Queue.objects.create(name="default", rate_limit=1, max_running=1)
    add(store, job)
    count = Job.objects.count()
    assert count in (1, 2)
    Job.objects.update(dedupe_key="", dedupe_lock=None)

    for bound in ({"max_depth": 1}, {"max_depth": None, "max_age": WEEK}):
        Queue.objects.filter(name="default").update(**bound)
        with pytest.raises(QueueIsBounded):
            add(store, job)
    assert Job.objects.count() == count

    add(store, job._replace(unless_bounded=False))
    assert Job.objects.count() == 2 * count


def test_a_key_that_is_held_is_told_from_a_bounded_queue(store):
    job = new(unless_bounded=True, dedupe_key="k")
    assert store.insert_unless_held(job)

    assert store.insert_unless_held(job) is None
    assert store.insert_many_unless_held(job, ["{}"], Keys(dedupe=["k"])) == [None]


def test_of_several_statements_the_first_asks_for_all(store, monkeypatch):
    """Or one that somebody bounds meanwhile would be refused when others beside it are written already."""
    bounds = f"CREATE TRIGGER bounds AFTER INSERT ON jobs_job {BOUNDING[connection.vendor]}"
    monkeypatch.setattr(f"jobs.storage.{connection.vendor}.CHUNK", 1)
    Queue.objects.create(name="default")
    with connection.cursor() as cursor:
        for statement in (*PREPARING.get(connection.vendor, []), bounds):
            cursor.execute(statement)

    store.insert_many(new(unless_bounded=True), ["{}", "{}"])
    Queue.objects.update(max_depth=None)
    store.insert_many_unless_held(new(unless_bounded=True), ["{}", "{}"], Keys(dedupe=["k", "l"]))

    assert Queue.objects.get().max_depth == 1
    assert Job.objects.count() == 4


PREPARING = {
    "postgresql": [
        """CREATE FUNCTION bound_it() RETURNS trigger AS $$
        BEGIN UPDATE jobs_queue SET max_depth = 1; RETURN NULL; END $$ LANGUAGE plpgsql"""
    ]
}
BOUNDING = {
    "postgresql": "FOR EACH STATEMENT EXECUTE FUNCTION bound_it()",
    "sqlite": "BEGIN UPDATE jobs_queue SET max_depth = 1; END",
}


def test_django_finds_the_payload_of_a_job_that_was_inserted_alone(store):
    payload = {"name": "Zoë", "list": [1, 2.5, None], "of": {"b": True, "a": ""}}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    job = new(args="[1,[2]]", kwargs=text, dedupe_key="k")
    ids = [store.insert([new(args="[1,[2]]", kwargs=text)])[0].id, store.insert_unless_held(job).id]

    assert sorted(Job.objects.filter(args=[1, [2]], kwargs=payload).values_list("pk", flat=True)) == ids


def test_inserting_nothing_is_no_error(store):
    assert store.insert([]) == []


def test_delayed_job_is_scheduled_and_stays_out_of_the_ready_ones(store):
    [inserted] = store.insert([new(delay=timedelta(hours=1))])

    job = Job.objects.get(pk=inserted.id)
    assert (job.state, job.ready_at) == (State.SCHEDULED, None)
    assert job.run_after == inserted.run_after == job.enqueued_at + timedelta(hours=1)
    assert claim(store) == []


def test_job_whose_time_is_past_is_ready_at_once(store):
    [inserted] = store.insert([new(run_after=datetime(2020, 1, 1, tzinfo=UTC))])

    assert inserted.state == State.READY
    assert len(claim(store)) == 1


# Claim


def test_claim_leases_a_job_to_one_worker(store):
    job_id = add(store, kwargs='{"b": 2}')

    [lease] = claim(store, worker="w9")

    job = Job.objects.get()
    assert (job.state, job.leased_by, job.lease_token) == (State.RUNNING, "w9", 1)
    assert job.lease_expires_at - lease.claimed_at == LEASE
    assert job.started_at == job.last_attempted_at
    assert (lease.id, lease.token, lease.worker_id, json.loads(lease.kwargs)) == (job_id, 1, "w9", {"b": 2})
    assert claim(store, worker="w8") == []


def test_claim_takes_priority_first_then_who_was_ready_first_then_the_lower_id(store):
    late, early, low, high = (add(store, priority=p) for p in (0, 0, -5, 5))
    same = add(store)
    age(60, "ready_at", pk=early)
    Job.objects.filter(pk=same).update(ready_at=Job.objects.get(pk=late).ready_at)

    order = [lease.id for lease in claim(store)]

    assert order == [high, early, late, same, low]


def test_claim_takes_no_more_than_its_limit_and_the_best_of_them(store):
    add(store)
    best = [add(store, priority=3), add(store, priority=2)]

    assert [lease.id for lease in claim(store, limit=2)] == best
    assert Job.objects.ready().count() == 1


def test_claim_takes_from_its_own_queue_only(store):
    add(store, queue_name="email")

    assert claim(store, queue="default") == []
    assert len(claim(store, queue="email")) == 1


def test_nothing_is_claimed_from_a_paused_queue(store):
    add(store)
    queue = Queue.objects.create(name="default", paused=True)

    assert claim(store) == []

    queue.delete()
    assert len(claim(store)) == 1


def test_suspects_are_claimed_only_by_who_asks_for_them(store):
    plain, suspect = add(store), add(store)
    Job.objects.filter(pk=suspect).update(suspect=True)

    assert [lease.id for lease in claim(store)] == [plain]
    assert [lease.id for lease in claim(store, suspects=True)] == [suspect]


def take(store: Storage, limit: int, *groups: str, **more) -> list[int]:
    return [lease.id for lease in store.take("w1", Claim("default", limit, groups=groups or ("",), **more), LEASE)]


def test_a_plain_claim_leaves_jobs_of_groups_to_those_whose_turn_it_is(store):
    plain, grouped = add(store), add(store, group_key="x")

    assert [lease.id for lease in claim(store)] == [plain]
    assert take(store, 5, "x") == [grouped]


def test_groups_share_a_claim_each_with_its_best_jobs(store):
    large = [add(store, group_key="large") for _ in range(5)]
    best = add(store, group_key="large", priority=5)
    small = [add(store, group_key="small") for _ in range(2)]
    none = [add(store) for _ in range(2)]

    assert set(take(store, 6, "large", "small", "")) == {best, large[0], *small, *none}
    assert set(take(store, 2, "large", "small", "")) == {large[1]}
    assert take(store, 10, "large") == large[2:]


def test_a_claim_for_groups_keeps_to_its_limit_and_to_paused_queues(store):
    for group in "abc":
        add(store, group_key=group)

    queue = Queue.objects.create(name="default", paused=True)
    assert take(store, 2, "a", "b", "c") == []

    queue.delete()
    assert len(take(store, 2, "a", "b", "c")) == 2
    assert len(take(store, 2, "a", "b", "c")) == 0  # of two, the first two groups have one each
    assert len(take(store, 3, "a", "b", "c")) == 1


def test_groups_with_ready_jobs_are_named_page_by_page(store):
    for group in ("b", "", "a", "a", "c"):
        add(store, group_key=group)
    suspect = add(store, group_key="s")
    Job.objects.filter(pk=suspect).update(suspect=True)
    add(store, group_key="later", delay=timedelta(hours=1))

    assert store.ready_groups("default", False, None, 2) == ["", "a"]
    assert store.ready_groups("default", False, "a", 5) == ["b", "c"]
    assert store.ready_groups("default", False, "c", 5) == []
    assert store.ready_groups("default", True, None, 5) == ["s"]
    assert store.ready_groups("other", False, None, 5) == []


@pytest.mark.parametrize(
    ("group", "suspect", "has_groups"), [("", False, False), ("x", False, True), ("x", True, False)]
)
def test_ready_queues_say_whether_groups_take_turns(store, group, suspect, has_groups):
    add(store)
    Job.objects.filter(pk=add(store, group_key=group)).update(suspect=suspect)

    [queue] = store.ready_queues()

    assert queue.has_groups is has_groups
    assert (queue.has_plain, queue.has_suspects) == (True, suspect)


@pytest.mark.parametrize("group", ["", "x"])
def test_waiting_counts_as_steps_of_priority_where_priorities_age(store, group):
    fresh, hour, two_hours = (add(store, priority=p, group_key=group) for p in (10, 5, -20))
    age(3600, "ready_at", pk=hour)
    age(7200, "ready_at", pk=two_hours)

    def best(minutes: int | None) -> int:
        ageing = minutes and timedelta(minutes=minutes)
        with transaction.atomic():
            [job_id] = take(store, 1, group, ageing=ageing)
            transaction.set_rollback(True)
        return job_id

    assert best(None) == fresh
    assert best(30) == fresh  # 10 beside 5 + 2 and -20 + 4
    assert best(10) == hour  # 10 beside 5 + 6 and -20 + 12
    assert best(2) == two_hours  # 10 beside 5 + 30 and -20 + 60
    # And a batch is run in that order.
    claim = Claim("default", 3, groups=[group], ageing=timedelta(minutes=2))
    assert [lease.id for lease in store.take("w1", claim, LEASE)] == [two_hours, hour, fresh]


def test_every_claim_raises_the_token_by_one(store):
    lease = claimed(store)

    for token in (2, 3, 4):
        settle(store, lease, Released())
        [lease] = claim(store)
        assert lease.token == token


def test_a_second_claim_keeps_the_first_start(store):
    lease = claimed(store)
    settle(store, lease, Failed(ERROR, retry_in=0))
    age(60, "started_at")
    first_start = Job.objects.get().started_at
    store.promote()

    [second] = claim(store)

    assert second.started_at == first_start < second.last_started_at


@pytest.mark.parametrize("state", [s for s in State if s != State.READY])
def test_only_ready_jobs_are_claimed(store, state):
    a_job(state)

    assert claim(store) == []


# Settle: what each outcome makes of the row


OUTCOMES = {
    "succeeded": (Succeeded('{"a": [1]}'), {"state": "succeeded", "attempts": 1, "return_value": {"a": [1]}}),
    "succeeded with nothing": (Succeeded(None), {"state": "succeeded", "return_value": None}),
    "retried": (Failed(ERROR, retry_in=30), {"state": "scheduled", "attempts": 1, "finished_at": None}),
    "dead": (Failed(ERROR, reason=Reason.PERMANENT_ERROR), {"state": "dead", "attempts": 1}),
    "snoozed": (Snoozed(30), {"state": "scheduled", "attempts": 0, "worker_ids": []}),
    "cancelled": (Cancelled(ERROR), {"state": "cancelled", "attempts": 1}),
    "released": (Released(), {"state": "ready", "attempts": 0, "worker_ids": [], "started_at": None}),
    "held": (Released(5, held=True), {"state": "scheduled", "attempts": 0, "held_since": ANYTHING}),
    "interrupted": (Interrupted("shutdown"), {"state": "ready", "attempts": 0, "worker_ids": ["w1"]}),
    "lost, not charged": (Lost(charged=False), {"state": "ready", "crashes": 0, "suspect": True}),
    "lost, charged": (Lost(charged=True), {"state": "ready", "attempts": 0, "crashes": 1, "suspect": True}),
    "buried": (Buried(Reason.UNKNOWN_TASK, ERROR), {"state": "dead", "attempts": 0}),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome_becomes_columns(store, name):
    outcome, expected = OUTCOMES[name]
    lease = claimed(store)

    assert settle(store, lease, outcome) == {lease.id}

    job = Job.objects.get()
    assert {key: value for key, value in expected.items() if value is not ANYTHING} == {
        key: getattr(job, key) for key, value in expected.items() if value is not ANYTHING
    }
    assert all(getattr(job, key) is not None for key, value in expected.items() if value is ANYTHING)
    assert (job.leased_by, job.lease_expires_at, job.lease_token, job.settled_token) == ("", None, 1, 1)
    assert (job.finished_at is not None) == job.has_ended


def test_retry_and_snooze_come_back_so_many_seconds_from_the_databases_now(store):
    lease = claimed(store)

    settle(store, lease, Snoozed(3600))

    wait = Job.objects.get().run_after - lease.claimed_at
    assert timedelta(seconds=3600) <= wait < timedelta(seconds=3630)


def test_every_entry_to_ready_has_a_new_ready_at(store):
    lease = claimed(store)
    age(3600, "ready_at")
    before = Job.objects.get().ready_at

    settle(store, lease, Released())

    assert Job.objects.get().ready_at - before > timedelta(minutes=59)


def test_settled_attempt_leaves_its_row(store):
    lease = claimed(store)

    settle(store, lease, Failed(ERROR, retry_in=1))

    attempt = Attempt.objects.get()
    assert (attempt.job_id, attempt.number, attempt.lease_token, attempt.worker_id) == (lease.id, 1, 1, "w1")
    assert (attempt.outcome, attempt.exception_class, attempt.message) == (
        "failed",
        "builtins.ValueError",
        ERROR.message,
    )
    assert attempt.finished_at - attempt.started_at == timedelta(seconds=1)


@pytest.mark.parametrize("outcome", [Succeeded(None), Snoozed(1), Released()])
def test_success_snooze_and_release_leave_no_attempt(store, outcome):
    settle(store, claimed(store), outcome)

    assert not Attempt.objects.exists()


def test_deaths_of_one_kind_share_an_error_group(store):
    for number in (7, 8):
        report = ErrorReport("builtins.ValueError", f"no customer {number}")
        settle(store, claimed(store), Failed(report, reason=Reason.ATTEMPTS_EXHAUSTED))

    group = ErrorGroup.objects.get()
    assert (group.count, group.sample, group.task_path) == (2, "no customer 7", "tests.tasks.add")
    assert set(DeadLetter.objects.values_list("group", "reason")) == {(group.pk, "attempts_exhausted")}


def test_dead_letter_of_an_uncertain_job_names_the_record(store):
    lease = claimed(store)

    settle(store, lease, Failed(ERROR, reason=Reason.UNCERTAIN, record_key="charge:1"))

    assert DeadLetter.objects.get().record_key == "charge:1"


def test_every_end_frees_the_dedupe_lock(store):
    lease = claimed(store)
    Job.objects.update(dedupe_key="k", dedupe_lock="k")

    settle(store, lease, Succeeded(None))

    job = Job.objects.get()
    assert (job.dedupe_key, job.dedupe_lock) == ("k", None)


def test_retry_keeps_the_dedupe_lock(store):
    lease = claimed(store)
    Job.objects.update(dedupe_key="k", dedupe_lock="k")

    settle(store, lease, Failed(ERROR, retry_in=5))

    assert Job.objects.get().dedupe_lock == "k"


def test_held_job_remembers_since_when_and_forgets_once_it_ran(store):
    settle(store, claimed(store), Released(1, held=True))
    age(60, "run_after")
    since = Job.objects.get().held_since
    store.promote()
    [second] = claim(store)
    settle(store, second, Released(1, held=True))

    assert second.held_since == since == Job.objects.get().held_since

    age(60, "run_after")
    store.promote()
    settle(store, claim(store)[0], Failed(ERROR, retry_in=1))
    assert Job.objects.get().held_since is None


# The fence


def fenced_out(store, lease) -> bool:
    """Say whether this lease can write nothing at all."""
    before = Job.objects.values().get(pk=lease.id)
    refused = settle(store, lease, Failed(ERROR, reason=Reason.PERMANENT_ERROR)) == set()
    refused &= store.complete([success(lease)]) == set()
    noted = store.note_progress(lease.worker_id, lease.id, lease.token, 50, "half")
    same = Job.objects.values().get(pk=lease.id) == before
    return refused and same and not noted and not Attempt.objects.exclude(outcome="lost").exists()


def test_stale_worker_cannot_settle_a_job_it_lost(store):
    stale = claimed(store)
    settle(store, stale, Released(), by_holder=False)
    claim(store, worker="w1")

    assert fenced_out(store, stale)
    assert not DeadLetter.objects.exists()


def test_another_worker_cannot_settle_with_the_right_token(store):
    lease = claimed(store)

    assert fenced_out(store, lease._replace(worker_id="w2"))


def test_worker_cannot_settle_after_its_lease_was_reaped(store):
    lease = claimed(store)
    age()
    with store.atomic():
        store.settle([row_for(found, Lost(charged=False)) for found in store.expired(10)], by_holder=False)

    assert fenced_out(store, lease)


def test_a_lease_settles_only_once(store):
    lease = claimed(store)
    settle(store, lease, Succeeded("1"))

    assert fenced_out(store, lease)
    assert Job.objects.get().return_value == 1


def test_a_lease_that_has_expired_but_was_not_reaped_still_settles(store):
    lease = claimed(store)
    age()

    assert settle(store, lease, Succeeded(None)) == {lease.id}


def test_batch_writes_what_is_held_and_drops_the_one_lost_lease(store):
    for _ in range(5):
        add(store)
    leases = claim(store)
    lost = leases[2]
    settle(store, lost, Released(), by_holder=False)

    accepted = store.settle([row_for(lease, Failed(ERROR, reason=Reason.PERMANENT_ERROR)) for lease in leases])

    assert accepted == {lease.id for lease in leases} - {lost.id}
    assert state_of(lost.id) == State.READY
    assert set(DeadLetter.objects.values_list("job", flat=True)) == accepted
    assert ErrorGroup.objects.get().count == 4


def test_batch_of_different_outcomes_is_written_in_one_go(store):
    for _ in range(3):
        add(store)
    first, second, third = claim(store)

    store.settle([row_for(third, Snoozed(9)), row_for(first, Succeeded("3")), row_for(second, Released())])

    assert [state_of(lease.id) for lease in (first, second, third)] == ["succeeded", "ready", "scheduled"]


def test_settling_nothing_is_no_error(store):
    assert store.settle([]) == set()


# Complete: the short way of a success


@pytest.mark.parametrize("value", [None, '{"a": "ü \\"quoted\\", {braces}"}', '"NULL"', "0"])
@pytest.mark.parametrize("before", [{}, {"attempts": 2, "worker_ids": ["w0"], "crashes": 1}])
def test_completing_leaves_what_settling_a_success_leaves(store, value, before):
    pair = []
    for _ in range(2):
        Job.objects.filter(pk=add(store)).update(**before, suspect=False)
        pair.append(claim(store)[0])
    first, second = pair
    second = second._replace(claimed_at=first.claimed_at)
    moments = {"last_attempted_at": first.claimed_at, "started_at": first.started_at}
    Job.objects.update(**moments | {"dedupe_key": "k", "held_since": first.claimed_at})
    second = second._replace(started_at=first.started_at)
    times = first.claimed_at + timedelta(seconds=0.25), first.claimed_at + timedelta(seconds=1.5)

    settled = store.settle([settlement(first, Succeeded(value), *times)])
    completed = store.complete([success(second, value)])

    assert (settled, completed) == ({first.id}, {second.id})
    rows = [Job.objects.values().get(pk=lease.id) for lease in pair]
    same = [{k: v for k, v in row.items() if k not in ("id", "enqueued_at", "ready_at")} for row in rows]
    assert same[0] == same[1]
    assert same[0]["state"] == State.SUCCEEDED


def test_completing_frees_the_dedupe_lock(store):
    lease = claimed(store)
    Job.objects.update(dedupe_key="k", dedupe_lock="k")

    store.complete([success(lease)])

    assert Job.objects.get().dedupe_lock is None


def test_completing_a_batch_writes_what_is_held_and_drops_the_one_lost_lease(store):
    for _ in range(5):
        add(store)
    leases = claim(store)
    lost = leases[2]
    settle(store, lost, Released(), by_holder=False)

    accepted = store.complete([success(lease, str(lease.id)) for lease in reversed(leases)])

    assert accepted == {lease.id for lease in leases} - {lost.id}
    assert state_of(lost.id) == State.READY
    assert all(Job.objects.get(pk=job_id).return_value == job_id for job_id in accepted)


def test_completing_leases_of_two_workers_is_fenced_for_each(store):
    leases = [claimed(store)]
    add(store)
    leases += claim(store, worker="w2")

    accepted = store.complete([success(leases[0]), success(leases[1]), success(leases[1]._replace(worker_id="w1"))])

    assert accepted == {lease.id for lease in leases}
    assert sorted(Job.objects.values_list("worker_ids", flat=True)) == [["w1"], ["w2"]]


def test_completing_tells_a_lost_reply_from_a_lost_lease(store):
    lease = claimed(store)

    store.complete([success(lease)])

    assert store.complete([success(lease)]) == set()
    assert store.was_settled(lease.id, lease.token)


def test_completing_nothing_is_no_error(store):
    assert store.complete([]) == set()


def test_settled_token_tells_a_lost_reply_from_a_lost_lease(store):
    lease = claimed(store)
    assert not store.was_settled(lease.id, lease.token)

    settle(store, lease, Succeeded(None))

    assert store.was_settled(lease.id, lease.token)
    assert not store.was_settled(lease.id, lease.token + 1)


def test_what_a_reaper_wrote_is_not_taken_for_the_holders_own_outcome(store):
    lease = claimed(store)

    settle(store, lease, Lost(charged=True), by_holder=False)

    assert not store.was_settled(lease.id, lease.token)


def test_lease_is_held_until_it_is_settled_and_never_again(store):
    lease = claimed(store)
    assert store.is_held(lease.id, lease.token)

    settle(store, lease, Released())
    claim(store)

    assert not store.is_held(lease.id, lease.token)
    assert store.is_held(lease.id, lease.token + 1)


def test_progress_of_the_holder_is_written(store):
    lease = claimed(store)

    assert store.note_progress("w1", lease.id, lease.token, 40, "two of five")
    assert not store.note_progress("w2", lease.id, lease.token, 99, "not mine")

    job = Job.objects.get()
    assert (job.progress_percent, job.progress_message) == (40, "two of five")


@pytest.mark.parametrize("outcome", [Snoozed(0), Released(), Interrupted("x"), Lost(charged=True), Failed(ERROR, 0.0)])
def test_no_outcome_resets_the_token(store, outcome):
    lease = claimed(store)
    Job.objects.update(lease_token=41)

    settle(store, lease._replace(token=41), outcome)

    assert Job.objects.get().lease_token == 41


# Claim behind places: where the search begins must not change what is found


def place_of(lease: Lease) -> Place:
    return Place(lease.priority, lease.ready_at, lease.id)


def test_claim_behind_a_place_finds_what_stands_there_best_first(store):
    for priority in (0, 5, 0, 5, 0, -3):
        add(store, priority=priority)
    first = claim(store, limit=1)[0]

    rest = claim(store, places=[place_of(first)])

    assert [(lease.priority, lease.id - first.id) for lease in rest] == [(5, 2), (0, -1), (0, 1), (0, 3), (-3, 4)]


def test_claim_behind_a_place_finds_a_higher_priority_that_came_later(store):
    ids = [add(store) for _ in range(3)]
    first = claim(store, limit=1)[0]
    urgent = add(store, priority=9)

    rest = claim(store, limit=2, places=[place_of(first)])

    assert [lease.id for lease in rest] == [urgent, ids[1]]


def test_claim_behind_places_of_several_priorities_respects_the_limit_over_all_of_them(store):
    for priority in (7, 7, 3, 3, 0, 0, -5):
        add(store, priority=priority)
    taken = claim(store, limit=3)
    places = [place_of(taken[1]), place_of(taken[2])]

    rest = claim(store, limit=3, places=places)

    assert [lease.priority for lease in rest] == [3, 0, 0]


def test_claim_behind_a_place_leaves_other_queues_and_suspects_alone(store):
    first = claimed(store)
    add(store, queue_name="other")
    Job.objects.filter(pk=add(store)).update(suspect=True)

    assert claim(store, places=[place_of(first)]) == []


def test_claim_behind_a_place_takes_none_of_a_paused_queue(store):
    first = claimed(store)
    add(store)
    Queue.objects.create(name="default", paused=True)

    assert claim(store, places=[place_of(first)]) == []


# Exchange: claims and successes in one commit


def test_exchange_claims_and_completes(store):
    done = claimed(store)
    add(store)
    add(store, queue_name="email")

    found, accepted = store.exchange(
        "w1", [Claim("default", 5), Claim("email", 5), Claim("empty", 5)], LEASE, lambda: [success(done, "7")]
    )

    assert [[lease.queue_name for lease in leases] for leases in found] == [["default"], ["email"], []]
    assert accepted == {done.id}
    assert Job.objects.get(pk=done.id).return_value == 7
    assert {lease.token for leases in found for lease in leases} == {1}


def test_exchange_is_fenced_and_claims_all_the_same(store):
    lost = claimed(store)
    settle(store, lost, Released(seconds=60), by_holder=False)
    add(store)

    found, accepted = store.exchange("w1", [Claim("default", 5)], LEASE, lambda: [success(lost)])

    assert (len(found[0]), accepted) == (1, set())
    assert state_of(lost.id) == State.SCHEDULED


def test_exchange_of_nothing_is_no_error(store):
    assert store.exchange("w1", [], LEASE, list) == ([], set())


@pytest.mark.django_db(transaction=True)
def test_exchange_that_the_database_refuses_claims_nothing(store, vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite stores any text")
    done = claimed(store)
    waiting = add(store)

    with pytest.raises(DataError):
        store.exchange("w1", [Claim("default", 5)], LEASE, lambda: [success(done, '"\\u0000"')])

    assert (state_of(waiting), state_of(done.id)) == (State.READY, State.RUNNING)


# Renew


def test_renewal_extends_every_lease_of_a_worker_and_of_no_other(store):
    for _ in range(3):
        add(store)
    mine, other = claim(store, limit=2), claim(store, worker="w2")
    age(50)
    before = dict(Job.objects.values_list("pk", "lease_expires_at"))

    renewals = store.renew("w1", LEASE)

    after = dict(Job.objects.values_list("pk", "lease_expires_at"))
    assert {r.id: (r.token, r.renewed, r.cancel_requested) for r in renewals} == {
        lease.id: (1, True, False) for lease in mine
    }
    assert all(after[lease.id] - before[lease.id] > timedelta(seconds=45) for lease in mine)
    assert after[other[0].id] == before[other[0].id]


def test_renewal_does_not_name_a_lease_that_is_gone(store):
    kept, gone = claimed(store), claimed(store)
    settle(store, gone, Released(), by_holder=False)

    assert [renewal.id for renewal in store.renew("w1", LEASE)] == [kept.id]


def test_renewal_of_a_job_claimed_again_has_the_newer_token(store):
    lease = claimed(store)
    settle(store, lease, Released())
    claim(store)

    assert [(r.id, r.token) for r in store.renew("w1", LEASE)] == [(lease.id, 2)]


def test_renewal_says_that_a_cancel_was_requested(store):
    claimed(store)
    Job.objects.update(cancel_requested=True)

    assert [renewal.cancel_requested for renewal in store.renew("w1", LEASE)] == [True]


def test_expired_lease_that_nobody_reaped_may_still_be_renewed(store):
    claimed(store)
    age()

    store.renew("w1", LEASE)

    with store.atomic():
        assert store.expired(10) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("commits", "seconds"), [(2, 0.05), (3, 0.01)])
def test_a_watch_of_a_file_asks_seldom_unless_jobs_come_and_go(vendor, monkeypatch, commits, seconds):
    if vendor != "sqlite":
        pytest.skip("only SQLite has to ask")
    clock = Clock(1000.0)
    monkeypatch.setattr("jobs.storage.sqlite.time", clock)
    watch = storage().watch()
    try:
        clock.now += 60
        for _ in range(commits):
            watch.seen -= 1
            assert watch.wait(1) == {ANY_QUEUE}
        clock.slept.clear()

        assert watch.wait(1) == set()
    finally:
        watch.close()

    assert clock.slept[0] == pytest.approx(seconds)
    assert sum(clock.slept) == pytest.approx(1)


@pytest.mark.parametrize(("mode", "closes"), [("may be written", 1), ("must not be written", 0), ("is not there", 1)])
def test_a_file_that_must_not_be_written_is_not_opened_again_and_again(vendor, monkeypatch, tmp_path, mode, closes):
    if vendor != "sqlite":
        pytest.skip("a server closes what is closed")
    path, closed = tmp_path / "jobs.sqlite3", []
    if mode != "is not there":
        path.touch()
    monkeypatch.setitem(connection.settings_dict, "NAME", path)
    monkeypatch.setattr(connection, "close", lambda: closed.append(1))
    monkeypatch.setattr("os.access", lambda file, wanted: mode == "may be written")

    storage().drop_connection()

    assert len(closed) == closes


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_is_dropped_after_a_failure_is_closed_at_once(vendor):
    """Not when the garbage collector comes by: until then SQLite would keep its files open, more at each failure."""
    if vendor != "sqlite":
        pytest.skip("a server closes what is closed")
    name = connection.settings_dict["NAME"]
    writer = sqlite3.connect(name, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    opened: list[int] = []
    gc.disable()
    try:
        for _ in range(6):
            connection.ensure_connection()
            connection.connection.execute("PRAGMA busy_timeout = 1")
            try:
                claim(storage())
            except OperationalError:
                storage().drop_connection()
            opened.append(sum(file.path.startswith(str(name)) for file in psutil.Process().open_files()))
    finally:
        gc.enable()
        writer.execute("ROLLBACK")
        writer.close()

    assert opened[1] == opened[-1], opened


class Clock:
    """A time that passes only when somebody sleeps."""

    def __init__(self, now: float):
        self.now, self.slept = now, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.mark.django_db(transaction=True)
def test_a_listener_waits_for_news_of_others_and_keeps_what_came_while_it_asked(other_connection):
    watch = storage().watch()
    try:
        with other_connection.cursor() as cursor:
            cursor.execute("NOTIFY jobs_ready, 'first'")
        assert watch.wait(10) == {"first"}

        with other_connection.cursor() as cursor:
            cursor.execute("NOTIFY jobs_ready, 'second'")
            cursor.execute("NOTIFY jobs_ready, 'third'")
        watch.probe()
        assert watch.wait(10) == {"second", "third"}
        assert watch.wait(0) == set()
    finally:
        watch.close()


def lock_row(other, job_id: int) -> None:
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("SELECT id FROM jobs_job WHERE id = %s FOR UPDATE", [job_id])


@pytest.fixture
def other_connection():
    if not connection.features.has_select_for_update:
        pytest.skip("this database locks no single rows")
    other = connection.copy()
    yield other
    other.close()


@pytest.mark.django_db(transaction=True)
def test_row_locked_by_another_connection_is_unknown_to_a_renewal_and_stalls_no_other(store, other_connection):
    locked, free = claimed(store), claimed(store)
    lock_row(other_connection, locked.id)

    renewals = {renewal.id: renewal.renewed for renewal in store.renew("w1", LEASE)}

    assert renewals == {locked.id: False, free.id: True}


@pytest.mark.django_db(transaction=True)
def test_claim_promote_and_reap_step_over_a_row_locked_by_another_connection(store, other_connection):
    locked, free = add(store), add(store)
    lock_row(other_connection, locked)
    assert [lease.id for lease in claim(store)] == [free]

    other_connection.rollback()
    claim(store)
    age()
    lock_row(other_connection, locked)
    with store.atomic():
        assert [lease.id for lease in store.expired(10)] == [free]
        assert [lease.id for lease in store.held_by("w1", 10)] == [free]

    other_connection.rollback()
    Job.objects.update(state=State.SCHEDULED, leased_by="", lease_expires_at=None, run_after=F("enqueued_at"))
    lock_row(other_connection, locked)
    assert store.promote() == 1
    assert state_of(locked) == State.SCHEDULED


@pytest.mark.django_db(transaction=True)
def test_threads_racing_for_jobs_claim_each_once(store):
    store.insert([new() for _ in range(120)])
    claims: list[int] = []
    errors: list[BaseException] = []
    start = threading.Barrier(6)

    def race(worker: str) -> None:
        try:
            start.wait()
            while leases := claim(store, limit=7, worker=worker):
                claims.extend(lease.id for lease in leases)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=race, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert len(claims) == len(set(claims))
    # The portable claim may find all that is left locked by the others and give up early; nothing is claimed twice.
    assert len(claims) + Job.objects.ready().count() == 120


# Take back


def test_expired_leases_are_found_and_others_are_not(store):
    old, young = claimed(store), claimed(store)
    age(pk=old.id)

    with store.atomic():
        found = store.expired(10)

    assert [(lease.id, lease.token, lease.worker_id) for lease in found] == [(old.id, 1, "w1")]
    assert young.id not in [lease.id for lease in found]


def test_expired_returns_no_more_than_its_limit_in_id_order(store):
    ids = [add(store, priority=p) for p in (0, 1, 2)]
    claim(store)
    age()

    with store.atomic():
        assert [lease.id for lease in store.expired(2)] == ids[:2]


def test_held_by_names_the_leases_of_one_worker(store):
    for _ in range(3):
        add(store)
    mine = claim(store, limit=2)
    claim(store, worker="w2")

    with store.atomic():
        found = store.held_by("w1", 10)

    assert [lease.key for lease in found] == [lease.key for lease in mine]


def test_lease_read_from_a_row_is_the_lease_that_was_claimed(store):
    lease = claimed(store, args="[1]", kwargs='{"b":{"c":null}}', timeout=timedelta(seconds=9), idempotency_key="k")

    with store.atomic():
        [found] = store.held_by("w1", 1)

    differing = {"args", "kwargs", "worker_ids", "claimed_at", "claimed_monotonic"}
    same = [name for name in Lease._fields if name not in differing]
    assert [getattr(found, name) for name in same] == [getattr(lease, name) for name in same]
    for name in ("args", "kwargs", "worker_ids"):
        assert json.loads(getattr(found, name)) == json.loads(getattr(lease, name))


# Promote


def test_promote_makes_due_jobs_ready_and_leaves_the_others(store):
    due, later = add(store, delay=timedelta(hours=1)), add(store, delay=timedelta(hours=1))
    age(7200, "run_after", pk=due)

    assert store.promote() == 1

    job = Job.objects.get(pk=due)
    assert (job.state, job.ready_at > job.run_after) == (State.READY, True)
    assert state_of(later) == State.SCHEDULED


def test_promote_works_in_bounded_batches_oldest_first(store):
    ids = [add(store, delay=timedelta(hours=1)) for _ in range(3)]
    age(7200, "run_after")
    age(60, "run_after", pk=ids[2])

    assert store.promote(limit=1) == 1
    assert state_of(ids[2]) == State.READY
    assert [store.promote(limit=5), store.promote(limit=5)] == [2, 0]


def test_a_pulse_names_the_concurrency_keys_of_what_it_has_promoted(store):
    for key in ("b", "a", "b", ""):
        add(store, delay=timedelta(hours=1), concurrency_key=key)
    add(store, delay=timedelta(hours=5), concurrency_key="later")
    age(7200, "run_after")

    pulse = store.pulse()

    assert (pulse.promoted, list(pulse.promoted_keys)) == (4, ["a", "b"])


def test_old_grants_of_queues_without_limits_are_pruned_in_bounded_batches(store):
    store.list_queues(["free", "limited"])
    for name, hours in (("free", 48), ("free", 72), ("free", 1), ("limited", 48)):
        granted_at = store.now() - timedelta(hours=hours)
        Grant.objects.create(queue_name=name, granted_at=granted_at, job_id=1, lease_token=1)

    assert [store.prune_grants(1, ["limited"]) for _ in range(3)] == [1, 1, 0]
    assert sorted(Grant.objects.values_list("queue_name", flat=True)) == ["free", "limited"]


def test_a_pulse_promotes_and_says_when_the_next_job_is_due(store):
    assert store.pulse() == (0, False, False, False, None, None, [])
    add(store, delay=timedelta(hours=2))
    due = add(store, delay=timedelta(hours=1))
    age(7200, column="run_after", pk=due)

    pulse = store.pulse()

    assert (pulse.promoted, pulse.has_expired_leases, state_of(due)) == (1, False, State.READY)
    assert pulse.next_due is not None
    assert timedelta(minutes=119) < pulse.next_due <= timedelta(hours=2)


def test_a_pulse_says_when_a_schedule_is_due(store):
    moment = store.now()
    for name, next_at in (("soon", moment + timedelta(minutes=5)), ("later", moment + WEEK), ("never", None)):
        Schedule.objects.create(name=name, task_path="t", every=WEEK, next_at=next_at)

    pulse = store.pulse()

    assert pulse.next_tick is not None
    assert timedelta(minutes=4) < pulse.next_tick <= timedelta(minutes=5)


def test_a_pulse_says_whether_a_lease_has_expired(store):
    claimed(store)
    assert not store.pulse().has_expired_leases

    age()

    assert store.pulse().has_expired_leases


def test_a_pulse_promotes_in_bounded_batches(store):
    for _ in range(3):
        age(7200, column="run_after", pk=add(store, delay=timedelta(hours=1)))

    assert [store.pulse(limit=2).promoted for _ in range(3)] == [2, 1, 0]


# Queues


def test_ready_queues_tells_what_waits_where(store):
    add(store, queue_name="plain")
    suspect = add(store, queue_name="suspect")
    add(store, queue_name="paused")
    add(store, queue_name="tripped")
    add(store, queue_name="later", delay=timedelta(hours=1))
    Job.objects.filter(pk=suspect).update(suspect=True)
    Queue.objects.create(name="paused", paused=True)
    Queue.objects.create(name="tripped", paused=True, probe_at=store.now())
    Queue.objects.create(name="plain")

    found = {queue.name: tuple(queue)[1:] for queue in store.ready_queues()}

    assert found == {
        "plain": (True, False, False, False, False, False),
        "suspect": (False, True, False, True, False, False),
        "paused": (True, False, True, False, False, False),
        "tripped": (True, False, True, False, True, False),
    }


def test_ready_queues_of_an_empty_table_is_empty(store):
    assert store.ready_queues() == []


def test_listing_queues_twice_adds_a_row_once_and_keeps_a_pause(store):
    Queue.objects.create(name="a", paused=True)

    store.list_queues({"a", "b"})
    store.list_queues({"a", "b"})

    assert list(Queue.objects.values_list("name", "paused")) == [("a", True), ("b", False)]


# Prune


def ended(state: State, age_: timedelta) -> int:
    job = a_job(state)
    moments = {"finished_at": F("finished_at") - age_, "enqueued_at": F("enqueued_at") - age_}
    Job.objects.filter(pk=job.pk).update(**moments)
    return int(job.pk)


def test_prune_deletes_what_is_past_its_own_retention_and_nothing_else(store):
    gone = [ended(State.SUCCEEDED, 2 * WEEK), ended(State.CANCELLED, 2 * WEEK), ended(State.DEAD, 11 * WEEK)]
    dead_but_kept = ended(State.DEAD, 2 * WEEK)
    old_but_waiting = add(store)
    Job.objects.filter(pk=old_but_waiting).update(enqueued_at=F("enqueued_at") - 20 * WEEK)
    young = ended(State.SUCCEEDED, timedelta(days=1))

    deleted, place = store.prune_jobs(0, 100, KEEP)

    assert (deleted, place) == (3, None)
    assert set(Job.objects.values_list("pk", flat=True)) == {dead_but_kept, old_but_waiting, young}
    assert not set(gone) & {dead_but_kept, old_but_waiting, young}


def test_prune_walks_the_primary_key_in_bounded_steps(store):
    ids = [ended(State.SUCCEEDED, 2 * WEEK) for _ in range(5)]

    first = store.prune_jobs(0, 2, KEEP)
    second = store.prune_jobs(first[1], 2, KEEP)
    last = store.prune_jobs(second[1], 2, KEEP)

    assert (first, second, last) == ((2, ids[1]), (2, ids[3]), (1, None))


def test_prune_stops_where_everything_is_too_young_to_go(store):
    ended(State.SUCCEEDED, timedelta(days=1))
    for _ in range(3):
        ended(State.SUCCEEDED, timedelta(days=1))

    assert store.prune_jobs(0, 2, KEEP) == (0, None)


def test_delete_takes_attempts_and_letters_along_and_keeps_idempotency_records(store):
    letter = a_dead_letter()
    record = a_record(job=letter.job)

    assert store.delete_jobs([letter.job_id]) == 1

    assert not Job.objects.exists()
    assert not Attempt.objects.exists()
    assert not DeadLetter.objects.exists()
    assert IdempotencyRecord.objects.get(pk=record.pk).job_id is None


@pytest.mark.parametrize("state", [State.SCHEDULED, State.READY, State.RUNNING])
def test_a_job_that_has_not_ended_is_never_deleted(store, state):
    job = a_job(state)

    assert store.delete_jobs([job.pk]) == 0
    assert Job.objects.filter(pk=job.pk).exists()


def test_expired_records_are_pruned_but_never_one_that_is_processing(store):
    past = store.now() - timedelta(days=1)
    a_record(key="done, expired", expires_at=past)
    a_record(RecordState.PROCESSING, key="processing", expires_at=past)
    a_record(key="done, for ever")
    a_record(key="done, for a while", expires_at=store.now() + timedelta(days=1))

    assert [store.prune_records(10), store.prune_records(10)] == [1, 0]
    assert not IdempotencyRecord.objects.filter(key="done, expired").exists()


def test_records_are_pruned_in_bounded_batches(store):
    for number in range(3):
        a_record(key=str(number), expires_at=store.now() - timedelta(days=1))

    assert [store.prune_records(2), store.prune_records(2)] == [2, 1]


# Time


def test_now_is_aware_and_moves_on(store):
    first = store.now()

    assert first.tzinfo is not None
    assert store.now() >= first


# Poolers


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "meanwhile",
    [
        b"DEALLOCATE ALL",
        b"DEALLOCATE ALL; PREPARE _pg3_0 AS SELECT 1; PREPARE _pg3_1 AS SELECT 1",  # somebody else's, in their place
    ],
)
def test_a_pooler_that_loses_prepared_statements_costs_one_try(vendor, monkeypatch, meanwhile):
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL has poolers between")
    store = storage()
    monkeypatch.setattr(store, "prepares", True)
    claim(store)
    add(store)
    # Behind the driver's back, as PgBouncer does when it hands the session of a transaction to somebody else.
    connection.connection.pgconn.exec_(meanwhile)

    with pytest.raises(OperationalError, match="pooler"):
        claim(store)
    connection.close()

    assert len(claim(store)) == 1
    assert not store.prepares


@pytest.fixture
def fresh_session(vendor, monkeypatch):
    """A connection of which nobody knows yet whether a pooler stands before its server."""
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL prepares statements for a session")
    monkeypatch.setattr(storage(), "prepares", True)
    connection.close()
    connection.ensure_connection()


def prepared_inserts():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%INSERT INTO jobs_job%%'")
        return cursor.fetchone()[0]


def lose_prepared_statements():
    connection.connection.pgconn.exec_(b"DEALLOCATE ALL")  # behind the driver's back


@pytest.mark.django_db(transaction=True)
def test_a_producer_s_insert_is_prepared_once_it_has_come_often(fresh_session):
    add(storage())
    assert prepared_inserts() == 0
    for _ in range(10):
        add(storage())
    later = add(storage(), delay=timedelta(hours=1))

    assert prepared_inserts() == 1
    assert Job.objects.count() == 12
    assert Job.objects.get(pk=later).state == State.SCHEDULED
    assert connection.connection.prepare_threshold is None


@pytest.mark.django_db(transaction=True)
def test_behind_a_pooler_a_producer_prepares_nothing(fresh_session, monkeypatch):
    monkeypatch.setattr("psycopg.ConnectionInfo.backend_pid", property(lambda info: 1))
    for _ in range(10):
        add(storage())

    assert prepared_inserts() == 0


@pytest.mark.django_db(transaction=True)
def test_a_producer_whose_prepared_insert_is_gone_inserts_all_the_same_and_once(fresh_session):
    for _ in range(10):
        add(storage())
    lose_prepared_statements()

    add(storage())

    assert Job.objects.count() == 11
    assert not storage().prepares


@pytest.mark.django_db(transaction=True)
def test_in_a_transaction_a_prepared_insert_that_is_gone_fails_once(fresh_session):
    for _ in range(10):
        add(storage())
    lose_prepared_statements()

    with pytest.raises(DatabaseError, match="prepared statement"), transaction.atomic():
        add(storage())
    with transaction.atomic():
        add(storage())

    assert Job.objects.count() == 11


@pytest.mark.django_db(transaction=True)
def test_an_insert_that_is_prepared_is_in_django_s_log_of_queries_all_the_same(
    fresh_session, django_assert_num_queries
):
    for _ in range(10):
        with django_assert_num_queries(1) as log:
            add(storage())
        assert "INSERT INTO jobs_job" in log[0]["sql"]


@pytest.fixture
def inserted_directly(fresh_session, monkeypatch):
    """The statements of producers that went by the driver's cursor, once they are prepared."""
    seen: list[str] = []
    execute = Direct.execute
    monkeypatch.setattr(Direct, "execute", lambda cursor, *given: seen.append(given[0]) or execute(cursor, *given))
    for _ in range(10):
        add(storage())
    return seen


@pytest.mark.django_db(transaction=True)
def test_a_prepared_insert_goes_by_the_layers_that_nobody_looks_at(inserted_directly):
    inserted_directly.clear()

    add(storage())

    assert len(inserted_directly) == 1
    assert Job.objects.count() == 11


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["a wrapper of the connection", "execute", "_execute_with_wrappers", "_execute"])
def test_who_watches_django_s_cursors_sees_the_insert_of_a_producer(inserted_directly, monkeypatch, how):
    inserted_directly.clear()
    watched = []
    if how == "a wrapper of the connection":
        with connection.execute_wrapper(lambda execute, sql, *rest: watched.append(sql) or execute(sql, *rest)):
            add(storage())
    else:
        execute = getattr(CursorWrapper, how)

        @functools.wraps(execute)
        def patched(cursor, sql, *given, **named):
            watched.append(sql)
            return execute(cursor, sql, *given, **named)

        monkeypatch.setattr(CursorWrapper, how, patched)
        add(storage())

    assert inserted_directly == []
    assert ["INSERT INTO jobs_job" in sql for sql in watched] == [True]
    assert prepared_inserts() == 1


class Agent:
    """A function as agents wrap it: it passes for what it wraps, `__code__` and all."""

    def __init__(self, function, seen):
        self.function, self.seen = function, seen

    def __getattr__(self, name):
        return getattr(self.function, name)

    def __get__(self, wrapper, kind=None):
        return self if wrapper is None else functools.partial(self, wrapper)

    def __call__(self, *given):
        self.seen.append(given)
        return self.function(*given)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("method", [*MAKES, "execute"])
def test_an_agent_that_passes_for_what_it_wraps_is_seen_all_the_same(inserted_directly, monkeypatch, method):
    inserted_directly.clear()
    kind = CursorWrapper if method == "execute" else type(storage().connection)
    seen = []
    monkeypatch.setattr(kind, method, Agent(getattr(kind, method), seen))

    add(storage())

    assert inserted_directly == []
    assert len(seen) == 1


@pytest.mark.django_db(transaction=True)
def test_a_backend_that_sets_the_tenant_s_schema_before_each_statement_may_do_so(inserted_directly, monkeypatch):
    inserted_directly.clear()
    make = type(storage().connection)._cursor

    def for_tenant(wrapper, name=None):
        with wrapper.connection.cursor() as cursor:
            cursor.execute("SET application_name = %s", ["tenant b"])
        return make(wrapper, name)

    monkeypatch.setattr(type(storage().connection), "_cursor", for_tenant)

    add(storage())

    assert inserted_directly == []
    with connection.cursor() as cursor:
        cursor.execute("SHOW application_name")
        assert cursor.fetchone() == ("tenant b",)
    assert Job.objects.count() == 11


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["cursor of this connection", "cursors of the driver", "the driver's connection"])
def test_who_puts_something_in_the_place_of_a_cursor_has_it_used(inserted_directly, monkeypatch, what):
    inserted_directly.clear()
    own, used = storage().connection, []
    made: Any = own.connection.cursor_factory
    if what == "cursor of this connection":
        make = own.cursor
        monkeypatch.setattr(own, "cursor", lambda: used.append(what) or make())
    elif what == "cursors of the driver":

        class Watched(made):
            def execute(self, *given, **named):
                used.append(what)
                return super().execute(*given, **named)

        monkeypatch.setattr(own.connection, "cursor_factory", Watched)
    else:

        class Proxy:
            def __init__(self, driver):
                self.__dict__["driver"] = driver

            def __getattr__(self, name):
                return getattr(self.driver, name)

            def __setattr__(self, name, value):
                setattr(self.driver, name, value)

            def __hash__(self):
                return hash(self.driver)

            def __eq__(self, other):
                return self.driver == other

            def cursor(self, *given, **named):
                used.append(what)
                return self.driver.cursor(*given, **named)

        monkeypatch.setattr(own, "connection", Proxy(own.connection))

    add(storage())

    assert inserted_directly == []
    assert used == [what]


@pytest.mark.django_db(transaction=True)
def test_an_insert_that_goes_by_django_s_layers_keeps_its_rules(inserted_directly):
    with pytest.raises(DataError, match="division by zero"):
        Direct(connection).execute("SELECT 1 / %s", (0,))
    with transaction.atomic():
        with suppress(ZeroDivisionError), transaction.atomic(savepoint=False):
            raise ZeroDivisionError
        with pytest.raises(transaction.TransactionManagementError):
            add(storage())
        transaction.set_rollback(False)
    with transaction.atomic():
        connection.close()
        with pytest.raises(OperationalError, match="closed"):
            add(storage())
    elsewhere, own = [], storage().connection

    def use() -> None:
        try:
            Direct(own)
        except DatabaseError as error:
            elsewhere.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "can only be used in that same thread" in elsewhere[0]


@pytest.mark.django_db(transaction=True)
def test_whether_a_task_s_own_statements_are_prepared_stays_as_the_project_has_it(vendor):
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL prepares statements for a session")
    connection.ensure_connection()
    before = connection.connection.prepare_threshold

    add(storage())
    for lease in claim(storage()):
        storage().settle([row_for(lease, Succeeded())])

    assert connection.connection.prepare_threshold == before
