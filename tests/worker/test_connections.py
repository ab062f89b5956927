"""What a worker does with connections between jobs."""

import threading
import time
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection, connections
from django.db.backends.signals import connection_created

from jobs.exceptions import TimedOut
from jobs.runs import Run, ThreadGate
from jobs.worker.connections import connections_of, discard, has_ended, is_closed, note_opened, opened, tidy
from jobs.worker.plan import Plan
from jobs.worker.watchdog import Watchdog
from tests.leases import a_lease

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def other(vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite has no server that could end a connection")
    made = connection.get_new_connection(connection.get_connection_params())
    made.autocommit = True
    yield made
    made.close()


def test_a_connection_that_the_server_ended_is_known_at_the_first_look(other):
    other.execute("SELECT 1")
    assert not has_ended(other)

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [other.info.backend_pid])
        until = time.monotonic() + 10
        while is_there(cursor, other.info.backend_pid) and time.monotonic() < until:
            time.sleep(0.01)
    # It leaves that list a moment before it closes its socket.
    time.sleep(0.5)

    assert has_ended(other)


def test_a_connection_that_serves_is_not_ended(other):
    for _ in range(3):
        other.execute("SELECT 1")
        assert not has_ended(other)


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_a_task_made_for_itself_and_left_open_is_closed(caplog):
    connection_created.connect(note_opened)
    try:
        stray = connection.copy()
        stray.ensure_connection()
        closed = connection.copy()
        closed.ensure_connection()
        closed.close()
        assert stray in connections_of(threading.get_ident())

        tidy()

        assert is_closed(stray.connection)
        assert stray not in connections_of(threading.get_ident())
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection_created.disconnect(note_opened)
        opened.connections.clear()
    assert [record.message for record in caplog.records] == ["connection left open by a task"]


def test_a_connection_that_a_task_has_closed_is_no_burden_for_the_next_one():
    connections["default"].close()
    connection_created.connect(note_opened)
    try:
        connection.ensure_connection()
        connection.connection.close()

        tidy()

        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection_created.disconnect(note_opened)
        opened.connections.clear()


def is_there(cursor, pid: int) -> bool:
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
    return bool(cursor.fetchone()[0])


def test_a_connection_that_fails_when_it_is_checked_costs_no_outcome(monkeypatch):
    def broken():
        raise RuntimeError("a driver's bug")

    failing = SimpleNamespace(alias="default", connection=object(), in_atomic_block=False, autocommit=True)
    failing.errors_occurred, failing.close_if_unusable_or_obsolete = True, broken
    discarded = []
    monkeypatch.setattr(opened, "connections", [failing])
    monkeypatch.setattr("jobs.worker.connections.discard", discarded.append)

    tidy()

    assert discarded == [failing]


@pytest.mark.django_db(transaction=True)
def test_a_run_that_waits_for_its_own_silent_connection_is_reached_by_its_timeout(vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite has no server that could fall silent")
    plan = Plan(worker_id="w", timeout_grace_seconds=0.4)
    engine = SimpleNamespace(plan=plan, patience=None, desk=None, retired=False)
    watchdog = Watchdog(engine, SimpleNamespace(renewed_at=time.monotonic(), patience=None))
    runs, outcome = [], []

    def wait():
        connection_created.connect(note_opened)
        run = Run(a_lease(claimed_monotonic=time.monotonic()), ThreadGate(), timeout_seconds=0.2)
        try:
            connection.ensure_connection()
            runs.append(run)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(4)")
        except BaseException as error:
            outcome.append(error)
        finally:
            run.gate.close()
            connection_created.disconnect(note_opened)
            discard(connections["default"])

    thread = threading.Thread(target=wait)
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        for run in runs:
            watchdog.check(run, time.monotonic())
        time.sleep(0.01)

    assert time.monotonic() - began < 3.5
    assert isinstance(outcome[0], TimedOut | OperationalError)
    assert runs[0].gate.error is not None
