"""What a tree does besides running jobs, one tick at a time."""

import time
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.db.models import F

from jobs.conf import Options
from jobs.models import Job, Queue, Worker
from jobs.states import State
from jobs.storage import Pulse, storage
from jobs.worker.housekeeping import FORGOTTEN, IDLE_SECONDS, Housekeeping, Presence
from tests import tasks
from tests.admin.rows import a_job

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)


def keeper(**changes) -> Housekeeping:
    values = {"tree": "t", "hostname": "h", "queues": [], "heartbeat_seconds": 20.0, "drain": False}
    return Housekeeping(storage(), Options(), **values | changes)


def expired_job() -> Job:
    tasks.add.enqueue(1)
    storage().claim("gone", "default", 1, LEASE)
    Job.objects.update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))
    return Job.objects.get()


def test_due_jobs_are_promoted():
    tasks.add.using(run_after=timedelta(hours=1)).enqueue(1)
    Job.objects.update(run_after=F("run_after") - timedelta(hours=2))

    keeper().tick()

    assert Job.objects.get().state == State.READY


def test_what_comes_due_gets_a_free_slot_at_once_however_many_keys_wait(monkeypatch):
    monkeypatch.setattr("jobs.worker.housekeeping.KEYS_AT_ONCE", 1)
    for key in ("a", "b", "c"):
        tasks.add.using(concurrency_key=key).enqueue(1)
    keyed = tasks.add.using(concurrency_key="z", run_after=timedelta(hours=1))
    keyed.enqueue(1)
    Job.objects.scheduled().update(run_after=F("run_after") - timedelta(hours=2))

    keeper().tick()

    assert not Job.objects.get(concurrency_key="z").blocked
    assert Job.objects.blocked().count() == 2  # these wait for their turn of housekeeping


def test_nothing_is_reaped_before_the_reaper_could_write_for_a_heartbeat():
    job = expired_job()
    house = keeper()

    house.tick()

    job.refresh_from_db()
    assert job.state == State.RUNNING


def test_expired_lease_is_reaped_once_the_reaper_is_trusted():
    job = expired_job()
    told = []
    house = keeper(on_settled=told.extend)
    house.trust.since, house.trust.last = time.monotonic() - 60, time.monotonic()

    house.tick()

    job.refresh_from_db()
    assert (job.state, job.suspect) == (State.READY, True)
    assert [settlement.lease.id for settlement in told] == [job.pk]
    assert house.findings.suspects_wait


def test_every_queue_that_has_ready_jobs_gets_a_row():
    tasks.add.enqueue(1)
    tasks.detailed.enqueue(delivery_id="d")

    keeper().tick()

    assert list(Queue.objects.values_list("name", flat=True)) == ["default", "email"]


def test_suspects_of_a_queue_that_this_tree_serves_are_found():
    a_job(suspect=True, queue_name="email")
    served, other = keeper(queues=["email"]), keeper(queues=["default"])

    served.tick()
    other.tick()

    assert (served.findings.suspects_wait, other.findings.suspects_wait) == (True, False)


def test_presence_is_shown_refreshed_and_taken_away():
    house = keeper(queues=["email"])
    house.present(Presence("w1", 11, 4))
    house.tick()
    shown = Worker.objects.get()
    assert (shown.worker_id, shown.pid, shown.tree, shown.queues) == ("w1", 11, "t", ["email"])

    house.absent("w1")
    house.tick()
    assert not Worker.objects.exists()


def test_worker_that_nobody_has_seen_for_long_is_forgotten_and_another_tree_is_not():
    moment = storage().now()
    for name, seen in (("old", moment - 2 * FORGOTTEN), ("other", moment)):
        Worker.objects.create(
            worker_id=name, tree=name, hostname="h", pid=1, threads=1, started_at=seen, last_seen_at=seen
        )

    keeper().show()

    assert list(Worker.objects.values_list("worker_id", flat=True)) == ["other"]


