"""Back-pressure: a full queue refuses, defers or sheds, loses nothing that it has taken, and asks seldom."""

import pickle
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.http import HttpResponse
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from jobs import QueueFull, enqueue_many, enqueue_on_commit, limits, stats
from jobs.conf import QueueLimits
from jobs.exceptions import DuplicateJob
from jobs.lifecycle import follow_settings, pause, resume, trip
from jobs.management.commands import runworker
from jobs.metrics import DatabaseCollector
from jobs.middleware import QueueFullMiddleware
from jobs.models import Job, Queue
from jobs.states import State
from jobs.storage import NewJob, storage
from jobs.tally import Tally
from jobs.testing import run_jobs
from jobs.worker.process import Reporter
from tests import tasks
from tests.admin.test_queue import a_worker
from tests.commands.console import jobs
from tests.test_schedules import due, enqueue_due
from tests.threads import at_once
from tests.worker.test_housekeeping import keeper

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def limit(settings):
    """Set limits of the queue `default`, as the settings do."""

    def set_limits(**given: Any) -> None:
        own = {"queues": {"default": given}}
        settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": own}}

    yield set_limits
    limits.forget()


def fill(jobs: int = 3) -> None:
    for n in range(jobs):
        tasks.add.enqueue(n, 0)


def test_a_full_queue_refuses_and_says_when_to_come_back(limit):
    limit(max_depth=3)
    fill()

    with pytest.raises(QueueFull) as refused:
        tasks.add.enqueue(1, 2)

    assert (refused.value.queue, refused.value.depth) == ("default", 3)
    assert 1 <= refused.value.retry_after <= 60
    assert Job.objects.count() == 3


def test_there_is_room_again_once_jobs_have_run(limit):
    limit(max_depth=3)
    fill()

    run_jobs(max_jobs=1)

    tasks.add.enqueue(1, 2)
    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)


def test_many_are_let_in_all_or_none(limit):
    limit(max_depth=3)

    with pytest.raises(QueueFull):
        enqueue_many(tasks.add, [{"a": n, "b": 0} for n in range(4)])
    assert not Job.objects.exists()

    enqueue_many(tasks.add, [{"a": n, "b": 0} for n in range(3)])
    assert Job.objects.count() == 3


def test_a_queue_whose_oldest_job_waits_too_long_is_full(limit):
    limit(max_age=10 * MINUTE)
    fill(1)
    Job.objects.update(ready_at=F("ready_at") - 20 * MINUTE)

    with pytest.raises(QueueFull) as refused:
        tasks.add.enqueue(1, 2)

    assert refused.value.retry_after == 60


def test_what_is_due_later_and_other_queues_are_not_held_up(limit):
    limit(max_depth=1)
    fill(1)

    tasks.add.using(run_after=MINUTE).enqueue(1, 2)
    tasks.add.using(queue_name="email").enqueue(1, 2)

    assert Job.objects.count() == 3


def test_limits_in_force_and_what_is_full_are_seen_everywhere(limit, client, admin_user):
    limit(max_depth=3, rate_limit=5, max_age=90)
    fill()
    Queue.objects.create(name="default", max_running=2)
    said = "rate_limit 5 in 1 s, max_running 2, max_depth 3, max_age 90 s, when full reject"

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in DatabaseCollector().collect()
        for sample in family.samples
    }
    assert samples["jobs_queue_limit", "default", "max_depth"] == 3
    assert samples["jobs_queue_limit", "default", "max_running"] == 2
    assert samples["jobs_queue_limit", "default", "rate_period_seconds"] == 1
    assert samples["jobs_queue_limit", "default", "max_age_seconds"] == 90
    assert samples["jobs_queue_full", "default"] == 1
    assert f"{said} (full)" in jobs("status").out
    [row] = jobs("status", "--json").json["queues"]
    assert (row["limits"], row["is_full"]) == (said, True)
    assert "Full queues, which take no more: default" in jobs("doctor").out
    a_worker()
    client.force_login(admin_user)
    assert "<strong>3: full</strong>" in client.get("/admin/jobs/queue/").content.decode()
    page = client.get(f"/admin/jobs/queue/{Queue.objects.get().pk}/change/").content.decode()
    assert said in page
    assert "Start more workers for it, or raise its limit below." in page


