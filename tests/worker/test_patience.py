"""A connection that falls silent is given up: by whoever watches, in time, and only then."""

import threading
import time
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.signals import connection_created

from jobs.worker.connections import limit_waits
from jobs.worker.patience import Patience, hang_up, tell_server
from jobs.worker.plan import Plan


@pytest.fixture
def ended(monkeypatch):
    """The waits that were ended; their connection is to a server that could fall silent."""
    waits = []
    monkeypatch.setattr(Patience, "end", lambda patience, wait: waits.append(wait))
    monkeypatch.setattr("jobs.worker.patience.connections", {"default": SimpleNamespace(vendor="postgresql")})
    return waits


def test_a_wait_that_is_over_is_nothing_to_end(ended):
    patience = Patience("engine", 1.0)

    with patience.waiting("default"):
        patience.look(time.monotonic() + 0.9)
    patience.look(time.monotonic() + 1e6)

    assert ended == []


def test_a_wait_that_lasts_too_long_is_ended_once_in_so_long(ended, eventually):
    patience = Patience("engine", 1.0)

    with patience.waiting("default"):
        now = time.monotonic()
        for seconds in (1.1, 1.5, 2.0, 2.2):
            patience.look(now + seconds)

    eventually(lambda: ended == [1, 1])


def test_each_of_several_statements_has_all_the_patience(ended, monkeypatch):
    patience = Patience("housekeeping", 1.0)

    with patience.waiting("default"):
        monkeypatch.setattr(time, "monotonic", lambda: 1e9)
        patience.again()
        patience.look(1e9 + 0.9)

    assert ended == []


def test_whoever_comes_too_late_ends_no_other_wait(monkeypatch):
    hung_up = []
    monkeypatch.setattr("jobs.worker.patience.hang_up", hung_up.append)
    patience = Patience("engine", 1.0)
    with patience.waiting("default"):
        wait = patience.waits

    patience.end(wait)
    with patience.waiting("default"):
        patience.end(wait)

    assert hung_up == []


@pytest.mark.django_db(transaction=True)
def test_whoever_waits_for_a_silent_server_gets_an_error_and_the_next_connection_works(vendor, eventually):
    if vendor != "postgresql":
        pytest.skip("SQLite has no server that could fall silent")
    patience, errors = Patience("engine", 0.2), []

    def wait():
        try:
            with patience.waiting("default"), connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(3)")
        except OperationalError as error:
            errors.append(error)
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()

    thread = threading.Thread(target=wait)
    thread.start()
    while thread.is_alive():
        patience.look(time.monotonic())
        time.sleep(0.01)

    assert len(errors) == 1


@pytest.mark.django_db(transaction=True)
def test_a_wait_for_a_lock_leaves_no_backend_behind_that_waits_on(vendor, eventually):
    if vendor != "postgresql":
        pytest.skip("SQLite has no backends")
    patience, done = Patience("engine", 0.2), []

    def wait():
        try:
            with patience.waiting("default"), connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM jobs_queue")
        except OperationalError as error:
            done.append(error)
        connection.close()

    def waiting():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return cursor.fetchone()[0]

    thread = threading.Thread(target=wait)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_queue IN ACCESS EXCLUSIVE MODE")
        thread.start()
        while thread.is_alive():
            patience.look(time.monotonic())
            time.sleep(0.01)
        eventually(lambda: waiting() == 0)

    assert len(done) == 1


LIMITS = ("statement_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture
def limits_in(vendor):
    """Return the limits that a server was told of the connection which `act` opens."""
    if vendor != "postgresql":
        pytest.skip("SQLite has no server")
    limit_waits(60.0)

    def limits(act) -> list[str]:
        found = []

        def look():
            act()
            with connection.cursor() as cursor:
                for name in LIMITS:
                    cursor.execute(f"SHOW {name}")
                    found.extend(cursor.fetchone())
            connection.close()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found

    return limits


def connect_as_a_loop():
    with Patience("engine", 7.0).waiting("default"):
        connection.ensure_connection()


@pytest.mark.django_db(transaction=True)
def test_the_server_knows_how_long_a_loop_waits_for_it(limits_in):
    assert limits_in(connect_as_a_loop) == ["7s", "7s"]


@pytest.mark.django_db(transaction=True)
def test_a_task_s_own_connection_is_not_limited(limits_in):
    connect_as_a_loop()
    assert limits_in(connection.ensure_connection) == ["0", "0"]


@pytest.mark.django_db(transaction=True)
def test_limits_that_people_have_set_themselves_are_kept(limits_in, monkeypatch):
    options = connection.settings_dict["OPTIONS"] | {"options": "-c statement_timeout=9s"}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)

    assert limits_in(connect_as_a_loop) == ["9s", "7s"]


@pytest.mark.django_db(transaction=True)
def test_a_pooler_s_sessions_are_left_alone(limits_in, monkeypatch):
    known_as = property(lambda info: 1)
    monkeypatch.setattr("psycopg.ConnectionInfo.backend_pid", known_as)

    assert limits_in(connect_as_a_loop) == ["0", "0"]


@pytest.mark.parametrize(
    ("vendor", "driver", "options", "waited", "excused"),
    [
        ("postgresql", None, {}, 9.0, True),
        ("postgresql", object(), {}, 0.1, False),
        ("sqlite", object(), {"timeout": 20}, 59.0, True),
        ("sqlite", object(), {"timeout": 20}, 61.0, False),
        ("sqlite", object(), {}, 14.0, True),
        ("sqlite", object(), {}, 16.0, False),
    ],
)
def test_who_connects_or_waits_for_sqlite_s_lock_is_not_standing_still(
    monkeypatch, vendor, driver, options, waited, excused
):
    connection = SimpleNamespace(vendor=vendor, connection=driver, settings_dict={"OPTIONS": options})
    monkeypatch.setattr("jobs.worker.patience.connections", {"default": connection})
    patience = Patience("engine", 1.0)
    assert not patience.is_excused(time.monotonic())

    with patience.waiting("default"):
        assert patience.is_excused(patience.began_at + waited) == excused


@pytest.mark.django_db
def test_hanging_up_where_there_is_no_connection_is_no_error():
    hang_up(connections["default"].copy())


def test_a_loop_waits_so_long_that_its_leases_can_still_be_renewed():
    for lease in (10.0, 60.0, 3600.0):
        plan = Plan(worker_id="w", lease_seconds=lease, heartbeat_seconds=lease / 3)

        # The beat before it had answered; this one waits in vain; the next is on another connection.
        assert plan.heartbeat_seconds + plan.patience_seconds < lease * 5 / 6


@pytest.mark.parametrize(
    ("lease", "given", "limit"),
    [(60.0, {}, 10), (60.0, {"connect_timeout": 3}, 3), (6.0, {"connect_timeout": None}, 2)],
)
def test_connecting_takes_no_longer_than_a_sixth_of_a_lease(monkeypatch, lease, given, limit):
    monkeypatch.setattr(connections["default"], "vendor", "postgresql")
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", given)

    limit_waits(lease)

    assert connections["default"].settings_dict["OPTIONS"]["connect_timeout"] == limit
    assert connections["default"].settings_dict["OPTIONS"]["tcp_user_timeout"] == 30_000


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_is_opened_meanwhile_has_a_patience_of_its_own():
    patience = Patience("engine", 5.0)
    connection.close()
    connection_created.connect(tell_server)

    try:
        with patience.waiting("default"):
            before = patience.waits
            connection.ensure_connection()

            assert patience.waits > before
    finally:
        connection_created.disconnect(tell_server)
