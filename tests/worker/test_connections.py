"""What a worker does with connections between jobs."""

import time
from types import SimpleNamespace

import pytest
from django.db import connection

from jobs.worker.connections import has_ended, opened, tidy

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