def test_a_queue_without_limits_has_none_to_show():
    fill(1)

    assert [row["limits"] for row in jobs("status", "--json").json["queues"]] == [""]
    assert limits.in_force() == {}


def test_the_settings_may_pause_a_queue_until_a_person_says_otherwise(limit, monkeypatch):
    monkeypatch.setattr(runworker.connections, "close_all", lambda: None)  # this test needs its own
    limit(paused=True)
    runworker.check([])  # before any process of the tree begins
    queue = Queue.objects.get(name="default")
    assert (queue.name, queue.paused, queue.paused_reason) == ("default", True, "The settings pause it.")
    fill(1)
    assert not run_jobs()

    resume("default")
    follow_settings()  # a restart of a worker is no reason to pause it again
    assert run_jobs() == 1

    limit()
    follow_settings()
    limit(paused=True)
    follow_settings()
    assert Queue.objects.get(name="default").paused

    limit()
    follow_settings()  # a tree that knows nothing of it
    assert Queue.objects.get(name="default").paused

    limit(paused=False)
    follow_settings()
    assert not Queue.objects.get(name="default").paused


def test_a_queue_that_a_breaker_has_paused_does_not_go_on_by_itself_when_the_settings_pause_it(limit):
    trip("default", task_path="tests.tasks.call_out", reason="535", probe=MINUTE)
    limit(paused=True)

    follow_settings()

    queue = Queue.objects.get(name="default")
    assert (queue.paused, queue.tripped_by, queue.probe_at, queue.paused_by) == (True, "", None, "settings")


def test_housekeeping_follows_the_settings_where_the_database_was_away_at_the_start(limit):
    limit(paused=True)

    keeper().tick()

    assert Queue.objects.get(name="default").paused


def test_a_queue_s_row_that_somebody_has_locked_holds_up_no_housekeeping(limit, monkeypatch):
    def locked():
        raise OperationalError("locked")

    limit(paused=True)
    tasks.add.using(run_after=MINUTE).enqueue(1)
    Job.objects.update(run_after=F("run_after") - 2 * MINUTE)
    house = keeper()
    with monkeypatch.context() as patch:
        patch.setattr("jobs.lifecycle.follow_settings", locked)
        patch.setattr("jobs.worker.housekeeping.is_locked", lambda error: True)
        house.tick()

    assert Job.objects.get().state == State.READY
    house.tick()
    assert Queue.objects.get(name="default").paused


def test_the_settings_leave_what_a_person_has_paused(limit):
    limit(paused=True)
    pause("default", reason="the printer is on fire")
    follow_settings()
    limit(paused=False)
    follow_settings()

    queue = Queue.objects.get(name="default")
    assert (queue.paused, queue.paused_reason) == (True, "the printer is on fire")


def test_what_was_due_in_the_past_needs_room_too(limit):
    limit(max_depth=3)
    fill()

    for moment in (timedelta(0), storage().now() - MINUTE):
        with pytest.raises(QueueFull):
            tasks.add.using(run_after=moment).enqueue(1, 2)


def test_a_duplicate_takes_no_place_and_a_full_queue_refuses_none(limit):
    keyed = tasks.add.using(dedupe_key="{a}")
    limit(max_depth=3)
    enqueue_many(keyed, [{"a": n, "b": 0} for n in range(3)])

    assert keyed.enqueue(1, 2).is_duplicate
    assert all(result.is_duplicate for result in enqueue_many(keyed, [{"a": n % 3, "b": 0} for n in range(9)]))
    with pytest.raises(DuplicateJob):
        keyed.using(on_duplicate="raise").enqueue(1, 2)
    with pytest.raises(QueueFull):
        keyed.enqueue(4, 2)
    with pytest.raises(QueueFull):
        enqueue_many(keyed, [{"a": n, "b": 0} for n in range(4)])
    assert Job.objects.count() == 3


