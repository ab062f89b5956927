"""The plans that the speed relies on, asked of the database late in a drain, with history and delayed jobs kept."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from jobs.models import Job
from jobs.outcomes import Released, Success
from jobs.storage import Keys, NewJob, postgresql, sqlite, storage
from jobs.storage.scans import BLOCKED_KEYS, READY_GROUPS, READY_QUEUES
from jobs.verdicts import settlement

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)


@pytest.fixture
def late_in_a_drain() -> None:
    late_in_a_drain_of(1_500)


def late_in_a_drain_of(jobs: int) -> None:
    """Most jobs succeeded, many are scheduled, some are ready, a few run: and statistics are of before."""
    store = storage()
    store.insert_many(new_job(), payloads(jobs))
    store.insert_many(new_job()._replace(delay=timedelta(days=1), priority=50), payloads(1000))
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE jobs_job")
    for _ in range(jobs * 4 // 5 // 500):
        leases = store.claim("worker", "default", 500, LEASE)
        store.complete([Success(lease, None, 0.0, 0.0) for lease in leases])
    store.claim("worker", "default", 100, LEASE)


def new_job() -> NewJob:
    return NewJob("tests.tasks.add", "default", "default", 0, "[]", "{}", 1, 5, 3)


def payloads(jobs: int) -> list[str]:
    return [f'{{"a": {number}}}' for number in range(jobs)]


def plan_of(sql: str, params: Any = None) -> str:
    """Return what the database would do, as one text."""
    if connection.vendor == "sqlite":
        rows = storage().execute(f"EXPLAIN QUERY PLAN {sql}", params or {}).fetchall()  # type: ignore[attr-defined]
        return "\n".join(row[3] for row in rows)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}", params)
        return "\n".join(row[0] for row in cursor.fetchall())


def plan_of_a_large_table(sql: str, params: Any = None) -> str:
    """Return the plan where reading all of the table is out of the question; a few thousand rows are quickly read."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
    return plan_of(sql, params)


def assert_reads_no_whole_table(plan: str) -> None:
    assert not re.search(r"Seq Scan on jobs_job\b|SCAN jobs_job(?! USING (COVERING )?INDEX)", plan), plan


@pytest.mark.parametrize("places", [0, 1, 3])
def test_a_claim_reads_the_ready_index_in_order_and_sorts_nothing(vendor, places):
    late_in_a_drain_of(12_000)

    if vendor == "postgresql":
        arguments = {"worker_id": "w", "queue_name": "default", "limit": 100, "lease": LEASE, "suspects": False}
        for n in range(places):
            arguments |= {f"priority{n}": -n, f"ready_at{n}": storage().now(), f"id{n}": 7}
        plan = plan_of(postgresql.claim_sql(places), arguments)
        assert plan.count("Index Scan using jobs_job_ready") == 2 * places + 1, plan
        assert plan.count("ROW(ready_at, id) >") == places, plan
        assert "Sort" not in plan, plan
        assert "Tid Scan on jobs_job job" in plan, plan
    else:
        names = ("worker_id", "queue_name", "limit", "suspects", "now", "expires_at")
        plan = plan_of(sqlite.CLAIM, dict(zip(names, ("w", "default", 100, False, "2026", "2026"), strict=True)))
        assert "SEARCH jobs_job USING INDEX jobs_job_ready" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
    assert_reads_no_whole_table(plan)


