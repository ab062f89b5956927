"""The queue as Django's Tasks API sees it."""

import logging
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import registry
from jobs.backend import LARGEST_ID, JobsBackend
from jobs.compat import (
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from jobs.exceptions import TimedOut
from jobs.models import Job
from jobs.signals import job_dead, job_retry_scheduled
from jobs.states import State
from jobs.storage import storage
from jobs.testing import run_jobs
from jobs.wake import last_sent
from tests import tasks
from tests.admin.rows import a_job

pytestmark = pytest.mark.django_db

backend = task_backends["default"]


@pytest.fixture
def heard(request):
    """Receive what signals send; the receivers go with the test."""
    connected = []

    def listen(signal):
        events = []

        def receiver(sender, **kwargs):
            events.append((sender, kwargs))

        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))
        return events

    yield listen
    for signal, receiver in connected:
        signal.disconnect(receiver)


# What it says it can


@pytest.mark.parametrize("flag", ["supports_defer", "supports_async_task", "supports_get_result", "supports_priority"])
def test_backend_declares_everything_that_django_knows_of(flag):
    assert getattr(JobsBackend, flag) is True


def test_deferred_task_is_kept_until_it_is_due():
    moment = timezone.now() + timedelta(hours=1)

    tasks.add.using(run_after=moment).enqueue(1)

    job = Job.objects.get()
    assert (job.state, job.run_after) == (State.SCHEDULED, moment)


def test_async_task_runs():
    result = tasks.aadd.enqueue(1, b=2)

    run_jobs()

    result.refresh()
    assert result.return_value == 3


def test_priority_decides_who_runs_first():
    tasks.done.clear()
    tasks.add.using(priority=-5).enqueue(1)
    tasks.add.using(priority=5).enqueue(2)

    run_jobs()

    assert [a for a, _b in tasks.done] == [2, 1]


# Enqueue


def statements(captured) -> list[str]:
    found = [query["sql"] for query in captured]
    return [sql for sql in found if not sql.upper().startswith(("BEGIN", "SAVEPOINT", "RELEASE SAVEPOINT", "COMMIT"))]


def test_enqueue_is_one_insert_in_a_transaction():
    with CaptureQueriesContext(connection) as captured:
        tasks.add.enqueue(1, b=2)

    [sql] = statements(captured)
    assert sql.strip().upper().startswith("INSERT INTO")


@pytest.mark.django_db(transaction=True)
def test_enqueue_in_autocommit_is_one_statement(vendor):
    last_sent.clear()

    with CaptureQueriesContext(connection) as captured:
        tasks.add.enqueue(1)

    sql = statements(captured)
    assert sql[0].strip().upper().startswith("INSERT INTO")
    assert [("pg_notify" in text) for text in sql] == [vendor == "postgresql"]


@pytest.mark.django_db(transaction=True)
def test_a_burst_of_enqueues_notifies_once(vendor, monkeypatch):
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL notifies")
    monkeypatch.setattr("jobs.wake.time.monotonic", lambda: 1000.0)
    last_sent.clear()

    with CaptureQueriesContext(connection) as captured:
        for _ in range(10):
            tasks.add.enqueue(1)

    assert sum("pg_notify" in sql for sql in statements(captured)) == 1


@pytest.mark.django_db(transaction=True)
def test_job_that_is_not_due_wakes_nobody(monkeypatch):
    last_sent.clear()

    tasks.add.using(run_after=timedelta(hours=1)).enqueue(1)

    assert last_sent == {}


def test_enqueue_returns_djangos_result():
    result = tasks.add.enqueue(1, b=2)

    job = Job.objects.get()
    assert (result.id, result.status, result.backend) == (str(job.pk), TaskResultStatus.READY, "default")
    assert (result.args, result.kwargs, result.enqueued_at) == ([1], {"b": 2}, job.enqueued_at)
    assert (result.worker_ids, result.errors, result.attempts) == ([], [], 0)
    assert result.task == tasks.add


def test_task_options_reach_the_row():
    tasks.detailed.enqueue(delivery_id="d")

    job = Job.objects.get()
    assert (job.queue_name, job.priority, job.schema_version) == ("email", 7, 2)
    assert (job.max_attempts, job.max_crashes, job.timeout) == (9, 2, timedelta(seconds=12.5))
    assert job.task_path == "tests.tasks.detailed"