def test_a_job_that_is_replaced_again_and_again_is_not_put_off_by_a_full_queue(limit):
    limit(max_depth=1, on_full="defer")
    keyed = tasks.add.using(dedupe_key="{a}", on_duplicate="replace")
    keyed.enqueue(1, 2)

    keyed.enqueue(1, 3)

    job = Job.objects.get()
    assert (job.state, job.args) == (State.READY, [1, 3])


def test_what_a_replacement_makes_ready_needs_room(limit):
    keyed = tasks.add.using(dedupe_key="{a}", on_duplicate="replace")
    keyed.using(run_after=MINUTE).enqueue(1, 2)
    limit(max_depth=1)
    fill(1)

    with pytest.raises(QueueFull):
        keyed.enqueue(1, 3)
    with pytest.raises(QueueFull):
        enqueue_many(keyed, [{"a": 1, "b": 3}])

    assert Job.objects.get(dedupe_key="1").args == [1, 2]


def test_of_many_that_are_put_off_those_that_are_ready_keep_their_place(limit):
    keyed = tasks.add.using(dedupe_key="{a}", on_duplicate="replace")
    enqueue_many(keyed, [{"a": n, "b": 0} for n in range(3)])
    limit(max_depth=3, on_full="defer")

    enqueue_many(keyed, [{"a": n, "b": 1} for n in range(4)])

    found = {job.kwargs["a"]: (job.kwargs["b"], job.state) for job in Job.objects.all()}
    assert found == {0: (1, "ready"), 1: (1, "ready"), 2: (1, "ready"), 3: (1, "scheduled")}


def test_many_at_once_go_by_a_fresh_look(limit, monkeypatch):
    monkeypatch.setattr("jobs.limits.in_test_case", bool)
    limit(max_depth=10)
    fill(1)
    storage().insert([NewJob("tests.tasks.add", "default", "default", 0, "[1, 2]", "{}", 1, 5, 3)] * 9)  # by others

    with pytest.raises(QueueFull):
        enqueue_many(tasks.add, [{"a": n, "b": 0} for n in range(5)])

    assert Job.objects.count() == 10


def test_a_full_queue_may_put_jobs_off(limit):
    limit(max_depth=1, on_full="defer")
    fill(2)

    assert list(Job.objects.order_by("pk").values_list("state", flat=True)) == [State.READY, State.SCHEDULED]
    assert run_jobs() == 1
    assert run_jobs(advance=True) == 1


def test_a_full_queue_may_shed_what_has_a_low_priority(limit):
    limit(max_depth=1, on_full="shed", shed_below=5)
    fill(1)

    tasks.add.using(priority=5).enqueue(1, 2)
    with pytest.raises(QueueFull):
        tasks.add.using(priority=4).enqueue(1, 2)


@pytest.mark.django_db(transaction=True)
def test_the_admin_s_word_counts_more_than_the_settings_and_within_a_second(limit, monkeypatch):
    limit(max_depth=1, on_full="defer")
    Queue.objects.create(name="default", max_depth=2, on_full="reject")
    limits.forget()
    fill(2)
    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)

    Queue.objects.update(max_depth=None, on_full="")
    monkeypatch.setattr(limits.door, "rows_read_at", limits.door.rows_read_at - limits.FRESH_SECONDS)

    tasks.add.enqueue(1, 2)
    assert Job.objects.latest("pk").state == State.SCHEDULED


