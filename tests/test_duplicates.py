"""One job for a dedupe key, from its enqueue to its end: the constraint decides, whoever enqueues at once."""

import pickle
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from jobs import DuplicateJob, enqueue_many, lifecycle, task
from jobs.compat import TaskResultStatus, task_enqueued
from jobs.exceptions import InvalidPayload
from jobs.models import DeadLetter, Job
from jobs.states import Reason, State
from jobs.storage import ANY_QUEUE, storage
from jobs.testing import run_jobs
from tests import tasks
from tests.threads import at_once

pytestmark = pytest.mark.django_db
LATER = timedelta(hours=1)


def keyed(key: str = "k", **options: Any) -> Any:
    return tasks.add.using(dedupe_key=key, **options)


def test_a_second_enqueue_returns_the_first_job_and_says_so():
    first = keyed().enqueue(1, b=2)
    second = keyed().enqueue(3, b=4)

    assert (first.is_duplicate, second.is_duplicate) == (False, True)
    assert second.id == first.id
    assert (second.args, second.kwargs) == ([1], {"b": 2})
    job = Job.objects.get()
    assert (job.dedupe_key, job.dedupe_lock) == ("k", "k")
    assert tasks.add.get_result(second.id) == second


def test_other_keys_and_jobs_without_one_are_not_held_back():
    keyed("a").enqueue(1)
    keyed("b").enqueue(1)
    tasks.add.enqueue(1)
    tasks.add.enqueue(1)

    assert Job.objects.count() == 4


@pytest.mark.parametrize(
    "state",
    [
        {"state": State.SCHEDULED, "run_after": "2999-01-01T00:00Z"},
        {"state": State.RUNNING, "leased_by": "w", "lease_expires_at": "2999-01-01T00:00Z"},
    ],
)
def test_a_key_is_held_while_its_job_is_scheduled_or_runs(state):
    first = keyed().enqueue(1)
    Job.objects.update(**state)

    second = keyed().enqueue(2)

    assert second.id == first.id
    assert second.status == (TaskResultStatus.RUNNING if state["state"] == State.RUNNING else TaskResultStatus.READY)


def succeed() -> None:
    run_jobs()


def die() -> None:
    Job.objects.update(args=["not", "three", "arguments"])
    run_jobs()


def be_cancelled() -> None:
    lifecycle.cancel(Job.objects.values_list("pk", flat=True))


@pytest.mark.parametrize("end", [succeed, die, be_cancelled])
def test_any_end_lets_the_next_in(end: Callable[[], None]):
    keyed().enqueue(1)
    end()

    assert not keyed().enqueue(1).is_duplicate
    assert Job.objects.get(dedupe_lock="k").state == State.READY
    assert Job.objects.count() == 2


def test_a_replay_takes_its_key_again_or_says_who_holds_it():
    keyed().enqueue(1)
    die()
    holder = keyed().enqueue(2)

    report = lifecycle.replay(DeadLetter.objects.all(), by="somebody")
    assert [why for _, why in report.skipped] == [f"its dedupe key 'k' is held by job {holder.id}"]

    lifecycle.cancel([int(holder.id)])
    assert lifecycle.replay(DeadLetter.objects.all(), by="somebody").done
    assert keyed().enqueue(3).is_duplicate


def test_a_key_may_be_made_of_the_payload(settings):
    for user in (1, 1, 2):
        tasks.once_a_user.enqueue(user=user)

    assert set(Job.objects.values_list("dedupe_key", flat=True)) == {"once:1", "once:2"}


def test_raise_names_the_job_that_holds_the_key():
    first = keyed().enqueue(1)

    with pytest.raises(DuplicateJob, match=f"dedupe key 'k' is held by job {first.id}, which is ready") as refusal:
        keyed(on_duplicate="raise").enqueue(2)

    assert (refusal.value.key, refusal.value.job_id) == ("k", int(first.id))
    keyed("other", on_duplicate="raise").enqueue(2)


