"""Rule 9: enqueue joins the caller's transaction."""

import asyncio
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone

from jobs import DuplicateJob, aenqueue_many, aenqueue_on_commit, enqueue_many, enqueue_on_commit
from jobs.compat import InvalidTask, task_backends
from jobs.exceptions import InvalidPayload
from jobs.models import Job, Queue
from jobs.storage import storage
from jobs.testing import with_backend
from jobs.wake import LATE_SECONDS, last_sent
from tests import tasks

pytestmark = pytest.mark.django_db


def seen_by_others() -> int:
    """Count jobs on another connection."""
    found: list[int] = []

    def look() -> None:
        found.append(Job.objects.count())
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.django_db(transaction=True)
def test_enqueue_in_a_rolled_back_transaction_leaves_nothing():
    with transaction.atomic():
        Group.objects.create(name="order")
        tasks.add.enqueue(1)
        enqueue_many(tasks.add, [{"a": 1}, {"a": 2}])
        transaction.set_rollback(True)

    assert (Job.objects.count(), Group.objects.count()) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_enqueue_in_a_committed_transaction_leaves_exactly_one_job():
    with transaction.atomic():
        Group.objects.create(name="order")
        tasks.add.enqueue(1)

    assert seen_by_others() == 1


@pytest.mark.django_db(transaction=True)
def test_no_worker_sees_a_job_before_its_transaction_commits():
    with transaction.atomic():
        tasks.add.enqueue(1)
        assert seen_by_others() == 0

    assert seen_by_others() == 1


@pytest.mark.django_db(transaction=True)
def test_workers_are_woken_after_the_commit_and_never_before(monkeypatch):
    woken: list[str] = []
    monkeypatch.setattr("jobs.wake.send", woken.append)

    with transaction.atomic():
        tasks.add.enqueue(1)
        tasks.detailed.enqueue(delivery_id="d")
        assert woken == []

    assert woken == ["default", "email"]


@pytest.mark.django_db(transaction=True)
def test_wake_up_that_fails_does_not_fail_the_enqueue(monkeypatch):
    def broken(queue_name):
        raise RuntimeError("no more connections")

    monkeypatch.setattr("jobs.wake.send", broken)

    with transaction.atomic():
        tasks.add.enqueue(1)

    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_enqueue_outside_of_a_transaction_notifies_in_the_same_commit(vendor, django_assert_num_queries):
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL notifies")
    last_sent.clear()
    watch = storage().watch()

    with django_assert_num_queries(1):
        tasks.add.enqueue(1)

    watch.probe()  # on the same connection the news came with the answer to the INSERT
    assert watch.wait(5) == {"default"}


@pytest.mark.django_db(transaction=True)
def test_a_full_queue_of_notifications_does_not_fail_the_enqueue(vendor):
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL notifies")
    last_sent.clear()

    def full(execute, sql, params, many, context):
        if "pg_notify" in sql:
            raise OperationalError("too many notifications in the NOTIFY queue") from NotifyQueueFull()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(full):
        tasks.add.enqueue(1)

    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_an_insert_that_fails_keeps_no_notification_from_the_next(monkeypatch):
    last_sent.clear()
    insert = type(storage()).insert

    def fails(self, rows, tell=False):
        raise OperationalError("the disk is full")

    monkeypatch.setattr(type(storage()), "insert", fails)
    with pytest.raises(OperationalError):
        tasks.add.enqueue(1)

    told = []
    monkeypatch.setattr(
        type(storage()), "insert", lambda self, rows, tell: told.append(tell) or insert(self, rows, tell)
    )
    tasks.add.enqueue(1)
    assert told == [True]


@pytest.mark.django_db(transaction=True)
def test_a_notification_that_fails_keeps_none_from_the_next(monkeypatch):
    last_sent.clear()
    told = []

    def fails(self, queue_name):
        told.append(queue_name)
        raise OperationalError("the server is gone")

    monkeypatch.setattr(type(storage()), "notify", fails)
    for _ in range(2):
        with transaction.atomic():
            tasks.add.enqueue(1)

    assert told == ["default", "default"]


@pytest.mark.django_db(transaction=True)
def test_a_commit_slower_than_workers_look_gets_a_notification_of_its_own(monkeypatch):
    last_sent.clear()
    insert, told = type(storage()).insert, []

    def slow(self, rows, tell):
        time.sleep(0 if tell else 2 * LATE_SECONDS)
        return insert(self, rows, tell)

    monkeypatch.setattr(type(storage()), "insert", slow)
    monkeypatch.setattr(type(storage()), "notify", lambda self, queue_name: told.append(queue_name))
    last_sent["default"] = time.monotonic()
    tasks.add.enqueue(1)

    assert told == ["default"]