def test_the_admin_lifts_limits_of_the_settings_and_may_write_others(limit, admin_client):
    limit(max_depth=1, rate_limit=5, max_age=60)
    follow_settings()
    queue = Queue.objects.get(name="default")
    page = f"/admin/jobs/queue/{queue.pk}/change/"
    fill(1)
    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)

    admin_client.post(page, {"lifts_settings": "on"})
    fill(3)
    assert "No limits." in admin_client.get(page).content.decode()
    assert limits.limits_of("default") == QueueLimits()

    admin_client.post(page, {"lifts_settings": "on", "max_running": 7})
    assert limits.in_force() == {"default": QueueLimits(max_running=7)}
    fill(1)

    admin_client.post(page, {})
    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)


@pytest.mark.django_db(transaction=True)
def test_limits_of_the_settings_that_were_lifted_count_again_within_a_second(limit, monkeypatch):
    limit(max_depth=1)
    Queue.objects.create(name="default", lifts_settings=True)
    limits.forget()
    fill(2)

    Queue.objects.update(lifts_settings=False)
    monkeypatch.setattr(limits.door, "rows_read_at", limits.door.rows_read_at - limits.FRESH_SECONDS)

    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)


def test_queues_that_the_settings_name_are_listed_before_their_first_job(limit, settings):
    settings.TASKS = {
        "default": settings.TASKS["default"] | {"QUEUES": ["email"], "OPTIONS": {"queues": {"sms": {"max_depth": 9}}}}
    }

    keeper().tick()

    assert sorted(Queue.objects.values_list("name", flat=True)) == ["email", "sms"]


def test_one_backend_that_takes_any_name_does_not_hide_what_others_name(settings):
    one = settings.TASKS["default"]
    settings.TASKS = {"default": one | {"QUEUES": ["email", "x" * 101]}, "other": one | {"QUEUES": []}}

    follow_settings()

    assert Queue.objects.get().name == "email"


@pytest.mark.django_db(transaction=True)
def test_the_admin_limits_a_queue_that_the_settings_do_not_name():
    Queue.objects.create(name="default", max_depth=1)
    limits.forget()
    fill(1)

    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)
    Queue.objects.all().delete()
    limits.forget()


def queries_of(jobs: int) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        fill(jobs)
    return [query["sql"] for query in queries if not query["sql"].lstrip().startswith(("INSERT", "BEGIN", "COMMIT"))]


@pytest.mark.django_db(transaction=True)
def test_what_is_known_of_a_queue_is_used_for_a_while(limit, monkeypatch):
    monkeypatch.setattr("jobs.wake.last_sent", {"default": float("inf")})
    limit(max_depth=1_000)
    fill(1)

    assert queries_of(50) == []


@pytest.mark.django_db(transaction=True)
def test_a_queue_without_limits_costs_its_producers_no_question(monkeypatch):
    monkeypatch.setattr("jobs.wake.last_sent", {"default": float("inf")})
    Queue.objects.create(name="default", rate_limit=5)  # which is for workers
    Queue.objects.create(name="email", max_depth=1)

    limits.forget()
    assert queries_of(50) == []
    # Nor one that enqueues seldom.
    for _ in range(3):
        limits.forget()
        assert queries_of(1) == []
    assert Job.objects.count() == 53


KEYED = tasks.add.using(dedupe_key="{a}")
WAYS = {
    "one": lambda n: tasks.add.enqueue(n, 0),
    "many": lambda n: enqueue_many(tasks.add, [{"a": n, "b": 0}]),
    "keyed": lambda n: KEYED.enqueue(n, 0),
    "many keyed": lambda n: enqueue_many(KEYED, [{"a": n, "b": 0}]),
    "in turns": lambda n: tasks.add.using(group_key="g").enqueue(n, 0),
    "one at a time": lambda n: tasks.add.using(concurrency_key="{a}").enqueue(n, 0),
    "expiring": lambda n: tasks.add.using(expires_after=60).enqueue(n, 0),
    "due": lambda n: tasks.add.using(run_after=timedelta()).enqueue(n, 0),
    "replacing": lambda n: KEYED.using(on_duplicate="replace").enqueue(n, 0),
    "many replacing": lambda n: enqueue_many(KEYED.using(on_duplicate="replace"), [{"a": n, "b": 0}]),
}


