"""How a worker learns of work: at once when it is told, and again after its connections were lost."""

import pytest
from django.db import connection

from jobs import lifecycle
from jobs.models import Attempt, Job
from jobs.states import State
from tests.acceptance import tasks
from tests.acceptance.rows import have_succeeded, row_of

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_idle_worker_starts_a_job_long_before_it_would_poll(worker, ledger, eventually):
    worker("--poll-interval", "5").wait_ready()
    first = tasks.work.enqueue(ledger=str(ledger), name="first")
    eventually(lambda: have_succeeded(first), within=10)

    # One might be found by a poll that happens to be due; three in a row are not.
    for name in ("one", "two", "three"):
        result = tasks.work.enqueue(ledger=str(ledger), name=name)
        eventually(lambda result=result: have_succeeded(result), within=2)


def test_a_paused_queue_is_left_alone_until_it_is_resumed(worker, ledger, eventually):
    worker("--poll-interval", "5").wait_ready()
    lifecycle.pause("email")
    waiting = tasks.work.using(queue_name="email").enqueue(ledger=str(ledger), name="waiting")

    other = tasks.work.enqueue(ledger=str(ledger), name="other")
    eventually(lambda: have_succeeded(other), within=2)
    assert (row_of(waiting).state, row_of(waiting).lease_token) == (State.READY, 0)

    lifecycle.resume("email")
    eventually(lambda: have_succeeded(waiting), within=2)


def terminate_other_connections() -> int:
    """Do what an administrator does, and return how many connections it hit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        found: int = cursor.fetchone()[0]
        return found


def test_a_worker_goes_on_after_the_server_ended_all_its_connections(worker, ledger, vendor, eventually):
    if vendor != "postgresql":
        pytest.skip("SQLite has no server")
    tree = worker("--lease", "6", "--poll-interval", "0.2", "--threads", "2").wait_ready()
    before = tree.children()
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    written = tasks.write.enqueue(name="before")
    eventually(lambda: ledger.has("held started") and have_succeeded(written))

    # The engine, the listener, housekeeping, and the thread of the written row; the heartbeat's once it has beaten.
    assert terminate_other_connections() >= 4
    ledger.open()
    after = tasks.write.enqueue(name="after")

    eventually(lambda: have_succeeded(held, after), within=10)
    assert tree.children() == before
    assert set(Job.objects.values_list("attempts", "crashes")) == {(1, 0)}
    assert not Attempt.objects.exists()
    assert ledger.count("held done") == 1
    woken = tasks.work.enqueue(ledger=str(ledger), name="woken")
    eventually(lambda: have_succeeded(woken), within=2)
