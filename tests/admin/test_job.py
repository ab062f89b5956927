"""Jobs in the admin: read-only, payloads for those who may, cancel, and lists that stay cheap."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from jobs import stats
from jobs.models import Attempt, Job, Queue
from jobs.states import State

from .asking import run, said
from .rows import SECRET, a_dead_letter, a_job, a_record

LIST = "/admin/jobs/job/"

pytestmark = pytest.mark.django_db


def page(job):
    return reverse("admin:jobs_job_change", args=[job.pk])


def lead(client, job):
    return client.get(page(job)).context["lead"]


def secret_pages():
    """Return every page of the admin that could show a payload, a return value or a result."""
    letter = a_dead_letter()
    return [
        page(a_job(State.SUCCEEDED)),
        page(letter.job),
        reverse("admin:jobs_deadletter_change", args=[letter.pk]),
        reverse("admin:jobs_idempotencyrecord_change", args=[a_record().pk]),
        *(f"/admin/jobs/{model}/" for model in ("job", "deadletter", "idempotencyrecord")),
    ]


def test_payloads_are_hidden_from_those_without_the_permission(staff):
    client = staff("view_job", "view_deadletter", "view_idempotencyrecord")

    texts = [client.get(url).content.decode() for url in secret_pages()]

    assert not any(SECRET in text for text in texts)
    assert "Can see arguments and return values" in texts[0]


def test_payloads_are_shown_on_pages_to_those_with_the_permission(staff):
    client = staff("view_job", "view_deadletter", "view_idempotencyrecord", "view_payload")

    texts = [client.get(url).content.decode() for url in secret_pages()]

    assert [SECRET in text for text in texts] == [True] * 4 + [False] * 3


def test_a_list_does_not_even_fetch_payloads(admin_client):
    a_job()

    with CaptureQueriesContext(
        connection,
    ) as queries:
        admin_client.get(LIST)
        admin_client.get("/admin/jobs/deadletter/")

    assert not any('"kwargs"' in query["sql"] for query in queries if '"jobs_job"."id"' in query["sql"])


def test_a_payload_is_escaped(admin_client):
    job = a_job(kwargs={"name": "<script>alert(1)</script>"})

    assert "<script>alert" not in admin_client.get(page(job)).content.decode()


def test_a_page_has_its_attempts_latest_first_and_not_more_than_fit(admin_client):
    job = a_job()
    now = timezone.now()
    for number in range(1, 41):
        Attempt.objects.create(
            job=job, number=number, lease_token=number, outcome="failed", worker_id="w", finished_at=now, message="m"
        )

    text = admin_client.get(page(job)).content.decode()

    assert text.index("attempt 40: failed") < text.index("attempt 16: failed")
    assert "attempt 15: failed" not in text


def test_a_waiting_job_is_cancelled_from_the_list(admin_client):
    waiting, ended = a_job(), a_job(State.SUCCEEDED)

    response = run(admin_client, LIST, "cancel", waiting.pk, ended.pk)

    waiting.refresh_from_db()
    assert waiting.state == State.CANCELLED
    assert said(response) == [
        "Cancelled, or asked to stop, 1 job.",
        f"1 was skipped ({ended.pk}): it has ended already: succeeded.",
    ]
    assert [entry.object_id for entry in LogEntry.objects.all()] == [str(waiting.pk)]


def test_a_running_job_is_asked_to_stop_and_the_message_says_so(admin_client):
    job = a_job(State.RUNNING)

    response = admin_client.post(reverse("admin:jobs_job_cancel", args=[job.pk]), {"confirmed": "yes"})

    job.refresh_from_db()
    assert (job.state, job.cancel_requested) == (State.RUNNING, True)
    assert "1 of them is running: it ends when its task agrees." in said(response)


@pytest.mark.parametrize(
    ("state", "fields", "level", "expected"),
    [
        (State.SCHEDULED, {}, "note", "due"),
        (State.READY, {"held_since": timezone.now()}, "bad", "deploy"),
        (State.READY, {}, "bad", "No worker is alive"),
        (State.READY, {"queue_name": "paused"}, "bad", "Its queue is paused: maintenance"),
        (State.RUNNING, {}, "note", "running"),
        (State.RUNNING, {"cancel_requested": True}, "note", "asked to stop"),
        (State.RUNNING, {"lease_expires_at": timezone.now() - timedelta(hours=1)}, "bad", "lease expired"),
        (State.SUCCEEDED, {}, "good", "succeeded"),
        (State.CANCELLED, {}, "note", "never run"),
        (State.DEAD, {}, "bad", "Open its dead letter"),
    ],
)
def test_the_first_line_of_a_job_says_how_it_is(state, fields, level, expected, admin_client):
    Queue.objects.create(name="paused", paused=True, paused_reason="maintenance")

    found = lead(admin_client, a_job(state, **fields))

    assert found.level == level
    assert expected in str(found.text)


def test_a_dead_job_leads_to_its_latest_dead_letter(admin_client):
    first = a_dead_letter()
    second = a_dead_letter(job=first.job)

    text = admin_client.get(page(first.job)).content.decode()

    assert reverse("admin:jobs_deadletter_change", args=[second.pk]) in text


@pytest.mark.parametrize("state", State)
def test_the_list_is_narrowed_to_a_state(state, admin_client):
    for each in State:
        a_job(each)

    changelist = admin_client.get(LIST, {"state": state}).context["cl"]

    assert [job.state for job in changelist.result_list] == [state]


def test_the_queues_to_filter_by_come_from_their_small_table(admin_client):
    Queue.objects.create(name="email")
    a_job(queue_name="email")
    a_job(queue_name="other")

    response = admin_client.get(LIST, {"queue": "email"})

    assert [job.queue_name for job in response.context["cl"].result_list] == ["email"]
    assert "queue=other" not in response.content.decode()


def test_ready_jobs_are_listed_in_the_order_in_which_they_will_be_claimed(admin_client):
    low, high = a_job(priority=-5), a_job(priority=5)

    listed = admin_client.get(LIST, {"state": "ready"}).context["cl"].result_list

    assert [job.pk for job in listed] == [high.pk, low.pk]


@pytest.mark.parametrize(("query", "found"), [("shop.", 2), ("charge", 0), ("9" * 40, 0), ("%", 0), ("' OR 1=1", 0)])
def test_jobs_are_searched_by_the_beginning_of_their_task(query, found, admin_client):
    a_job()
    a_job()
    a_job(task_path="mail.send")

    assert admin_client.get(LIST, {"q": query}).context["cl"].result_count == found


def test_a_job_is_found_by_its_number(admin_client):
    job, _other = a_job(), a_job()

    assert list(admin_client.get(LIST, {"q": f" {job.pk} "}).context["cl"].result_list) == [job]


def test_a_search_for_a_task_looks_only_at_the_newest_jobs(admin_client, monkeypatch):
    monkeypatch.setattr("jobs.admin.job.SEARCHED_BY_TASK", 3)
    jobs = [a_job() for _ in range(5)]

    found = admin_client.get(LIST, {"q": "shop"}).context["cl"].result_list

    assert {job.pk for job in found} == {job.pk for job in jobs[2:]}


def test_a_list_counts_up_to_its_limit_and_says_so(admin_client, monkeypatch):
    monkeypatch.setattr(stats, "MAX_COUNTED", 3)
    monkeypatch.setattr(stats.counted, "__defaults__", (3,))
    for _ in range(5):
        a_job()

    response = admin_client.get(LIST)

    assert response.context["cl"].result_count == 3
    assert "counting and paging end there" in response.content.decode()


def test_a_list_never_counts_more_than_ten_thousand_rows(admin_client):
    a_job()

    with CaptureQueriesContext(connection) as queries:
        admin_client.get(LIST)

    counts = [query["sql"] for query in queries if "COUNT(*)" in query["sql"] and "jobs_job" in query["sql"]]
    assert counts
    assert all("LIMIT" in sql for sql in counts)


def test_a_list_asks_as_many_questions_for_many_jobs_as_for_few(admin_client, django_assert_max_num_queries):
    for _ in range(40):
        a_job()

    with django_assert_max_num_queries(10):
        admin_client.get(LIST)


@pytest.mark.parametrize("model", ["job", "deadletter", "queue", "idempotencyrecord", "errorgroup", "worker"])
def test_no_list_offers_facets_or_a_date_hierarchy(model, admin_client):
    a_dead_letter()

    text = admin_client.get(f"/admin/jobs/{model}/", {"_facets": "True"}).content.decode()

    assert "Show counts" not in text
    assert "Hide counts" not in text


@pytest.fixture
def long_history(db):
    """Many succeeded jobs, and some in each state that matters, as the planner knows."""
    for state in (State.READY, State.SCHEDULED, State.RUNNING, State.DEAD):
        for _ in range(60):
            a_job(state)
    a_job(State.SUCCEEDED)
    columns = ", ".join(str(field.column) for field in Job._meta.local_concrete_fields if not field.primary_key)
    with connection.cursor() as cursor:
        for _doubling in range(15):
            cursor.execute(f"INSERT INTO jobs_job ({columns}) SELECT {columns} FROM jobs_job WHERE state = 'succeeded'")
        cursor.execute("ANALYZE")


def test_no_page_of_the_list_reads_the_whole_history(long_history, admin_client):
    slow = {}
    for query in ({}, *({"state": state} for state in ("ready", "scheduled", "running", "dead")), {"q": "mail."}):
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(LIST, query)
        for asked in queries:
            about_jobs = asked["sql"].startswith("SELECT") and '"jobs_job"' in asked["sql"]
            if about_jobs and reads_everything(found := plan(asked["sql"])):
                slow[asked["sql"]] = found

    assert slow == {}


def plan(sql):
    prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN (COSTS OFF)"
    with connection.cursor() as cursor:
        # Captured SQL has its arguments in it: a percent sign is none of ours.
        cursor.execute(f"{prefix} {sql}", None)
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def reads_everything(found):
    """A backward walk of the primary key that ends at a LIMIT reads a page, and SQLite calls it a SCAN."""
    if connection.vendor == "sqlite":
        return "USE TEMP B-TREE FOR ORDER BY" in found and "SCAN jobs_job\n" in f"{found}\n"
    return "Seq Scan on jobs_job" in found