# A job with a concurrency key is ready once its transaction has committed.
@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"one at a time"}))
def test_a_limit_that_the_admin_has_written_counts_from_the_first_job_on(way):
    add = WAYS[way]
    add(1)
    Queue.objects.create(name="default", max_depth=2)

    add(2)
    with pytest.raises(QueueFull):
        add(3)
    Queue.objects.update(max_depth=None)
    add(4)

    assert sorted((job.args or [job.kwargs["a"]])[0] for job in Job.objects.all()) == [1, 2, 4]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_knows_nothing_yet_learns_of_a_limit_from_its_first_insert(way):
    Queue.objects.create(name="default", max_depth=2)
    for n in range(2):
        limits.forget()
        WAYS[way](n)

    limits.forget()
    with pytest.raises(QueueFull):
        WAYS[way](3)

    assert Job.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_limit_that_is_written_while_a_process_enqueues_counts_within_a_second(monkeypatch):
    limits.forget()
    fill(1)
    Queue.objects.create(name="default", max_depth=1)
    noted = limits.door.unbounded["default"]
    monkeypatch.setitem(limits.door.unbounded, "default", noted - limits.FRESH_SECONDS)

    with pytest.raises(QueueFull):
        tasks.add.enqueue(1, 2)


def test_a_refusal_says_which_limit_it_was(limit):
    limit(max_depth=3)
    with pytest.raises(QueueFull, match=r"\(4 jobs at once never fit, max_depth 3\)"):
        enqueue_many(tasks.add, [{"a": n, "b": 0} for n in range(4)])
    fill(2)
    with pytest.raises(QueueFull, match=r"\(jobs that wait: 2, and 2 more do not fit, max_depth 3\)"):
        enqueue_many(tasks.add, [{"a": n, "b": 0} for n in range(2)])
    limit()
    fill(5)
    limit(max_depth=3)
    with pytest.raises(QueueFull, match=r"\(jobs that wait: 4 or more, max_depth 3\)") as refused:
        fill(1)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.queue, again.depth, again.why) == ("default", 4, refused.value.why)
    limit(max_age=60)
    Job.objects.update(ready_at=F("ready_at") - 2 * MINUTE)
    with pytest.raises(QueueFull, match=r"\(its oldest job has waited 12\d s, max_age 60 s\)"):
        fill(1)


@pytest.mark.django_db(transaction=True)
def test_enqueue_on_commit_looks_for_room_before_the_commit_and_not_after(limit):
    limit(max_depth=1)
    with transaction.atomic():
        enqueue_on_commit(tasks.add, 1, 2)
        storage().insert([NewJob("tests.tasks.add", "default", "default", 0, "[]", "{}", 1, 5, 3)])
    assert Job.objects.count() == 2

    def order() -> None:
        with transaction.atomic():
            Queue.objects.create(name="order")
            enqueue_on_commit(tasks.add, 1, 2)

    with pytest.raises(QueueFull):
        order()

    assert not Queue.objects.filter(name="order").exists()
    assert Job.objects.count() == 2


def test_enqueue_on_commit_finds_a_limit_of_the_admin_in_a_test_case(django_capture_on_commit_callbacks):
    Queue.objects.create(name="default", max_depth=1)
    with django_capture_on_commit_callbacks(execute=True):
        enqueue_on_commit(tasks.add, 1, 2)

    with pytest.raises(QueueFull):
        enqueue_on_commit(tasks.add, 1, 2)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_enqueues_on_commit_only_learns_of_a_limit_all_the_same():
    Queue.objects.create(name="default", max_depth=1)
    limits.forget()

    enqueue_on_commit(tasks.add, 1, 2)

    with pytest.raises(QueueFull):
        enqueue_on_commit(tasks.add, 1, 2)
    assert Job.objects.count() == 1