@pytest.mark.parametrize("on_duplicate", ["return", "raise", "replace"])
def test_a_job_of_another_task_is_no_duplicate_but_an_error(on_duplicate):
    keyed().enqueue(1)

    with pytest.raises(DuplicateJob, match=r"of another task, tests\.tasks\.add"):
        tasks.say.using(dedupe_key="k", on_duplicate=on_duplicate).enqueue(what="x")


def test_replace_gives_what_waits_its_payload_and_its_time():
    first = keyed(run_after=LATER).enqueue(1)
    before = Job.objects.get()

    second = keyed(run_after=2 * LATER, on_duplicate="replace").enqueue(2, b=3)

    after = Job.objects.get()
    assert (second.id, second.is_duplicate) == (first.id, True)
    assert (second.args, second.kwargs) == ([2], {"b": 3}) == (after.args, after.kwargs)
    assert after.run_after - before.run_after >= LATER
    assert after.enqueued_at == before.enqueued_at


def test_replace_may_make_a_later_job_due_and_a_due_one_later():
    keyed(run_after=LATER).enqueue(1)
    keyed(on_duplicate="replace").enqueue(2)
    job = Job.objects.get()
    assert (job.state, job.run_after, job.ready_at is None) == (State.READY, None, False)
    place = job.ready_at

    keyed(on_duplicate="replace").enqueue(3)
    assert Job.objects.get().ready_at == place, "it keeps its place"

    keyed(run_after=LATER, on_duplicate="replace").enqueue(4)
    job = Job.objects.get()
    assert (job.state, job.ready_at) == (State.SCHEDULED, None)


def test_replace_leaves_a_running_job_alone():
    keyed().enqueue(1)
    Job.objects.update(state=State.RUNNING, leased_by="w", lease_expires_at="2999-01-01T00:00Z")

    second = keyed(on_duplicate="replace").enqueue(2)

    assert (second.is_duplicate, second.status, second.args) == (True, TaskResultStatus.RUNNING, [1])
    assert Job.objects.get().args == [1]


@pytest.mark.django_db(transaction=True)
def test_replace_moves_a_job_to_its_new_keys_and_frees_the_slot_of_the_old_one():
    def account(name: str, **options: Any) -> Any:
        return tasks.add.using(concurrency_key=f"account:{name}", group_key=f"group:{name}", **options)

    account("b").enqueue(0, 0)
    account("a", dedupe_key="k").enqueue(1, 1)
    account("a").enqueue(2, 2)
    first, moving, waiting = Job.objects.order_by("pk")
    assert (first.blocked, moving.blocked, waiting.blocked) == (False, False, True)

    account("b", dedupe_key="k", on_duplicate="replace").enqueue(3, 3)

    first, moving, waiting = Job.objects.order_by("pk")
    assert (moving.args, moving.concurrency_key, moving.group_key) == ([3, 3], "account:b", "group:b")
    assert (first.blocked, moving.blocked, waiting.blocked) == (False, True, False)

    tasks.add.using(dedupe_key="k", on_duplicate="replace").enqueue(4, 4)

    moving.refresh_from_db()
    assert (moving.concurrency_key, moving.group_key, moving.blocked) == ("", "", False)


@pytest.mark.django_db(transaction=True)
def test_of_many_that_replace_each_moves_to_its_new_keys():
    wide = tasks.add.using(dedupe_key="{a}", concurrency_key="{b}", on_duplicate="replace")
    enqueue_many(wide, [{"a": 1, "b": 1}, {"a": 2, "b": 1}])
    assert [job.blocked for job in Job.objects.order_by("pk")] == [False, True]

    enqueue_many(wide, [{"a": 1, "b": 2}])

    assert [(job.concurrency_key, job.blocked) for job in Job.objects.order_by("pk")] == [("2", False), ("1", False)]


def test_a_duplicate_is_not_announced():
    heard: list[Any] = []

    def listen(task_result: Any, **kwargs: Any) -> None:
        heard.append(task_result.id)

    task_enqueued.connect(listen)
    try:
        first = keyed().enqueue(1)
        keyed().enqueue(1)
        enqueue_many(keyed(), [{"a": 1}, {"a": 2}])
    finally:
        task_enqueued.disconnect(listen)

    assert heard == [first.id]


# Many


