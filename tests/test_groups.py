"""Groups of a queue take turns, so that nobody waits for another's backlog; where priorities age, nobody for ever."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models import F

from jobs import enqueue_many, stats, task
from jobs.exceptions import InvalidPayload
from jobs.models import Job
from jobs.storage import ANY_QUEUE, storage
from jobs.testing import run_jobs
from tests import tasks

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def of(tenant: str, **options: Any) -> Any:
    return tasks.add.using(group_key=tenant, **options)


def groups_done() -> list[str]:
    return sorted(Job.objects.exclude(finished_at=None).values_list("group_key", flat=True))


def test_a_tenant_with_many_jobs_does_not_hold_up_one_with_few():
    for n in range(20):
        of("large").enqueue(n)
    of("small").enqueue(1)
    tasks.add.enqueue(1)

    assert run_jobs(max_jobs=4) == 4

    assert groups_done() == ["", "large", "large", "small"]


def test_all_jobs_run_in_the_end():
    for n in range(6):
        of(f"tenant-{n % 3}").enqueue(n)
    tasks.add.enqueue(1)

    assert run_jobs() == 7
    assert not Job.objects.filter(finished_at=None).exists()


def test_the_key_is_made_of_the_payload():
    tasks.for_a_tenant.enqueue(tenant="acme")

    assert Job.objects.get().group_key == "acme"


def test_a_key_that_does_not_fit_the_payload_is_refused_with_its_name():
    with pytest.raises(InvalidPayload, match="group_key"):
        tasks.for_a_tenant.enqueue(tenant="x" * 256)

    assert not Job.objects.exists()


def test_a_key_that_names_no_argument_is_refused_where_it_is_written():
    with pytest.raises(ImproperlyConfigured, match="group_key"):
        task(tasks.add.func, group_key="{nobody}")


def test_many_are_enqueued_each_with_its_own_key():
    enqueue_many(tasks.for_a_tenant, [{"tenant": name} for name in "aab"])

    assert list(Job.objects.order_by("pk").values_list("group_key", flat=True)) == ["a", "a", "b"]


def test_many_are_enqueued_with_dedupe_and_group_keys_alike():
    keyed = tasks.for_a_tenant.using(dedupe_key="{tenant}")
    enqueue_many(keyed, [{"tenant": name} for name in "aab"])

    assert list(Job.objects.order_by("pk").values_list("group_key", "dedupe_key")) == [("a", "a"), ("b", "b")]


def test_workers_are_told_to_ask_which_queues_have_groups(monkeypatch, django_capture_on_commit_callbacks):
    told = []
    monkeypatch.setattr(storage(), "notify", told.append)
    monkeypatch.setattr("jobs.wake.last_sent", {})

    with django_capture_on_commit_callbacks(execute=True):
        of("a").enqueue(1)
        enqueue_many(tasks.for_a_tenant, [{"tenant": "a"}])

    assert told == [ANY_QUEUE]


def test_a_job_that_got_its_slot_is_announced_like_any_of_its_group():
    tasks.add.using(concurrency_key="k", group_key="a").enqueue(1)
    tasks.add.using(concurrency_key="l").enqueue(1)

    assert storage().unblock(["k", "l"]) == {ANY_QUEUE, "default"}


def test_the_oldest_job_is_found_in_whichever_group_it_waits():
    for tenant in ("a", "b", ""):
        of(tenant).enqueue(1) if tenant else tasks.add.enqueue(1)
    Job.objects.filter(group_key="b").update(ready_at=F("ready_at") - HOUR)

    [figures] = stats.queues(storage().now())

    assert figures.ready == 3
    assert figures.oldest is not None
    assert HOUR <= figures.oldest < HOUR + timedelta(minutes=5)


def test_a_job_that_waits_long_enough_overtakes_those_of_higher_priority(settings):
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": {"priority_ageing": timedelta(minutes=1)}}}
    low = tasks.add.using(priority=-10).enqueue(1)
    Job.objects.update(ready_at=F("ready_at") - HOUR)
    tasks.add.using(priority=10).enqueue(1)

    run_jobs(max_jobs=1)

    assert Job.objects.get(pk=low.id).finished_at
