"""Breakers: a task pauses its queue after errors that no job is to blame for, tries one job, and goes on."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from jobs import PermanentError, lifecycle, task
from jobs.breakers import FORGOTTEN_SECONDS, LONGEST_PROBE, Breaker, Count
from jobs.conf import Options, QueueLimits
from jobs.models import Attempt, Job, Queue
from jobs.outcomes import (
    Cancelled,
    ErrorReport,
    Failed,
    Interrupted,
    Lost,
    Outcome,
    Released,
    Snoozed,
    Succeeded,
)
from jobs.registry import callee
from jobs.states import Reason, State
from jobs.storage import storage
from jobs.testing import run_jobs
from jobs.verdicts import judge
from jobs.worker.breakers import Breakers
from jobs.worker.plan import Plan
from jobs.worker.runner import Finished
from tests import tasks
from tests.admin.asking import answer_yes, choose
from tests.leases import a_lease

DOWN = Snoozed(10, ErrorReport("tests.LineDown", "the line is down"))
RETRY = Failed(ErrorReport("builtins.ValueError", "no"), retry_in=1.0)
OWN_FAULT = Failed(ErrorReport("builtins.ValueError", "no"), reason=Reason.PERMANENT_ERROR)
LEASE = timedelta(seconds=60)
PATH = "tests.tasks.call_out"


@pytest.fixture(autouse=True)
def nothing_is_broken():
    tasks.done.clear()
    tasks.other_side.clear()
    yield
    tasks.other_side.clear()


# What is counted


def counted(breaker: Breaker, *outcomes: Outcome) -> list[bool]:
    count = Count(breaker)
    return [bool(count.take(outcome)) for outcome in outcomes]


def test_so_many_blameless_errors_in_a_row_trip_it_and_then_it_counts_anew():
    assert counted(Breaker(after=2), DOWN, DOWN, DOWN, DOWN) == [False, True, False, True]


def test_such_errors_of_old_jobs_count_although_they_spend_attempts():
    old = Failed(ErrorReport(message="the line is down"), retry_in=5, exception=tasks.LineDown())

    assert counted(Breaker(errors=(tasks.LineDown,), after=2), old, old) == [False, True]


def test_what_shows_that_the_other_side_works_starts_the_row_again():
    assert counted(Breaker(after=2), DOWN, Succeeded(), DOWN, DOWN) == [False, False, False, True]


def test_what_was_seen_long_ago_is_forgotten():
    count = Count(Breaker(after=2))
    count.take(DOWN)
    count.seen_at -= 2 * FORGOTTEN_SECONDS

    assert [count.take(DOWN), bool(count.take(DOWN))] == ["", True]


@pytest.mark.parametrize(
    "between", [Snoozed(1), Released(), Interrupted(), Cancelled(ErrorReport()), Lost(charged=True), RETRY, OWN_FAULT]
)
def test_what_says_nothing_of_the_other_side_leaves_the_row_alone(between):
    assert counted(Breaker(after=2), DOWN, between, DOWN) == [False, False, True]


def test_a_ratio_is_of_the_newest_attempts_once_there_are_so_many():
    breaker = Breaker(ratio=0.5, window=4)

    assert counted(breaker, RETRY, RETRY, RETRY, Succeeded()) == [False, False, False, False]
    assert counted(breaker, RETRY, Succeeded(), Succeeded(), Succeeded(), RETRY, RETRY) == [False] * 5 + [True]
    assert not any(counted(breaker, *[OWN_FAULT] * 10))
    assert not any(counted(Breaker(), *[RETRY] * 100))


def test_the_reason_says_what_was_seen():
    count = Count(Breaker(after=2, ratio=0.5, window=2))

    assert count.take(DOWN) == ""
    assert count.take(RETRY) == "2 of the newest 2 attempts failed, the last with: no"
    assert [count.take(DOWN), count.take(DOWN)] == ["", "the line is down"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"errors": ValueError}, "errors"),
        ({"errors": (1,)}, "errors"),
        ({"errors": (KeyboardInterrupt,)}, "errors"),
        ({"after": 0}, "after"),
        ({"window": "many"}, "window"),
        ({"ratio": 0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": "half"}, "ratio"),
        ({"probe": 0}, "probe"),
        ({"probe": "soon"}, "probe"),
    ],
)
def test_a_breaker_that_cannot_work_is_refused_where_it_is_written(given, names):
    with pytest.raises((TypeError, ValueError), match=f"Breaker.{names}"):
        Breaker(**given)


def test_the_option_takes_a_breaker():
    with pytest.raises(ImproperlyConfigured, match=r"breaker takes a jobs\.breakers\.Breaker, not 3"):

        @task(breaker=3)
        def of_another_kind() -> None:
            """Never runs."""


def test_an_error_of_its_kind_spends_no_attempt_and_one_of_another_does():
    this = callee(PATH).task

    held = judge(a_lease(), this, Options(), tasks.LineDown("down"))
    assert isinstance(held, Snoozed)
    assert held.error.message == "down"
    assert isinstance(judge(a_lease(), this, Options(), ValueError("no")), Failed)
    yesterday = a_lease(started_at=a_lease().claimed_at - timedelta(days=1))
    assert isinstance(judge(yesterday, this, Options(), tasks.LineDown("down")), Failed)
    assert isinstance(judge(yesterday._replace(is_probe=True), this, Options(), tasks.LineDown("down")), Snoozed)
    without = judge(a_lease(), callee("tests.tasks.add").task, Options(), tasks.LineDown("down"))
    assert isinstance(without, Failed)


# What becomes of the queue


def the_queue() -> Queue:
    return Queue.objects.get(name="email")


def take(breakers: Breakers, **plan: Any) -> list[Any]:
    return breakers.probe(Plan(**{"worker_id": "w1", "threads": 1} | plan), "email", None)


def settle(breakers: Breakers, lease: Any, outcome: Outcome) -> None:
    breakers.observe([Finished(lease, outcome, 0.0, 0.0)])
    breakers.write()


def make_due() -> None:
    Queue.objects.update(probe_at=timezone.now() - timedelta(seconds=1))


def trip(probe: float = 60, task_path: str = PATH) -> bool:
    return lifecycle.trip("email", task_path=task_path, reason="the line is down", probe=timedelta(seconds=probe))


@pytest.mark.django_db
def test_a_broken_line_pauses_the_queue_with_its_reason_and_charges_nobody(caplog):
    tasks.other_side["all"] = tasks.LineDown("the line is down")
    for _ in range(5):
        tasks.call_out.enqueue()

    run_jobs()

    queue = the_queue()
    assert (queue.paused, queue.tripped_by) == (True, PATH)
    assert queue.paused_reason == f"Breaker of {PATH}: the line is down"
    assert queue.probe_at - queue.paused_at == timedelta(seconds=60)
    assert len(tasks.done) == 2
    assert not Attempt.objects.exists()
    assert sorted(Job.objects.values_list("state", "attempts")) == [("ready", 0)] * 3 + [("scheduled", 0)] * 2
    assert "queue paused by its breaker" in caplog.messages


@pytest.mark.django_db
def test_jobs_of_other_tasks_and_queues_are_not_counted_together():
    breakers = Breakers(storage())
    for queue_name, path in (("email", PATH), ("bulk", PATH), ("email", "tests.tasks.add")):
        settle(breakers, a_lease(queue_name=queue_name, task_path=path), DOWN)

    assert not Queue.objects.exists()


@pytest.mark.django_db
def test_a_person_has_the_last_word():
    lifecycle.pause("email", reason="a move")
    assert not trip()
    assert the_queue().paused_reason == "a move"
    lifecycle.resume("email")

    assert trip()
    assert not trip()
    lifecycle.pause("email", reason="leave it alone")
    assert not lifecycle.close_breaker("email", task_path=PATH)
    assert (the_queue().paused, the_queue().probe_at, the_queue().tripped_by) == (True, None, "")

    lifecycle.resume("email")
    assert trip()
    lifecycle.resume("email")
    assert (the_queue().paused, the_queue().probe_at, the_queue().paused_reason) == (False, None, "")


def end(job: Any) -> None:
    """Make a job ready again, as its next attempt would find it."""
    Job.objects.filter(pk=job.id).update(
        state=State.READY, leased_by="", lease_expires_at=None, ready_at=timezone.now()
    )


@pytest.mark.django_db
def test_one_job_is_tried_when_it_is_time_and_none_beside_it():
    tasks.call_out.enqueue()
    tasks.call_out.enqueue()
    trip()
    breakers = Breakers(storage())

    assert take(breakers) == []
    make_due()
    assert len(take(breakers)) == 1
    make_due()
    assert take(Breakers(storage())) == []


@pytest.mark.django_db
def test_after_each_failure_it_takes_twice_as_long_but_not_for_ever():
    tasks.call_out.enqueue()
    trip()
    breakers = Breakers(storage())
    waits = []

    for _ in range(6):
        make_due()
        (tried,) = take(breakers)
        settle(breakers, tried, DOWN)
        waits.append(round((the_queue().probe_at - timezone.now()).total_seconds(), -1))
        end(tried)

    assert waits == [120, 240, 480, 900, 900, 900]
    assert the_queue().paused
    assert the_queue().probe_every == LONGEST_PROBE


@pytest.mark.django_db
def test_a_job_that_does_well_opens_the_queue():
    tasks.call_out.enqueue()
    trip()
    make_due()
    breakers = Breakers(storage())

    settle(breakers, take(breakers)[0], Succeeded())

    queue = the_queue()
    assert (queue.paused, queue.paused_reason, queue.probe_at, queue.tripped_by) == (False, "", None, "")


@pytest.mark.django_db
@pytest.mark.parametrize("outcome", [Snoozed(5), Released(), Interrupted(), Cancelled(ErrorReport()), OWN_FAULT])
def test_after_a_job_that_shows_nothing_another_is_tried_at_once(outcome):
    tasks.call_out.enqueue()
    tasks.call_out.enqueue()
    trip()
    make_due()
    breakers = Breakers(storage())
    (tried,) = take(breakers)
    end(tried)

    settle(breakers, tried, outcome)

    assert (the_queue().paused, the_queue().probe_every) == (True, timedelta(seconds=60))
    assert len(take(breakers)) == 1


@pytest.mark.django_db
def test_what_was_tried_and_did_well_counts_more_than_what_began_before():
    for _ in range(3):
        tasks.call_out.enqueue()
    trip()
    make_due()
    breakers = Breakers(storage())
    (tried,) = take(breakers)
    late = [a_lease(id=70 + n, task_path=PATH, queue_name="email") for n in range(2)]

    breakers.observe([Finished(lease, DOWN, 0.0, 0.0) for lease in late] + [Finished(tried, Succeeded(), 0.0, 0.0)])
    breakers.write()

    assert not the_queue().paused


@pytest.mark.django_db
def test_a_job_of_the_task_is_tried_whatever_stands_before_it():
    tasks.stay_here.using(priority=5).enqueue()
    wanted = tasks.call_out.enqueue()
    trip()
    make_due()

    (tried,) = take(Breakers(storage()))

    assert str(tried.id) == wanted.id


@pytest.mark.django_db
def test_a_queue_in_which_no_job_of_the_task_waits_any_more_goes_on():
    tasks.stay_here.enqueue()
    trip(task_path="shop.tasks.renamed")
    make_due()
    breakers = Breakers(storage())

    assert take(breakers) == []
    breakers.write()
    assert not the_queue().paused


@pytest.mark.django_db
def test_a_lease_that_was_lost_while_it_was_tried_is_forgotten():
    tasks.call_out.enqueue()
    trip()
    make_due()
    breakers = Breakers(storage())
    (tried,) = take(breakers)

    breakers.observe([], lost=[tried])

    assert breakers.probes == set()
    assert the_queue().paused


@pytest.mark.django_db
def test_nothing_is_tried_of_a_queue_that_a_person_paused():
    tasks.call_out.enqueue()
    lifecycle.pause("email")

    assert take(Breakers(storage())) == []


@pytest.mark.django_db
def test_a_group_of_the_queue_is_tried_too():
    tasks.call_out.using(group_key="tenant").enqueue()
    trip()
    make_due()

    assert len(take(Breakers(storage()))) == 1


@pytest.mark.django_db
def test_what_is_tried_is_granted_as_the_limits_say():
    tasks.call_out.enqueue()
    limits = QueueLimits(rate_limit=1, rate_period=timedelta(minutes=5))
    trip()
    make_due()
    breakers, plan = Breakers(storage()), Plan(worker_id="w1", threads=1)

    (tried,) = breakers.probe(plan, "email", limits)
    end(tried)
    make_due()

    assert breakers.probe(plan, "email", limits) == []
    assert the_queue().paused


@pytest.mark.django_db
def test_metrics_say_who_paused_a_queue_and_why(admin_client):
    lifecycle.pause("bulk", reason="a move")
    trip()

    found = admin_client.get("/metrics").content.decode().splitlines()

    reason = f"Breaker of {PATH}: the line is down"
    assert 'jobs_queue_pause_info{by="person",queue="bulk",reason="a move"} 1.0' in found
    assert f'jobs_queue_pause_info{{by="{PATH}",queue="email",reason="{reason}"}} 1.0' in found


@pytest.mark.django_db
def test_the_queues_page_says_what_is_wrong_and_when_a_job_is_tried(admin_client):
    trip()

    page = admin_client.get(f"/admin/jobs/queue/{the_queue().pk}/change/").content.decode()

    assert f"Breaker of {PATH}: the line is down." in page
    assert "A job is tried in " in page


@pytest.mark.django_db
def test_when_the_line_is_mended_all_jobs_run(settings):
    tasks.other_side["all"] = tasks.LineDown("down")
    for _ in range(3):
        tasks.call_out.enqueue()
    run_jobs(advance=True)
    assert the_queue().paused

    tasks.other_side.clear()
    lifecycle.resume("email")
    run_jobs(advance=True)

    assert set(Job.objects.values_list("state", "attempts")) == {("succeeded", 1)}


@pytest.mark.django_db
def test_a_permanent_error_of_its_kind_is_no_death():
    class Gone(PermanentError, tasks.LineDown):
        """Both."""

    assert isinstance(judge(a_lease(), callee(PATH).task, Options(), Gone("down")), Snoozed)


@pytest.mark.django_db
def test_a_person_may_keep_a_queue_paused_that_would_go_on_by_itself(admin_client):
    trip()
    tools = admin_client.get(f"/admin/jobs/queue/{the_queue().pk}/change/").content.decode()
    assert "Pause" in tools
    assert "Resume" in tools

    question = choose(admin_client, "/admin/jobs/queue/", "pause", the_queue().pk)
    answer_yes(admin_client, "/admin/jobs/queue/", question, reason="wait for me")

    assert (the_queue().paused_reason, the_queue().tripped_by, the_queue().probe_at) == ("wait for me", "", None)