def test_many_add_one_job_for_a_key_and_return_a_result_for_each_in_order():
    held = tasks.once_a_user.enqueue(user=3)

    results = enqueue_many(tasks.once_a_user, [{"user": user} for user in (5, 3, 4, 5, 1)])

    assert [result.kwargs["user"] for result in results] == [5, 3, 4, 5, 1]
    assert [result.is_duplicate for result in results] == [False, True, False, True, False]
    assert results[1].id == held.id
    assert results[3].id == results[0].id
    assert Job.objects.count() == 4
    ids = [int(results[place].id) for place in (0, 2, 4)]
    assert ids == sorted(ids), "first come, first served"


def test_many_with_one_key_for_all_are_one_job():
    results = enqueue_many(keyed(), ({"a": n} for n in range(5)))

    assert {result.id for result in results} == {str(Job.objects.get().pk)}
    assert Job.objects.get().kwargs == {"a": 0}


def test_many_of_which_the_last_replaces():
    results = enqueue_many(keyed(on_duplicate="replace"), [{"a": n} for n in range(5)])

    assert [result.is_duplicate for result in results] == [False, True, True, True, True]
    assert Job.objects.get().kwargs == {"a": 4}


def test_many_of_which_one_is_a_duplicate_are_refused_together():
    tasks.once_a_user.enqueue(user=3)

    with pytest.raises(DuplicateJob, match="'once:3'"):
        enqueue_many(tasks.once_a_user.using(on_duplicate="raise"), [{"user": user} for user in (1, 2, 3)])

    assert Job.objects.count() == 1


def test_many_with_both_keys_keep_them_apart():
    many = tasks.once_a_user.using(idempotency_key="i:{user}")
    enqueue_many(many, [{"user": 2}, {"user": 1}, {"user": 2}])

    found = Job.objects.order_by("pk").values_list("kwargs", "idempotency_key", "dedupe_key")
    assert list(found) == [({"user": 2}, "i:2", "once:2"), ({"user": 1}, "i:1", "once:1")]


@pytest.mark.parametrize("size", [25_000])
def test_very_many_come_in_chunks(size):
    half = [{"user": user} for user in range(0, size, 2)]
    enqueue_many(tasks.once_a_user, half)

    results = enqueue_many(tasks.once_a_user, ({"user": user} for user in range(size)))

    assert len(results) == size == Job.objects.count()
    assert sum(row.is_duplicate for row in results.rows) == len(half)


# Transactions and races


@pytest.mark.django_db(transaction=True)
def test_rollback_of_the_first_lets_the_second_in():
    with transaction.atomic():
        keyed().enqueue(1)
        transaction.set_rollback(True)

    assert not keyed().enqueue(2).is_duplicate


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_does_not_break_the_caller_s_transaction():
    keyed().enqueue(1)

    with transaction.atomic():
        keyed().enqueue(2)
        enqueue_many(keyed(), [{"a": 3}])
        with pytest.raises(DuplicateJob):
            keyed(on_duplicate="raise").enqueue(4)
        tasks.add.enqueue(5)

    assert Job.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_duplicate", ["return", "replace"])
def test_of_many_that_enqueue_one_key_at_once_one_adds_the_job(on_duplicate):
    def hammer() -> list[Any]:
        return [keyed(on_duplicate=on_duplicate).enqueue(n) for n in range(20)]

    found = [result for results in at_once(*[hammer] * 4) for result in results]

    assert [result.is_duplicate for result in found].count(False) == 1
    assert {result.id for result in found} == {str(Job.objects.get().pk)}