def test_chore_is_done_again_until_the_database_allows_it():
    house, tries = keeper(), []

    def act():
        tries.append(1)
        if len(tries) == 1:
            raise OperationalError("the server is gone")
        return []

    house.chore(act)
    with pytest.raises(OperationalError):
        house.tick()
    house.tick()

    assert len(tries) == 2
    assert house.chores.empty()


def test_prune_walks_on_where_it_stopped(monkeypatch):
    monkeypatch.setattr("jobs.worker.housekeeping.PRUNED_AT_ONCE", 2)
    for _ in range(3):
        a_job(State.SUCCEEDED)
    Job.objects.update(finished_at=F("finished_at") - timedelta(days=8), enqueued_at=F("enqueued_at") - timedelta(8))
    house = keeper()

    house.prune(100.0)
    assert (Job.objects.count(), house.prune_at) == (1, 101.0)

    house.prune(101.0)
    assert (Job.objects.count(), house.pruned_to, house.prune_at) == (0, 0, 161.0)


def drained(**changes) -> bool:
    house = keeper(drain=True, **changes)
    house.presences["w1"] = Presence("w1", 1, 1)
    house.look_for_the_end()
    return house.findings.drained


def test_empty_table_is_drained():
    assert drained()


@pytest.mark.parametrize(
    "fields",
    [
        {"state": State.READY},
        {"state": State.RUNNING, "leased_by": "w1"},
        {"state": State.SCHEDULED, "seconds": 2},
    ],
)
def test_ready_jobs_own_running_ones_and_those_due_within_five_seconds_keep_a_drain_going(fields):
    seconds = fields.pop("seconds", None)
    if seconds:
        fields["run_after"] = storage().now() + timedelta(seconds=seconds)
    a_job(**fields)

    assert not drained()


def test_what_this_tree_may_not_run_does_not_keep_a_drain_going():
    Queue.objects.create(name="paused", paused=True)
    a_job(queue_name="paused")
    a_job(queue_name="unselected")
    a_job(State.RUNNING, leased_by="another tree")
    a_job(State.SCHEDULED)
    a_job(State.SCHEDULED, run_after=storage().now(), held_since=storage().now())

    house = keeper(drain=True, queues=["default", "paused"])
    house.look_for_the_end()

    assert house.findings.drained
    assert house.findings.left == {
        "scheduled for later": 2,
        "ready in paused or other queues": 2,
        "running elsewhere": 1,
    }


def test_expired_lease_of_another_tree_keeps_a_drain_going():
    expired_job()

    assert not drained()


def test_housekeeping_comes_back_when_the_next_job_is_due():
    house = keeper()
    house.tick()  # schedules follow the code
    idle = house.tick()
    tasks.add.using(run_after=timedelta(seconds=0.4)).enqueue(1)

    assert house.tick() < 0.41 < idle


def test_an_idle_tree_asks_the_database_for_nothing_but_its_pulse(monkeypatch, django_assert_num_queries):
    house = keeper()
    house.tick()
    monkeypatch.setattr(house.store, "pulse", lambda limit: Pulse(0, False, False, False, None))

    with django_assert_num_queries(0):
        assert house.tick() == IDLE_SECONDS


def test_a_step_of_pruning_that_fails_is_smaller_and_later_the_next_time(monkeypatch):
    house, asked = keeper(), []

    def too_slow(after, limit, keep):
        asked.append(limit)
        raise OperationalError("the connection was given up")

    with monkeypatch.context() as patched:
        patched.setattr(house.store, "prune_jobs", too_slow)
        for now in (100.0, 200.0, 300.0, 400.0):
            with pytest.raises(OperationalError):
                house.prune(now)
            assert house.prune_at > now
    assert asked == [2000, 500, 125, 50]

    for now in range(10):
        house.prune(now)
    assert house.prune_batch == 2000
