"""E-mails in the admin: read-only, bounded, and plain about what to do."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from jobs import lifecycle, stats
from jobs.models import DeadLetter
from jobs.testing import run_jobs
from notifications import notify
from notifications.models import Email
from tests.notifications.conftest import job_of

LIST = "/admin/notifications/email/"


def page_of(email):
    return f"{LIST}{email.pk}/change/"


@pytest.fixture
def viewer(django_user_model, client):
    user = django_user_model.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_email"))
    client.force_login(user)
    return client


def test_the_list_shows_the_state_and_the_job(admin_client, ada):
    email = notify(ada, "welcome")

    page = admin_client.get(LIST).content.decode()

    assert "ada@example.com" in page
    assert "queued" in page
    assert reverse("admin:jobs_job_change", args=[job_of(email).pk]) in page


def test_it_costs_the_same_with_more_rows(admin_client, django_assert_max_num_queries):
    for number in range(20):
        notify(f"bob{number}@example.com", "welcome")

    with django_assert_max_num_queries(8):
        admin_client.get(LIST)


def test_addresses_need_the_permission(viewer, client, django_user_model):
    email = notify("bob@example.com", "welcome")
    assert "bob@example.com" in viewer.get(LIST).content.decode()

    client.force_login(django_user_model.objects.create_user("other", is_staff=True))
    assert client.get(LIST).status_code == 403
    assert client.get(page_of(email)).status_code == 403


def test_nothing_can_be_changed(admin_client):
    email = notify("bob@example.com", "welcome")

    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(page_of(email), {"state": "sent"}).status_code == 403
    assert admin_client.post(f"{LIST}{email.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "action-checkbox" not in admin_client.get(LIST).content.decode()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?q=bob@example.com", 1),
        ("?q=bob", 0),
        ("?q=nonsense", 0),
        ("?q=", 2),
        ("?state__exact=queued", 2),
        ("?state__exact=sent", 0),
        ("?template_id=welcome", 1),
        ("?template_id=password_reset", 0),
    ],
)
def test_it_can_be_narrowed(admin_client, ada, query, found):
    notify("bob@example.com", "welcome")
    notify(ada, "support_reply", ticket_number="4711")

    assert admin_client.get(LIST + query).context["cl"].result_count == found


def test_a_delivery_can_be_found(admin_client, ada):
    email = notify(ada, "welcome")
    notify(ada, "welcome")

    assert admin_client.get(f"{LIST}?q={email.pk}").context["cl"].result_count == 1


def test_it_counts_no_further_than_a_limit(admin_client, monkeypatch):
    monkeypatch.setattr(stats.counted, "__defaults__", (3,))
    monkeypatch.setattr(stats, "MAX_COUNTED", 3)
    for number in range(5):
        notify(f"bob{number}@example.com", "welcome")

    response = admin_client.get(LIST)

    assert response.context["cl"].result_count == 3
    assert "3 or more" in response.content.decode()


def test_a_paused_queue_is_said_with_its_reason(admin_client):
    email = notify("bob@example.com", "welcome")
    assert "paused" not in admin_client.get(LIST).content.decode()

    lifecycle.pause("email", reason="535 5.7.8 <wrong> password")

    for url in (LIST, page_of(email)):
        page = admin_client.get(url).content.decode()
        assert "535 5.7.8 &lt;wrong&gt; password" in page
        assert reverse("admin:jobs_queue_changelist") in page


def test_a_page_says_what_became_of_it_and_links_the_dead_letter(admin_client, ada, smtp):
    smtp.drop_after_data()
    email = notify(ada, "welcome")
    run_jobs()

    page = admin_client.get(page_of(email)).content.decode()

    assert "Nobody knows whether it went out" in page
    assert reverse("admin:jobs_deadletter_change", args=[DeadLetter.objects.get().pk]) in page


@pytest.mark.parametrize("state", Email.State.values)
def test_every_state_has_a_page(admin_client, ada, state):
    email = notify(ada, "invoice_reminder", invoice_number="2026-17", due_on="2026-03-31")
    Email.objects.filter(pk=email.pk).update(state=state, job=None)

    page = admin_client.get(page_of(email)).content.decode()

    assert state in page
    assert "2026-17" in page
