"""`notify` writes the row and the job, or names what is wrong and writes neither."""

from datetime import date

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction

from jobs.models import Job
from notifications import notify
from notifications.exceptions import Refused
from notifications.models import Email
from notifications.tasks import send_email
from tests.notifications.conftest import job_of


def test_it_writes_the_row_and_the_job(ada):
    email = notify(ada, "support_reply", ticket_number="4711")

    stored = Email.objects.get()
    assert (stored.pk, stored.user, stored.address) == (email.pk, ada, "")
    assert (stored.template_id, stored.references) == ("support_reply", {"ticket_number": "4711"})
    assert (stored.state, stored.attempts, stored.message_id) == ("queued", 0, "")
    assert stored.idempotency_key == f"email:support_reply:{email.pk}"
    assert stored.job == Job.objects.get()


def test_the_payload_is_the_delivery_and_the_template(db):
    email = notify("bob@example.com", "invoice_reminder", invoice_number="2026-17", due_on=date(2026, 3, 31))

    job = job_of(email)
    assert job.args == []
    assert job.kwargs == {"delivery_id": str(email.pk), "template_id": "invoice_reminder"}
    assert (job.queue_name, job.max_attempts) == ("email", 3)


def test_references_are_stored_as_json_can_hold_them(ada):
    reminder = notify(ada, "invoice_reminder", invoice_number=" 17 ", due_on=date(2026, 3, 31))
    reply = notify("bob@example.com", "support_reply", ticket_number="4711", agent_id=ada)

    assert reminder.references == {"invoice_number": "17", "due_on": "2026-03-31"}
    assert reply.references == {"ticket_number": "4711", "agent_id": ada.pk}


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_leaves_nothing():
    with transaction.atomic():
        notify("bob@example.com", "welcome")
        transaction.set_rollback(True)

    assert not Email.objects.exists()
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_committed_transaction_leaves_exactly_one():
    with transaction.atomic():
        notify("bob@example.com", "welcome")

    assert Email.objects.count() == Job.objects.count() == 1


@pytest.mark.parametrize(
    ("recipient", "template_id", "references", "field"),
    [
        ("bob@example.com", "wellcome", {}, "template_id"),
        ("bob@example.com", None, {}, "template_id"),
        ("bob@example.com", ["welcome"], {}, "template_id"),
        ("bob", "welcome", {}, "address"),
        ("", "welcome", {}, "address"),
        (None, "welcome", {}, "address"),
        (42, "welcome", {}, "address"),
        ("bob@example.com\nBcc: eve@example.com", "welcome", {}, "address"),
        ("bob@exam\x00ple.com", "welcome", {}, "address"),
        ("b" * 60 + "@" + "e" * 60 + ".example" * 30, "welcome", {}, "address"),
        ("bob@example.com", "password_reset", {}, "address"),
        ("bob@example.com", "welcome", {"token": "secret"}, "references.token"),
        ("bob@example.com", "invoice_reminder", {"due_on": "2026-03-31"}, "references.invoice_number"),
        ("bob@example.com", "invoice_reminder", {"invoice_number": "1"}, "references.due_on"),
        ("bob@example.com", "invoice_reminder", {"invoice_number": "1", "due_on": "soon"}, "references.due_on"),
        ("bob@example.com", "invoice_reminder", {"invoice_number": "1", "due_on": 20260331}, "references.due_on"),
        ("bob@example.com", "support_reply", {"ticket_number": ""}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": "  "}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": "4\x00"}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": "4\nBcc:"}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": "\ud800"}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": "x" * 101}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": 4711}, "references.ticket_number"),
        ("bob@example.com", "support_reply", {"ticket_number": "4", "agent_id": 99}, "references.agent_id"),
        ("bob@example.com", "support_reply", {"ticket_number": "4", "agent_id": True}, "references.agent_id"),
        ("bob@example.com", "support_reply", {"ticket_number": "4", "agent_id": 10**30}, "references.agent_id"),
        ("bob@example.com", "support_reply", {"ticket_number": "4", "agent_id": "x"}, "references.agent_id"),
        ("bob@example.com", "welcome", {"idempotency_key": ""}, "idempotency_key"),
        ("bob@example.com", "welcome", {"idempotency_key": 7}, "idempotency_key"),
        ("bob@example.com", "welcome", {"idempotency_key": "k" * 256}, "idempotency_key"),
        ("bob@example.com", "welcome", {"idempotency_key": "\x00"}, "idempotency_key"),
    ],
)
def test_a_refusal_names_the_field_and_leaves_no_row(db, recipient, template_id, references, field):
    with pytest.raises(Refused) as caught:
        notify(recipient, template_id, **references)

    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert not Email.objects.exists()
    assert not Job.objects.exists()


def test_a_user_without_an_address_is_refused(ada):
    ada.email = ""

    with pytest.raises(Refused, match="user: "):
        notify(ada, "welcome")
    with pytest.raises(Refused, match="user: this user is not saved"):
        notify(get_user_model()(username="eve", email="eve@example.com"), "welcome")


def test_the_same_key_is_the_same_email(ada):
    first = notify(ada, "welcome", idempotency_key=f"welcome:{ada.pk}")
    second = notify(ada, "welcome", idempotency_key=f"welcome:{ada.pk}")

    assert second.pk == first.pk
    assert Email.objects.count() == Job.objects.count() == 1


def test_a_key_does_not_stand_for_two_emails(ada):
    notify(ada, "welcome", idempotency_key="welcome")

    with pytest.raises(Refused, match="idempotency_key: it belongs to another e-mail"):
        notify("bob@example.com", "welcome", idempotency_key="welcome")


def test_the_row_is_two_statements(ada, django_assert_num_queries):
    # The savepoint makes four.
    with django_assert_num_queries(4):
        notify(ada, "welcome")


def test_a_plain_enqueue_needs_no_more_than_the_payload(db):
    email = Email.objects.create(template_id="welcome", address="bob@example.com", idempotency_key="k")

    send_email.enqueue(delivery_id=str(email.pk), template_id="welcome")

    assert Job.objects.count() == 1