def test_aenqueue_and_aget_result_do_as_their_sync_twins():
    async def both():
        result = await tasks.add.aenqueue(1, b=2)
        return result, await backend.aget_result(result.id)

    # In the thread of the test, and so on its connection.
    enqueued, read = async_to_sync(both)()

    assert (read.id, read.kwargs, read.status) == (enqueued.id, {"b": 2}, TaskResultStatus.READY)


def test_queue_that_the_backend_does_not_have_is_refused():
    with pytest.raises(Exception, match="nowhere"):
        tasks.add.using(queue_name="nowhere")

    assert not Job.objects.exists()


def test_coroutine_cannot_be_transactional():
    from jobs import task

    with pytest.raises(ImproperlyConfigured, match="coroutine"):
        task(transactional=True)(tasks.aadd.func)


def test_transactional_is_refused_where_jobs_live_in_another_database(monkeypatch):
    monkeypatch.setattr("jobs.storage.storage", lambda: type("Elsewhere", (), {"alias": "jobs"}))

    with pytest.raises(ImproperlyConfigured, match="'jobs'"):
        tasks.write.enqueue("x")

    assert not Job.objects.exists()


# Results


def test_get_result_is_one_select(django_assert_num_queries):
    result = tasks.fail.enqueue()
    run_jobs(advance=True)

    with django_assert_num_queries(1):
        found = backend.get_result(result.id)

    assert len(found.errors) == 3


MALFORMED = ["404", "0", "-1", "", " ", "abc", "1.0", "1e3", "+1", "1_0", "0x1", "1\x00", "\ud800", None]
# Digits that are not ASCII: Arabic, full width, superscript.
MALFORMED += ["\u0661", "\uff11", "\u00b2", "e8b5a9b6-7c3f-4c57-9d0f-0123456789ab"]
MALFORMED += ["9" * 19, "9" * 30, "9" * 5000, str(LARGEST_ID + 1)]


@pytest.mark.parametrize("result_id", MALFORMED)
def test_missing_or_malformed_id_does_not_exist(result_id):
    a_job()

    with pytest.raises(TaskResultDoesNotExist):
        backend.get_result(result_id)


def test_malformed_id_costs_no_query(django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(TaskResultDoesNotExist):
        backend.get_result("abc")


def test_result_of_another_task_is_a_mismatch():
    result = tasks.add.enqueue(1)

    with pytest.raises(TaskResultMismatch):
        tasks.fail.get_result(result.id)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.SCHEDULED, TaskResultStatus.READY),
        (State.READY, TaskResultStatus.READY),
        (State.RUNNING, TaskResultStatus.RUNNING),
        (State.SUCCEEDED, TaskResultStatus.SUCCESSFUL),
        (State.DEAD, TaskResultStatus.FAILED),
        (State.CANCELLED, TaskResultStatus.FAILED),
    ],
)
def test_state_reads_as_djangos_status(state, status):
    job = a_job(state)

    assert backend.get_result(str(job.pk)).status == status


def test_finished_result_has_its_return_value_and_times():
    result = tasks.add.enqueue(1, b=2)
    run_jobs()

    result.refresh()

    assert (result.status, result.return_value, result.attempts) == (TaskResultStatus.SUCCESSFUL, 3, 1)
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
    assert result.is_finished


def test_unfinished_result_has_no_return_value():
    result = tasks.add.enqueue(1)

    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value


def test_worker_ids_has_one_worker_per_attempt():
    result = tasks.flaky.enqueue(fails=2)

    for expected in (1, 2, 3):
        run_jobs(max_jobs=1, advance=True)
        result.refresh()
        assert len(result.worker_ids) == expected == result.attempts

    assert len(set(result.worker_ids)) == 3


def test_worker_of_the_attempt_that_is_running_is_named():
    job = a_job(State.RUNNING, worker_ids=["w0"])

    assert backend.get_result(str(job.pk)).worker_ids == ["w0", "w1"]