@pytest.mark.django_db(transaction=True)
def test_a_holder_that_is_gone_when_it_is_looked_for_lets_the_next_in(monkeypatch):
    keyed().enqueue(1)
    insert = storage().insert_unless_held

    def released(row: Any) -> Any:
        added = insert(row)
        Job.objects.filter(dedupe_lock="k").exclude(pk=added.id if added else 0).update(
            state=State.SUCCEEDED, finished_at=storage().now(), dedupe_lock=None
        )
        return added

    monkeypatch.setattr(storage(), "insert_unless_held", released)
    monkeypatch.setattr(storage(), "holders", lambda keys: {})

    assert not keyed().enqueue(2).is_duplicate
    assert Job.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_key_that_is_released_all_the_time_never_has_two_jobs_and_is_never_refused():
    def hammer() -> int:
        return sum(not keyed().enqueue(n).is_duplicate for n in range(30))

    def end_them() -> int:
        ended = 0
        for _ in range(60):
            for pk in Job.objects.filter(state=State.READY).values_list("pk", flat=True):
                ended += len(lifecycle.cancel([pk]).done)
        return ended

    *added, ended = at_once(hammer, hammer, end_them)

    assert all(isinstance(count, int) for count in [*added, ended]), added
    assert Job.objects.count() == sum(added)
    assert Job.objects.filter(state=State.READY).count() <= 1


@pytest.mark.django_db(transaction=True)
def test_two_producers_of_the_same_many_in_opposite_orders_both_get_through():
    def many(users: range) -> Callable[[], Any]:
        return lambda: list(enqueue_many(tasks.once_a_user, [{"user": user} for user in users]))

    up, down = at_once(many(range(500)), many(range(499, -1, -1)))

    assert len(up) == len(down) == Job.objects.count() == 500
    assert {result.id for result in up} == {result.id for result in down}


@pytest.mark.django_db(transaction=True)
def test_whoever_holds_the_key_in_an_open_transaction_is_waited_for(vendor, eventually):
    if vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    inserted, may_end = threading.Event(), threading.Event()

    def hold() -> Any:
        with transaction.atomic():
            result = keyed().enqueue(1)
            inserted.set()
            assert may_end.wait(20)
        return result

    def follow() -> Any:
        assert inserted.wait(20)
        threading.Timer(0.3, may_end.set).start()
        return keyed().enqueue(2)

    first, second = at_once(hold, follow)

    assert (second.id, second.is_duplicate) == (first.id, True)


def test_the_storage_finds_holders_of_many_keys(vendor):
    enqueue_many(tasks.once_a_user, [{"user": user} for user in range(1200)])

    holders = storage().holders({f"once:{user}" for user in range(0, 2400, 2)})

    assert len(holders) == 600
    assert holders["once:4"].task_path == "tests.tasks.once_a_user"


# What is written wrong


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"on_duplicate": "ignore"}, "on_duplicate must be 'return', 'raise' or 'replace', not 'ignore'"),
        ({"dedupe_key": "{nobody}"}, "dedupe_key names 'nobody', which is no argument"),
        ({"dedupe_key": 3}, "dedupe_key is no format string"),
    ],
)
def test_options_that_cannot_work_are_refused_where_they_are_written(options, problem):
    with pytest.raises(ImproperlyConfigured, match=problem):
        task(**options)(tasks.add.func)
    with pytest.raises(ImproperlyConfigured, match=problem):
        tasks.add.using(**options)