@pytest.mark.django_db(transaction=True)
def test_a_claim_behind_a_place_does_not_read_what_an_open_transaction_keeps(vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite keeps no old versions in its indexes")
    store = storage()
    store.insert_many(new_job(), payloads(6_000))
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM jobs_job")
        for _ in range(11):
            last = store.claim("worker", "default", 500, LEASE)[-1]

        place = {"priority0": last.priority, "ready_at0": last.ready_at, "id0": last.id}
        pages = [pages_read(postgresql.claim_sql(0)), pages_read(postgresql.claim_sql(1), place)]
    finally:
        other.close()

    assert pages[1] < 100 < pages[0], pages


def pages_read(sql: str, place: dict[str, Any] | None = None) -> int:
    """Return how many pages a claim of one job reads."""
    arguments = {"worker_id": "w", "queue_name": "default", "limit": 1, "lease": LEASE, "suspects": False}
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", arguments | (place or {}))
        plan = "\n".join(row[0] for row in cursor.fetchall())
    return sum(map(int, re.findall(r"shared hit=(\d+)", plan)[:1]))


def test_a_settle_goes_by_primary_key_late_in_a_drain(vendor):
    # In a table of a few pages PostgreSQL rightly reads all of it.
    late_in_a_drain_of(12_000)
    leases = storage().held_by("worker", 100)
    rows = [settlement(lease, Released(), None, lease.claimed_at) for lease in leases]
    assert len(rows) == 100

    if vendor == "postgresql":
        columns = [list(column) for column in zip(*map(postgresql.settle_row, rows), strict=True)]
        plan = plan_of_a_large_table(postgresql.SETTLE, [True, *columns])
        assert "jobs_job_pkey" in plan, plan
        assert "jobs_job_running" not in plan, plan
    else:
        plan = plan_of(sqlite.SETTLE, sqlite.settle_arguments(rows[0], leases[0].claimed_at, True))
        assert "SEARCH jobs_job USING INTEGER PRIMARY KEY" in plan, plan
    assert_reads_no_whole_table(plan)


def test_completing_goes_by_primary_key_late_in_a_drain(vendor):
    late_in_a_drain_of(12_000)
    successes = [Success(lease, None, 0.0, 0.0) for lease in storage().held_by("worker", 100)]
    assert len(successes) == 100

    if vendor == "postgresql":
        plan = plan_of_a_large_table(postgresql.COMPLETE, ["[]", *postgresql.complete_columns(successes), "worker"])
        assert "jobs_job_pkey" in plan, plan
        assert "jobs_job_running" not in plan, plan
    else:
        plan = plan_of(sqlite.COMPLETE, {"rows": "[]"})
        assert "SEARCH jobs_job USING INTEGER PRIMARY KEY" in plan, plan
    assert_reads_no_whole_table(plan)


def test_completing_compares_no_outcome_with_every_row_where_statistics_say_that_nobody_holds_a_lease(vendor):
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL plans by statistics")
    late_in_a_drain_of(12_000)
    successes = [Success(lease, None, 0.0, 0.0) for lease in storage().held_by("worker", 100)]
    columns = [*postgresql.complete_columns(successes), "worker"]

    plan = plan_of(postgresql.COMPLETE, ["[]", *columns])

    assert "Rows Removed by Join Filter" not in plan
    assert "Hash Cond: ((v.id = job.id)" in plan or "Index Cond: (id = v.id)" in plan, plan


def test_a_renewal_reads_only_the_running_jobs_of_the_worker(late_in_a_drain, vendor):
    if vendor == "postgresql":
        plan = plan_of(postgresql.RENEW, {"worker_id": "worker", "lease": LEASE})
    else:
        plan = Job.objects.running().filter(leased_by="worker").order_by("pk").explain()

    assert "jobs_job_running" in plan, plan
    assert_reads_no_whole_table(plan)


def test_naming_the_queues_with_work_probes_the_ready_index(late_in_a_drain):
    plan = plan_of(storage().spelled(READY_QUEUES))

    assert "jobs_job_ready" in plan, plan
    assert_reads_no_whole_table(plan)


def test_promoting_reads_the_scheduled_index_in_order(late_in_a_drain):
    due = Job.objects.scheduled().filter(run_after__lte=storage().now()).order_by("run_after", "pk")

    plan = due.values("pk")[:1000].explain()

    assert "jobs_job_scheduled" in plan, plan
    assert_reads_no_whole_table(plan)


def test_reaping_reads_only_running_jobs(late_in_a_drain):
    expired = Job.objects.running().filter(lease_expires_at__lt=storage().now()).order_by("leased_by", "pk")

    plan = expired[:200].explain()

    assert "jobs_job_running" in plan, plan
    assert_reads_no_whole_table(plan)


def test_a_beat_reads_no_whole_table_when_history_had_an_expiry_too(vendor):
    """By the statistics a quarter of the rows could have expired."""
    store = storage()
    store.insert_many(new_job(), ["{}"] * 3_000)
    store.insert_many(new_job()._replace(expires_after=timedelta(hours=1)), ["{}"] * 3_000)
    moment = store.now()
    old = {"state": "succeeded", "finished_at": moment, "started_at": moment, "ready_at": None}
    Job.objects.exclude(expires_at=None).update(**old, expires_at=moment - timedelta(hours=1))
    if vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE jobs_job")

    plan = plan_of(postgresql.PULSE, [1000]) if vendor == "postgresql" else plan_of(sqlite.PULSE, {"now": "2026"})

    assert_reads_no_whole_table(plan)


def test_what_expires_is_found_in_an_index_of_its_own(late_in_a_drain, vendor):
    jobs = storage().never_started().filter(expires_at__lt=storage().now())

    plan = jobs.order_by("expires_at", "pk").values("pk")[:200].explain()
    pulse = plan_of(postgresql.PULSE, [1000]) if vendor == "postgresql" else plan_of(sqlite.PULSE, {"now": "2026"})

    for found in (plan, pulse):
        assert "jobs_job_expiring" in found, found
        assert_reads_no_whole_table(found)


@pytest.fixture
def behind_a_saturated_key(late_in_a_drain) -> None:
    store = storage()
    store.insert_many(new_job(), ["{}"] * 3_000, Keys(concurrency=["saturated"] * 3_000))
    store.unblock(["saturated"])


def test_jobs_behind_a_saturated_key_stand_in_no_claim_s_way(behind_a_saturated_key, vendor):
    assert Job.objects.blocked().count() == 2_999
    if vendor == "postgresql":
        sql = postgresql.claim_sql(0)
        arguments = {"worker_id": "w", "queue_name": "default", "limit": 100, "suspects": False, "lease": LEASE}
    else:
        sql = sqlite.CLAIM
        names = ("worker_id", "queue_name", "limit", "suspects", "now", "expires_at")
        arguments = dict(zip(names, ("w", "default", 100, False, "2026", "2026"), strict=True))

    plan = plan_of(sql, arguments)

    assert "jobs_job_ready" in plan, plan
    assert "jobs_job_blocked" not in plan, plan
    assert_reads_no_whole_table(plan)


def test_handing_out_slots_reads_who_holds_one_and_who_comes_next(behind_a_saturated_key, vendor):
    if vendor == "postgresql":
        plans = [plan_of(postgresql.UNBLOCK, [["saturated"]])]
    else:
        waiting = Job.objects.blocked().filter(concurrency_key="saturated").order_by("-priority", "ready_at", "pk")
        plans = [storage().holding("saturated").explain(), waiting.values("pk")[:1].explain()]

    assert "jobs_job_slots" in plans[0], plans[0]
    assert "jobs_job_blocked" in plans[-1], plans[-1]
    for plan in plans:
        assert_reads_no_whole_table(plan)


def test_naming_the_keys_that_are_waited_for_probes_their_index(behind_a_saturated_key, vendor):
    sql = BLOCKED_KEYS if vendor == "postgresql" else storage().spelled(BLOCKED_KEYS).replace("%s", "10")

    plan = plan_of(sql, ["", 10] if vendor == "postgresql" else {})

    assert "jobs_job_blocked" in plan, plan
    assert_reads_no_whole_table(plan)


@pytest.fixture
def beside_a_large_group(late_in_a_drain) -> None:
    store = storage()
    store.insert_many(new_job(), ["{}"] * 3_000, Keys(group=["large"] * 3_000))
    store.insert_many(new_job(), ["{}"] * 50, Keys(group=[f"g{n}" for n in range(50)]))


@pytest.mark.parametrize("ageing", [None, timedelta(hours=1)])
def test_a_claim_in_turns_enters_the_ready_index_once_for_each_group(beside_a_large_group, vendor, ageing):
    groups = ["", "g1", "g2", "large"]
    if vendor == "postgresql":
        arguments = {"worker_id": "w", "queue_name": "default", "limit": 40, "suspects": False, "lease": LEASE}
        sql = postgresql.CLAIM_IN_TURNS if ageing is None else postgresql.CLAIM_AGED
        plans = [plan_of(sql, arguments | {"groups": groups, "share": 10, "more": 0, "ageing": ageing})]
        assert "Tid Scan on jobs_job job" in plans[0], plans[0]
        assert re.search(r"Index Cond: .*group_key\)::text = turn", plans[0]), plans[0]
    else:
        arguments = {"queue_name": "default", "suspects": False, "group": "large", "limit": 10, "priority": 0}
        asked = [sqlite.BEST_OF_GROUP] if ageing is None else [sqlite.NEXT_PRIORITY, sqlite.OLDEST_OF_PRIORITY]
        plans = [plan_of(sql, arguments) for sql in asked]
        assert all("group_key=?" in plan and "TEMP B-TREE" not in plan for plan in plans), plans
    for plan in plans:
        assert "jobs_job_ready" in plan, plan
        assert_reads_no_whole_table(plan)


def test_a_claim_in_turns_reads_no_more_of_a_large_group_than_its_share(beside_a_large_group, vendor):
    if vendor != "postgresql":
        pytest.skip("SQLite does not say how many rows a statement has read")
    arguments = {"worker_id": "w", "queue_name": "default", "limit": 40, "suspects": False, "lease": LEASE}
    arguments |= {"groups": ["large", "g1"], "share": 20, "more": 0, "ageing": timedelta(hours=1)}
    for sql in (postgresql.CLAIM_IN_TURNS, postgresql.CLAIM_AGED):
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN ANALYZE {sql}", arguments)
            plan = "\n".join(row[0] for row in cursor.fetchall())
        read = [float(rows) * int(loops) for rows, loops in re.findall(r"rows=([\d.]+) loops=(\d+)", plan)]
        assert max(read) <= 50, plan


def test_naming_the_groups_probes_the_ready_index(beside_a_large_group, vendor):
    arguments = {"queue_name": "default", "suspects": False, "after": "a", "limit": 10}
    sql = READY_GROUPS.format(first=">")
    if vendor == "sqlite":
        sql = re.sub(r"%\((\w+)\)s", r":\1", storage().spelled(sql))

    plan = plan_of(sql, arguments)

    assert "jobs_job_ready" in plan, plan
    assert_reads_no_whole_table(plan)


def test_succeeded_jobs_stand_in_no_partial_index():
    partial = [index for index in Job._meta.indexes if index.condition is not None]

    assert len(partial) == len(Job._meta.indexes) == 7
    assert not any("succeeded" in str(index.condition) for index in partial)


def test_no_index_names_a_column_that_a_renewal_changes():
    named = {field for index in Job._meta.indexes for field, _ in index.fields_orders}

    assert "lease_expires_at" not in named
    assert not any("lease_expires_at" in str(index.condition) for index in Job._meta.indexes)