def test_what_a_test_case_takes_back_is_not_remembered():
    limits.forget()
    Queue.objects.create(name="default", max_depth=1)
    fill(1)
    with suppress(QueueFull):
        fill(1)
    tasks.add.using(queue_name="email").enqueue(1, 2)

    assert limits.limits_of("default") == QueueLimits(max_depth=1)
    assert (limits.door.rows, limits.door.unbounded) == ({}, {})


def test_a_replacement_asks_nothing_more_of_a_queue_without_limits(monkeypatch):
    monkeypatch.setattr("jobs.wake.last_sent", {"default": float("inf")})
    keyed = KEYED.using(on_duplicate="replace")
    keyed.using(run_after=MINUTE).enqueue(1, 0)

    with CaptureQueriesContext(connection) as queries:
        keyed.enqueue(1, 1)

    assert Job.objects.get().state == State.READY
    asked = [query["sql"] for query in queries if '"jobs_queue"' in query["sql"]]
    assert asked == [] or (connection.vendor == "sqlite" and len(asked) == 1)  # whether it was the key that refused


def test_a_replacement_that_makes_a_job_ready_finds_a_limit_of_the_admin():
    keyed = KEYED.using(on_duplicate="replace")
    keyed.using(run_after=MINUTE).enqueue(1, 0)
    fill(1)
    Queue.objects.create(name="default", max_depth=1)

    with pytest.raises(QueueFull):
        keyed.enqueue(1, 1)
    with pytest.raises(QueueFull):
        enqueue_many(keyed, [{"a": 1, "b": 1}])

    assert Job.objects.get(dedupe_key="1").args == [1, 0]


def test_who_catches_a_full_queue_may_go_on_with_his_transaction():
    Queue.objects.create(name="default", max_depth=1)
    with transaction.atomic():
        for way in WAYS.values():
            with suppress(QueueFull):
                way(1)
        Queue.objects.update(paused_reason="still here")

    assert Job.objects.count() == 1
    assert Queue.objects.get().paused_reason == "still here"


@pytest.mark.django_db(transaction=True)
def test_who_has_added_a_quarter_of_the_room_looks_again(limit, monkeypatch):
    monkeypatch.setattr("jobs.wake.last_sent", {"default": float("inf")})
    limit(max_depth=100)
    looks = []
    depth_of = stats.depth_of
    monkeypatch.setattr("jobs.stats.depth_of", lambda *asked: looks.append(asked) or depth_of(*asked))

    fill(26)
    assert len(looks) == 1
    fill(1)
    assert len(looks) == 2


@pytest.mark.django_db(transaction=True)
def test_producers_at_once_go_over_the_limit_by_no_more_than_they_are(limit):
    limit(max_depth=20)

    def produce() -> int:
        added = 0
        for n in range(20):
            try:
                tasks.add.enqueue(n, 0)
                added += 1
            except QueueFull:
                pass
        return added

    accepted = sum(at_once(*[produce] * 4))

    assert accepted == Job.objects.count()
    assert accepted <= 24
    # Whoever was refused while another looked finds what room is left.
    with suppress(QueueFull):
        fill(20)
    assert 20 <= Job.objects.count() <= 24


@pytest.mark.django_db(transaction=True)
def test_who_is_let_in_while_another_looks_is_not_counted_twice(limit, monkeypatch):
    limit(max_depth=2)
    depth_of = stats.depth_of
    others = iter([1, 0])

    def depth_beside_another_producer(*asked):
        if fresh := next(others):
            limits.door.let_in["default"] += fresh
            Job.objects.filter(queue_name="email").update(queue_name="default")
        return depth_of(*asked)

    monkeypatch.setattr("jobs.stats.depth_of", depth_beside_another_producer)
    tasks.add.using(queue_name="email").enqueue(1, 2)

    fill(1)
    with pytest.raises(QueueFull):
        fill(1)

    assert Job.objects.count() == 2


