"""Limited queues: of any period no more starts than the rate allows, and no more jobs at a time than may run."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import lifecycle
from jobs.conf import QueueLimits
from jobs.leases import Lease
from jobs.models import Job, Queue
from jobs.models.queue import Grant
from jobs.outcomes import Released, Snoozed, Succeeded
from jobs.states import State
from jobs.storage import Claim, Keys, NewJob, is_locked, storage
from jobs.storage import base as module
from jobs.verdicts import settlement
from tests.storage.test_contract import Portable
from tests.threads import at_once

pytestmark = pytest.mark.django_db
LEASE = timedelta(seconds=60)
SECOND = timedelta(seconds=1)
NONE_LEFT = None


@pytest.fixture(params=["own", "portable"])
def store(request):
    return storage() if request.param == "own" else Portable("default")


def fill(jobs: int, queue: str = "default", **keys: Any) -> None:
    row = NewJob("tests.tasks.add", "default", queue, 0, "[]", "{}", 1, 5, 3)
    storage().insert_many(row, ["{}"] * jobs, Keys(**keys))


def take(store: Any, limit: int, worker: str = "w1", **limits: Any) -> tuple[list[Lease], timedelta | None]:
    taken = store.take_limited(worker, Claim("default", limit, limits=QueueLimits(**limits)), LEASE)
    return taken.leases, taken.wait


def settle(lease: Lease, outcome: Any = None) -> None:
    assert storage().settle([settlement(lease, outcome or Succeeded(), lease.claimed_at, lease.claimed_at)])


def test_no_more_start_in_a_period_than_the_rate_allows(store):
    fill(5)

    first, wait = take(store, 10, rate_limit=3)
    assert (len(first), wait) == (3, timedelta())
    none, wait = take(store, 10, rate_limit=3)

    assert none == []
    assert timedelta() < wait <= SECOND
    age_grants(SECOND)
    assert len(take(store, 10, rate_limit=3)[0]) == 2
    assert take(store, 10, rate_limit=3)[1] is NONE_LEFT


def age_grants(length: timedelta) -> None:
    Grant.objects.update(granted_at=F("granted_at") - length)


def test_a_start_counts_whatever_becomes_of_its_job(store):
    fill(3)
    first, _ = take(store, 2, rate_limit=2)
    settle(first[0])
    settle(first[1], Released())

    assert take(store, 2, rate_limit=2)[0] == []


def test_no_more_run_at_a_time_than_may(store):
    fill(5)

    first, _ = take(store, 10, max_running=2)
    none, wait = take(store, 10, "w2", max_running=2)
    assert (len(first), none) == (2, [])
    assert wait is not None
    assert wait > timedelta()

    settle(first[0])
    assert len(take(store, 10, "w2", max_running=2)[0]) == 1
    settle(first[1], Snoozed(60))
    assert len(take(store, 10, "w2", max_running=2)[0]) == 1


@pytest.mark.parametrize("before", [None, {"rate_limit": 9}])
def test_what_ran_when_the_limit_was_set_counts_until_it_ends(store, before):
    began = store.now()
    fill(9)
    fill(3, queue="other")
    store.claim("w1", "other", 3, LEASE)
    first = take(store, 2, **before)[0] if before else store.claim("w1", "default", 2, LEASE)
    started = Grant.objects.count()

    assert len(take(store, 10, max_running=3)[0]) == 1
    assert take(store, 10, max_running=3)[0] == []
    settle(first[0])
    assert len(take(store, 10, max_running=3)[0]) == 1
    settle(first[1])

    assert len(take(store, 10, max_running=3)[0]) == 1
    assert Grant.objects.filter(running=True).count() == 3
    # They count for no rate, of which nobody spoke when they started.
    assert Grant.objects.filter(granted_at__gt=began).count() == started + 3
    Grant.objects.filter(granted_at__gt=began).delete()
    assert len(take(store, 10, rate_limit=2, rate_period=timedelta(hours=1))[0]) == 2


def test_a_recount_writes_no_more_than_closes_the_door(store):
    """However often, and however many others have claimed."""
    fill(30)
    store.claim("w1", "default", 20, LEASE)

    for _ in range(3):
        assert take(store, 10, max_running=3)[0] == []
    assert Grant.objects.count() == 3
    Job.objects.running().update(state=State.SUCCEEDED, lease_expires_at=None, leased_by="", finished_at=store.now())
    take(store, 1, max_running=3)

    # What has ended and counts for nothing goes with the next recount that writes any.
    store.claim("w1", "default", 3, LEASE)
    take(store, 1, max_running=4)
    take(store, 1, max_running=4)
    assert Grant.objects.count() == 4


def test_a_claim_that_does_not_recount_goes_by_the_grants(store):
    fill(9)
    store.claim("w1", "default", 2, LEASE)
    claim = Claim("default", 10, limits=QueueLimits(max_running=3), recounts=False)

    assert len(store.take_limited("w1", claim, LEASE).leases) == 3
    wider = claim._replace(limits=QueueLimits(max_running=6), recounts=True)
    assert len(store.take_limited("w1", wider, LEASE).leases) == 1
    assert Grant.objects.count() == 6


def test_a_lease_that_is_taken_back_frees_its_place(store):
    fill(3)
    take(store, 1, max_running=1)
    Job.objects.running().update(lease_expires_at=storage().now() - SECOND)
    assert take(store, 1, "w2", max_running=1)[0] == []

    assert len(lifecycle.reap()) == 1

    assert len(take(store, 1, "w2", max_running=1)[0]) == 1


def test_both_limits_hold_together(store):
    fill(10)

    first, _ = take(store, 10, max_running=5, rate_limit=3)
    age_grants(SECOND)
    second, _ = take(store, 10, max_running=5, rate_limit=3)

    assert (len(first), len(second)) == (3, 2)


def test_nothing_is_granted_of_a_paused_or_an_empty_queue(store):
    assert take(store, 5, rate_limit=3) == ([], NONE_LEFT)
    fill(1)
    Queue.objects.filter(name="default").update(paused=True)

    assert take(store, 5, rate_limit=3)[0] == []
    assert not Grant.objects.exists()


def test_queues_are_limited_each_for_itself(store):
    fill(2)
    fill(2, "email")
    take(store, 2, rate_limit=2)

    claim = Claim("email", 2, limits=QueueLimits(rate_limit=2))
    assert len(store.take_limited("w1", claim, LEASE).leases) == 2


def test_groups_take_turns_in_a_limited_queue_too(store):
    fill(3, group=["a", "a", "b"])
    claim = Claim("default", 2, groups=("a", "b"), limits=QueueLimits(max_running=2))

    leases = store.take_limited("w1", claim, LEASE).leases

    assert sorted(Job.objects.filter(pk__in=[one.id for one in leases]).values_list("group_key", flat=True)) == [
        "a",
        "b",
    ]


def test_of_groups_only_so_many_are_asked_as_may_have_a_job_and_the_rest_is_told(store):
    fill(3, group=["a", "b", "c"])
    claim = Claim("default", 3, groups=("c", "a", "b"), limits=QueueLimits(max_running=1))

    taken = store.take_limited("w1", claim, LEASE)
    assert (len(taken.leases), taken.wanted, taken.groups) == (1, 1, 1)
    assert Job.objects.running().get().group_key == "c"

    full = store.take_limited("w1", claim, LEASE)
    assert (full.leases, full.groups) == ([], 0)
    settle(taken.leases[0])
    none_of_c = store.take_limited("w1", claim, LEASE)
    assert (none_of_c.leases, none_of_c.groups, none_of_c.wait) == ([], 1, timedelta())


def test_old_grants_are_deleted_but_those_that_count(store, monkeypatch):
    monkeypatch.setattr(module, "PRUNED_PER_LEASES", 1)
    monkeypatch.setattr(module, "KEPT_GRANTS", timedelta())
    fill(6)
    first, _ = take(store, 2, rate_limit=4, max_running=4)
    settle(first[0])
    age_grants(2 * SECOND)

    take(store, 2, rate_limit=4, max_running=4)

    assert Grant.objects.count() == 3  # one that still runs, and two new ones
    assert Grant.objects.filter(job_id=first[1].id).exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.integers(1, 6),
    steps=st.lists(st.tuples(st.floats(0, 0.7), st.integers(1, 8), st.integers(0, 9)), min_size=1, max_size=25),
)
def test_whatever_arrives_whenever_no_window_holds_more_than_the_rate(rate, steps, monkeypatch):
    store, started = Portable("default"), storage().now()
    Job.objects.all().delete()
    Grant.objects.all().delete()
    clock = [started]
    monkeypatch.setattr(store, "now", lambda: clock[0])
    grants: list[float] = []
    for pause, limit, arriving in steps:
        clock[0] += timedelta(seconds=pause)
        if arriving:
            fill(arriving)
        now = (clock[0] - started).total_seconds()
        ready = Job.objects.ready().count()
        leases, _ = take(store, limit, rate_limit=rate)
        in_window = sum(moment > now - 1 for moment in grants)
        # As much as is allowed, and no more.
        assert len(leases) == min(limit, ready, rate - in_window)
        grants += [now] * len(leases)
    for moment in grants:
        assert sum(moment - 1 < other <= moment for other in grants) <= rate


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("limits", [{"rate_limit": 7, "rate_period": LEASE}, {"max_running": 7}])
def test_workers_that_ask_at_once_get_no_more_together(limits):
    fill(60)

    def hammer() -> int:
        return sum(len(take(storage(), 3, threading.current_thread().name, **limits)[0]) for _ in range(6))

    found = at_once(*[hammer] * 4)

    errors = [error for error in found if isinstance(error, BaseException)]
    assert not [error for error in errors if not is_locked(error)], errors
    assert Job.objects.running().count() == 7


def test_what_a_claim_of_a_limited_queue_reads_does_not_grow_with_its_history(vendor):
    fill(5)
    moment = storage().now() - timedelta(days=1)
    old = [Grant(queue_name="default", granted_at=moment, job_id=n, lease_token=1, running=False) for n in range(5_000)]
    Grant.objects.bulk_create(old)
    if vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE jobs_grant")
    grants = Grant.objects.filter(queue_name="default")
    recent = grants.filter(granted_at__gt=moment + SECOND).order_by("granted_at").values("granted_at")[:10]
    running = grants.filter(running=True).values("pk", "job_id", "lease_token")

    for asked in (recent, running):
        plan = asked.explain()
        assert "jobs_grant_" in plan, plan
        assert "SCAN" not in plan, plan
        assert "Seq Scan" not in plan, plan