class NotifyQueueFull(Exception):
    sqlstate = "54000"


def test_enqueue_never_touches_the_queues_table():
    tasks.add.enqueue(1)

    assert not Queue.objects.exists()


# Many


def test_enqueue_many_keeps_the_order_in_results_and_rows():
    results = enqueue_many(tasks.add, [{"a": n} for n in range(20)])

    assert [result.kwargs["a"] for result in results] == list(range(20))
    assert [int(result.id) for result in results] == list(Job.objects.order_by("pk").values_list("pk", flat=True))
    assert [job.kwargs["a"] for job in Job.objects.order_by("pk")] == list(range(20))


def test_results_of_many_are_a_sequence():
    results = enqueue_many(tasks.add, [{"a": n, "b": {"deep": [n]}} for n in range(5)])

    assert [result.kwargs["a"] for result in results[1:3]] == [1, 2]
    assert results[-1].id == str(Job.objects.order_by("-pk").first().pk)
    assert results[2] == results[2] == tasks.add.get_result(results[2].id)
    assert results == list(results)
    with pytest.raises(IndexError):
        results[5]


def test_results_of_many_do_not_follow_what_the_caller_does_to_a_payload_afterwards():
    payload = {"a": 1}
    results = enqueue_many(tasks.add, [payload])

    payload["a"] = 2

    assert results[0].kwargs == {"a": 1}


def test_enqueue_many_keeps_each_idempotency_key():
    keyed = replace(tasks.detailed, idempotency_key="mail:{delivery_id}")

    enqueue_many(keyed, [{"delivery_id": f"d{n}"} for n in range(3)])

    assert list(Job.objects.order_by("pk").values_list("idempotency_key", flat=True)) == [
        "mail:d0",
        "mail:d1",
        "mail:d2",
    ]


AWKWARD = ['a "quote" and \\ a \\u0041', "ünï 😀", "", 2**62, 1.5e9, 0.1, -0.0, True, None, {"": [[], {}]}]


@pytest.mark.parametrize("value", AWKWARD)
def test_enqueue_many_stores_what_enqueue_stores(value):
    alone = tasks.detailed.using(timeout=9.5).enqueue(delivery_id=value)
    [among] = enqueue_many(tasks.detailed.using(timeout=9.5), [{"delivery_id": value}])

    rows = [dict(Job.objects.values().get(pk=result.id)) for result in (alone, among)]
    moments = ("id", "enqueued_at", "ready_at")
    lasting = [{k: v for k, v in row.items() if k not in moments} for row in rows]
    assert lasting[0] == lasting[1]
    assert rows[1]["kwargs"] == {"delivery_id": value} == among.kwargs
    assert [type(rows[1][k]) for k in moments] == [type(rows[0][k]) for k in moments]


def test_enqueue_many_takes_a_delay():
    results = enqueue_many(tasks.add.using(run_after=timedelta(hours=1)), [{"a": n} for n in range(3)])

    assert {job.state for job in Job.objects.all()} == {"scheduled"}
    assert all(job.run_after - job.enqueued_at == timedelta(hours=1) for job in Job.objects.all())
    assert [result.kwargs["a"] for result in results] == [0, 1, 2]


def test_enqueue_many_of_more_than_fit_one_statement_keeps_the_order(monkeypatch):
    monkeypatch.setattr("jobs.storage.postgresql.CHUNK", 7)
    monkeypatch.setattr("jobs.storage.sqlite.CHUNK", 7)

    results = enqueue_many(tasks.add, [{"a": n} for n in range(20)])

    assert [Job.objects.get(pk=result.id).kwargs["a"] for result in results] == list(range(20))


def test_enqueue_many_is_all_or_nothing():
    with pytest.raises(InvalidPayload):
        enqueue_many(tasks.add, [{"a": 1}, {"b": 2}])

    assert not Job.objects.exists()


def test_enqueue_many_takes_any_iterable_and_also_an_empty_one():
    assert len(enqueue_many(tasks.add, ({"a": n} for n in range(3)))) == 3
    assert enqueue_many(tasks.add, []) == []