def test_errors_name_class_and_traceback_of_each_attempt():
    result = tasks.fail.enqueue("boom")
    run_jobs(advance=True)

    result.refresh()

    assert [error.exception_class for error in result.errors] == [ValueError] * 3
    assert "boom" in result.errors[0].traceback


def test_result_stays_readable_after_the_tasks_code_is_gone():
    job = a_job(State.SUCCEEDED, task_path="shop.gone.charge", return_value=7)
    registry.forget()

    result = backend.get_result(str(job.pk))

    assert (result.return_value, result.task.module_path, result.task.name) == (7, "shop.gone.charge", "charge")
    with pytest.raises(ImproperlyConfigured, match=r"shop\.gone\.charge"):
        result.task.call()


def test_result_stays_readable_after_its_queue_left_the_settings():
    job = a_job(State.SUCCEEDED, task_path="tests.tasks.add", queue_name="abolished", return_value=7)

    result = backend.get_result(str(job.pk))

    assert (result.return_value, result.task.queue_name) == (7, "abolished")


def test_context_is_given_to_a_task_that_takes_it():
    result = tasks.tell.enqueue(name="x")
    run_jobs()

    result.refresh()

    assert result.return_value == {"attempt": 1, "job_id": result.id, "asked_to_stop": False}


# Signals


def test_sender_of_djangos_signals_is_the_backends_class(heard):
    events = {signal: heard(signal) for signal in (task_enqueued, task_started, task_finished)}

    result = tasks.add.enqueue(1)
    run_jobs()

    for received in events.values():
        [(sender, sent)] = received
        assert sender is JobsBackend
        assert sent["task_result"].id == result.id


@pytest.mark.parametrize("signal", [task_enqueued, task_started, task_finished, job_retry_scheduled, job_dead])
def test_a_receiver_that_raises_breaks_nothing(signal):
    def broken(**kwargs):
        raise RuntimeError("the receiver is broken")

    signal.connect(broken)
    try:
        good, bad = tasks.add.enqueue(1), tasks.fail.enqueue()
        run_jobs(advance=True)
    finally:
        signal.disconnect(broken)

    good.refresh()
    bad.refresh()
    assert (good.return_value, bad.status) == (1, TaskResultStatus.FAILED)


def test_task_finished_is_sent_for_the_last_outcome_only(heard):
    finished, started, retried, dead = map(heard, (task_finished, task_started, job_retry_scheduled, job_dead))

    tasks.fail.enqueue()
    run_jobs(advance=True)

    assert [sent["task_result"].status for _, sent in finished] == [TaskResultStatus.FAILED]
    assert len(started) == 3
    assert [(sender, sent["attempt"]) for sender, sent in retried] == [(JobsBackend, 1), (JobsBackend, 2)]
    assert [sent["reason"] for _, sent in dead] == ["attempts_exhausted"]


def test_snooze_finishes_nothing(heard):
    finished = heard(task_finished)

    tasks.say.enqueue("snooze")
    run_jobs()

    assert finished == []


def test_attempt_that_will_be_retried_is_not_logged_as_an_error(caplog):
    with caplog.at_level(logging.INFO):
        tasks.flaky.enqueue(fails=1)
        run_jobs(advance=True)

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_final_failure_is_logged_with_its_traceback(caplog):
    with caplog.at_level(logging.INFO):
        tasks.misdirected.enqueue()
        run_jobs()

    assert any("there is no customer 7" in (record.exc_text or str(record.exc_info)) for record in caplog.records)


def test_the_end_of_a_job_that_raised_nothing_is_logged_without_a_traceback_of_ours(caplog):
    with caplog.at_level(logging.INFO):
        tasks.say.enqueue("cancel")
        run_jobs()

    told = [record.exc_info for record in caplog.records if record.exc_info]
    assert [(type(error).__name__, traceback) for _, error, traceback in told] == [("JobEnded", None)]


def test_interruptions_are_not_exceptions_that_a_task_would_catch():
    assert not issubclass(TimedOut, Exception)


def test_storage_is_shared_but_backends_keep_no_state_of_a_thread():
    assert storage() is storage()
    assert set(vars(backend)) <= {"alias", "queues", "options", "jobs_options"}