def test_who_comes_during_a_second_look_is_not_refused_by_what_may_count_twice(limit, monkeypatch):
    limit(max_depth=10)
    fill(8)
    unsure = limits.Gauge(depth=8, oldest=0.0, read_at=time.monotonic(), added=4, unsure=4)
    monkeypatch.setitem(limits.door.gauges, "default", unsure)
    monkeypatch.setattr(limits.door, "looked_at", {"default"})  # by another, right now

    fill(1)

    assert Job.objects.count() == 9


def test_a_schedule_waits_for_room_and_is_not_broken(limit):
    limit(max_depth=1)
    fill(1)
    schedule = due()

    assert enqueue_due() == 0
    schedule.refresh_from_db()
    assert schedule.problem == ""

    run_jobs()
    assert enqueue_due() == 1
    assert Job.objects.latest("pk").state == State.READY


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"default": {"max_dept": 1}}, "Did you mean 'max_depth'"),
        ({"default": {"max_depth": 0}}, "at least 1"),
        ({"default": {"on_full": "panic"}}, "'reject', 'defer' or 'shed'"),
        ({"default": {"shed_below": 200}}, "-100 to 100"),
        ({"default": 5}, "dict of limits"),
        ({"x" * 101: {}}, "no queue can be called"),
        ({5: {}}, "no queue can be called"),
        ([], "dict of limits"),
    ],
)
def test_limits_that_cannot_be_right_are_named(given, problem):
    from jobs.conf import problems_of

    [found] = problems_of({"queues": given})

    assert problem in found


@pytest.mark.parametrize("count", [0, 3])
def test_the_depth_and_the_age_of_one_queue(count):
    fill(count)
    tasks.add.using(queue_name="email").enqueue(1, 2)
    Job.objects.filter(args=[1, 0]).update(ready_at=F("ready_at") - MINUTE)

    depth, oldest = stats.depth_of("default", 2)

    assert depth == min(count, 2)
    assert MINUTE <= oldest < 2 * MINUTE if count else oldest == timedelta()


def test_the_middleware_answers_503_for_a_full_queue_and_leaves_other_errors_alone():
    middleware = QueueFullMiddleware(lambda request: HttpResponse())
    request = RequestFactory().get("/")

    answer = middleware.process_exception(request, QueueFull("email", 7, 2.6))

    assert answer is not None
    assert (answer.status_code, answer["Retry-After"]) == (503, "3")
    assert "try again in 3 s" in answer.content.decode()
    assert middleware.process_exception(request, ValueError()) is None
    assert middleware(request).status_code == 200


# What is seen of it


@pytest.mark.parametrize(("on_full", "how"), [("reject", "rejected"), ("defer", "deferred"), ("shed", "shed")])
def test_what_a_full_queue_turns_away_is_counted_and_logged_though_not_for_each(
    limit, admin_client, caplog, on_full, how
):
    limit(max_depth=1, on_full=on_full, shed_below=1)
    limits.door.told.clear()
    before = limits.door.counts().get(("default", how), 0)
    tasks.add.enqueue(1, 2)

    for _ in range(3):
        with suppress(QueueFull):
            tasks.add.enqueue(1, 2)

    assert limits.door.counts()["default", how] == before + 3
    assert [record.message for record in caplog.records].count("queue full") == 1
    page = admin_client.get("/metrics").content.decode()
    assert f'jobs_turned_away_total{{how="{how}",process="' in page


def test_a_worker_reports_what_its_tasks_were_refused():
    tally = Tally()
    reporter = Reporter(-1, tally)
    reporter.turned_away = limits.door.counts()
    limits.door.turn_away("default", "rejected", 2, 5)

    reporter.stopping.set()
    reporter.count_turned_away()
    reporter.count_turned_away()

    assert tally.events["rejected", "", "default"] == 2