def test_a_key_that_cannot_be_made_is_refused_before_any_sql(django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(InvalidPayload, match="dedupe_key is longer than 255"):
        keyed("x" * 256).enqueue(1)


# Whoever holds the key and will never run


def test_a_holder_that_is_too_late_is_ended_and_lets_the_new_job_in():
    late = keyed(expires_after=LATER).enqueue(1)
    Job.objects.update(expires_at=storage().now() - LATER)

    new = keyed(on_duplicate="raise").enqueue(2)

    assert not new.is_duplicate
    assert Job.objects.get(pk=late.id).state == State.DEAD
    assert DeadLetter.objects.get().reason == Reason.EXPIRED


def test_a_waiting_holder_that_somebody_has_cancelled_is_ended_and_lets_the_new_job_in():
    condemned = keyed().enqueue(1)
    Job.objects.update(cancel_requested=True)

    new = keyed(on_duplicate="replace").enqueue(2)

    assert not new.is_duplicate
    assert Job.objects.get(pk=condemned.id).state == State.CANCELLED
    run_jobs()
    assert Job.objects.get(pk=new.id).state == State.SUCCEEDED


def test_of_many_those_that_are_too_late_let_the_new_ones_in():
    enqueue_many(tasks.once_a_user.using(expires_after=LATER), [{"user": user} for user in range(4)])
    Job.objects.filter(dedupe_key__in=["once:1", "once:2"]).update(expires_at=storage().now() - LATER)

    results = enqueue_many(tasks.once_a_user, [{"user": user} for user in range(5)])

    assert [result.is_duplicate for result in results] == [True, False, False, True, False]
    assert Job.objects.dead().count() == 2


def test_replace_gives_the_new_payload_all_its_attempts():
    keyed(run_after=LATER).enqueue(1)
    Job.objects.update(attempts=4, crashes=2, worker_ids=["w"], held_since=storage().now())

    keyed(on_duplicate="replace").enqueue(2)

    job = Job.objects.get()
    assert (job.attempts - job.forgiven_attempts, job.crashes, job.held_since) == (0, 0, None)


def test_replace_gives_a_retry_that_becomes_due_a_new_place_in_line():
    keyed(run_after=LATER).enqueue(1)
    old = storage().now() - LATER
    Job.objects.update(ready_at=old)

    keyed(on_duplicate="replace").enqueue(2)

    assert Job.objects.get().ready_at > old


def test_a_replaced_job_wakes_the_queue_that_it_is_in(monkeypatch):
    keyed(run_after=LATER, queue_name="email").enqueue(1)
    woken: list[str] = []
    monkeypatch.setattr("jobs.enqueue.wake", woken.append)

    keyed(on_duplicate="replace").enqueue(2)
    keyed().enqueue(3)

    assert woken == [ANY_QUEUE]


def test_an_end_between_two_looks_loses_no_payload(monkeypatch):
    first = keyed().enqueue(1)
    replace = type(storage()).replace

    def too_late(self, row):
        lifecycle.cancel([int(first.id)])
        return replace(self, row)

    monkeypatch.setattr(type(storage()), "replace", too_late)

    assert not keyed(on_duplicate="replace").enqueue(2).is_duplicate


def test_within_one_batch_raise_names_no_job_that_was_never_there():
    with pytest.raises(DuplicateJob, match="by an earlier one of these payloads") as refusal:
        enqueue_many(keyed(on_duplicate="raise"), [{"a": 1}, {"a": 2}])

    assert refusal.value.job_id is None
    assert pickle.loads(pickle.dumps(refusal.value)).key == "k"


def test_results_of_duplicates_are_read_once_and_outlive_their_jobs(django_assert_max_num_queries):
    enqueue_many(tasks.once_a_user, [{"user": user} for user in range(50)])

    def listen(**kwargs: Any) -> None:
        pass

    task_enqueued.connect(listen)
    try:
        with django_assert_max_num_queries(12):
            results = enqueue_many(tasks.once_a_user, [{"user": user} for user in range(50)])
    finally:
        task_enqueued.disconnect(listen)
    Job.objects.all().delete()

    with django_assert_max_num_queries(0):
        assert [result.kwargs["user"] for result in results] == list(range(50))


@pytest.mark.django_db(transaction=True)
def test_whoever_begins_again_gives_back_what_he_has_taken(monkeypatch, vendor):
    """Else it would hold later keys while it waits for earlier ones, and somebody else the other way round."""
    if vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    holder = tasks.once_a_user.enqueue(user=2)
    holders = type(storage()).holders
    ended, other = threading.Event(), []
    threads: list[threading.Thread] = []

    def follow() -> None:
        other.extend(enqueue_many(tasks.once_a_user, [{"user": 2}, {"user": 5}]))
        connection.close()

    def end_and_let_another_follow() -> None:
        lifecycle.cancel([int(holder.id)])
        connection.close()
        threads.append(threading.Thread(target=follow))
        threads[0].start()
        threads[0].join(0.5)

    def too_late(self, keys):
        if not ended.is_set():
            ended.set()
            thread = threading.Thread(target=end_and_let_another_follow)
            thread.start()
            thread.join(10)
        return holders(self, keys)

    monkeypatch.setattr(type(storage()), "holders", too_late)

    results = enqueue_many(tasks.once_a_user, [{"user": user} for user in (2, 5)])
    threads[0].join(20)

    assert len(results) == len(other) == 2
    assert Job.objects.filter(state=State.READY).count() == 2