@pytest.mark.parametrize("wrong", [(1, 2), "a", None, [("a", 1)]])
def test_enqueue_many_says_what_it_takes(wrong):
    with pytest.raises(InvalidPayload, match="a dict of keyword arguments for each job"):
        enqueue_many(tasks.add, [{"a": 1, "b": 2}, wrong])

    assert not Job.objects.exists()


def test_enqueue_many_takes_the_options_of_one_call():
    enqueue_many(tasks.add.using(priority=9, queue_name="email"), [{"a": 1}, {"a": 2}])

    assert set(Job.objects.values_list("priority", "queue_name")) == {(9, "email")}


def test_many_are_inserted_by_one_statement_on_postgresql(vendor, django_assert_max_num_queries):
    if vendor != "postgresql":
        pytest.skip("other databases insert in chunks")

    with django_assert_max_num_queries(1):
        enqueue_many(tasks.add, [{"a": n} for n in range(500)])

    assert Job.objects.count() == 500


# After the commit of another database


@pytest.fixture
def other_database(tmp_path, monkeypatch):
    """A second database that no job is in."""
    other = connection.settings_dict | {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "other.sqlite3"),
        "OPTIONS": {},
    }
    monkeypatch.setitem(connections.settings, "other", other)
    connections["other"].connect()  # a test case lets nobody else open it
    yield "other"
    connections["other"].close()
    del connections["other"]


@pytest.mark.django_db(transaction=True)
def test_enqueue_on_commit_waits_for_the_other_database(other_database):
    payload = {"n": [1]}
    with transaction.atomic(using=other_database):
        enqueue_on_commit(tasks.anything, using=other_database, **payload)
        payload["n"].append(2)
        assert not Job.objects.exists()

    assert Job.objects.get().kwargs == {"n": [1]}


@pytest.mark.django_db(transaction=True)
def test_enqueue_on_commit_leaves_nothing_after_a_rollback(other_database):
    with transaction.atomic(using=other_database):
        enqueue_on_commit(tasks.add, 1, using=other_database)
        transaction.set_rollback(True, using=other_database)

    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_enqueue_on_commit_outside_of_a_transaction_enqueues_at_once():
    enqueue_on_commit(tasks.add, 1, b=2)

    assert Job.objects.get().args == [1]


@pytest.mark.django_db(transaction=True)
def test_enqueue_on_commit_refuses_a_wrong_payload_where_it_is_called(other_database):
    with transaction.atomic(using=other_database), pytest.raises(InvalidPayload, match="add: "):
        enqueue_on_commit(tasks.add, c=1, using=other_database)


@pytest.mark.django_db(transaction=True)
def test_an_enqueue_on_commit_that_fails_is_heard_of(other_database):
    tasks.add.using(dedupe_key="k").enqueue(1)
    block = transaction.atomic(using=other_database)

    with pytest.raises(DuplicateJob), block:
        enqueue_on_commit(tasks.add.using(dedupe_key="k", on_duplicate="raise"), 2, using=other_database)


@pytest.mark.django_db(transaction=True)
def test_enqueue_on_commit_works_with_a_backend_of_tests(settings, other_database):
    settings.TASKS = with_backend(settings.TASKS, "jobs.testing.DummyBackend")

    with transaction.atomic(using=other_database):
        enqueue_on_commit(tasks.add, 1, using=other_database)

    assert [result.args for result in task_backends["default"].results] == [[1]]


@pytest.mark.django_db(transaction=True)
def test_the_async_twins_do_what_the_others_do():
    async def act():
        await aenqueue_on_commit(tasks.add, 1)
        results = await aenqueue_many(tasks.add, ({"a": n} for n in (2, 3)))
        await sync_to_async(connections.close_all)()  # of the thread that did it
        return results

    results = asyncio.run(act())

    assert [result.kwargs for result in results] == [{"a": 2}, {"a": 3}]
    assert Job.objects.count() == 3


def test_a_delay_that_no_column_holds_is_refused():
    with pytest.raises(ImproperlyConfigured, match="run_after"):
        tasks.add.using(run_after=timedelta(days=4000))
    with pytest.raises(InvalidTask, match="3650 days ahead"):
        tasks.add.using(run_after=timezone.now() + timedelta(days=4000)).enqueue(1)


def test_of_many_payloads_the_one_that_is_wrong_is_named():
    with pytest.raises(InvalidPayload, match=r"\(payload 2 of enqueue_many\)"):
        enqueue_many(tasks.add, [{"a": 1}, {"c": 1}])
