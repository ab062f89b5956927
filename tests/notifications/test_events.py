"""What the mail provider reports: the e-mail's state follows, and an address that bounced for good gets no mail."""

import itertools
import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from jobs.models import DeadLetter, Job
from jobs.states import State as JobState
from jobs.testing import run_jobs
from jobs.webhooks import signed
from notifications import notify, tracking
from notifications.conf import problems_of
from notifications.models import Email, SuppressedAddress
from tests.notifications.conftest import reloaded

pytestmark = pytest.mark.django_db
SECRET = "a secret of the mail provider"
State = Email.State


@pytest.fixture(autouse=True)
def secrets(configure):
    configure(WEBHOOK_SECRETS=[SECRET])


@pytest.fixture
def sent(ada, mailoutbox) -> Email:
    email = notify(ada, "welcome")
    run_jobs()
    assert reloaded(email).state == State.SENT
    return reloaded(email)


ids = itertools.count()


def report(client: Any, email: Email, kind: str, secret: str = SECRET, **fields: Any) -> Any:
    event = {"id": f"evt_{next(ids)}", "type": kind, "message_id": email.message_id} | fields
    body = json.dumps(event).encode()
    headers = {"Webhook-Signature": signed(secret, body)}
    return client.post("/notifications/events/", body, content_type="application/json", headers=headers)


@pytest.mark.parametrize("kind", ["delivered", "bounced", "complained"])
def test_the_state_of_the_email_follows_the_report(client, sent, kind):
    assert report(client, sent, kind).status_code == 202
    assert reloaded(sent).state == State.SENT
    assert run_jobs() == 1

    assert reloaded(sent).state == kind
    assert tracking.current_state(reloaded(sent)) == kind


@pytest.mark.parametrize("order", list(itertools.permutations(["delivered", "bounced", "complained"])))
def test_reports_in_any_order_come_to_the_same(client, sent, order):
    for kind in order:
        report(client, sent, kind)
        run_jobs()

    assert reloaded(sent).state == State.COMPLAINED


def test_the_servers_own_name_for_the_mail_will_do(client, sent):
    Email.objects.filter(pk=sent.pk).update(provider_message_id="4F3A9C")

    report(client, sent, "delivered", message_id="4F3A9C")
    run_jobs()

    assert reloaded(sent).state == State.DELIVERED


@pytest.mark.parametrize("bracketed", [True, False])
def test_the_message_id_may_come_with_brackets_or_without(client, sent, bracketed):
    bare = sent.message_id.strip("<>")

    report(client, sent, "delivered", message_id=f"<{bare}>" if bracketed else bare)
    run_jobs()

    assert reloaded(sent).state == State.DELIVERED


def test_a_report_that_is_faster_than_the_worker_is_not_forgotten(client, ada, mailoutbox):
    email = notify(ada, "welcome")
    Email.objects.filter(pk=email.pk).update(message_id="<early@example.com>", state=State.SENDING, attempts=1)
    tracking.report(reloaded(email), State.DELIVERED, "")

    tracking.mark_sent(str(email.pk), {"provider_message_id": "4F3A9C"})

    row = reloaded(email)
    assert (row.state, row.provider_message_id, row.sent_at is not None) == (State.DELIVERED, "4F3A9C", True)


def test_a_report_on_a_mail_that_is_not_known_yet_is_looked_at_again_and_then_dropped(client, sent):
    report(client, sent, "delivered", message_id="<nobody@example.com>")

    run_jobs(advance=True)

    job = Job.objects.get(task_path="notifications.events.record_event")
    assert (job.state, job.attempts) == (JobState.CANCELLED, 4)
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(
    ("kind", "permanent", "reason"),
    [
        ("bounced", True, "bounced"),
        ("complained", False, "complained"),
        ("bounced", False, None),
        ("delivered", True, None),
    ],
)
def test_only_what_is_final_suppresses_the_address(client, sent, kind, permanent, reason):
    report(client, sent, kind, permanent=permanent)
    run_jobs()

    found = SuppressedAddress.objects.values_list("address", "reason", "email").first()
    assert found == (reason and ("ada@example.com", reason, sent.pk))


def test_a_suppressed_address_gets_no_mail_and_leaves_no_dead_letter(client, sent, ada, mailoutbox):
    report(client, sent, "bounced", permanent=True)
    run_jobs()
    ada.email = "Ada@Example.com"
    ada.save()

    email = notify(ada, "welcome")
    run_jobs()

    assert len(mailoutbox) == 1
    row = reloaded(email)
    assert (row.state, tracking.current_state(row)) == (State.SUPPRESSED, State.SUPPRESSED)
    assert "bounced for good" in row.last_error
    assert row.job.state == JobState.CANCELLED
    assert not DeadLetter.objects.exists()


def test_deleting_the_suppression_lets_it_have_mail_again(admin_client, client, sent, ada, mailoutbox):
    report(client, sent, "bounced", permanent=True)
    run_jobs()
    row = SuppressedAddress.objects.get()
    page = admin_client.get(reverse("admin:notifications_suppressedaddress_change", args=[row.pk]))
    assert "Delete this to let it have mail again" in str(page.context["lead"].text)

    admin_client.post(reverse("admin:notifications_suppressedaddress_delete", args=[row.pk]), {"post": "yes"})

    assert LogEntry.objects.count() == 1
    notify(ada, "welcome")
    run_jobs()
    assert len(mailoutbox) == 2


def test_the_same_report_twice_is_one_job(client, sent):
    for _ in range(2):
        assert report(client, sent, "delivered", id="evt_same").status_code == 202
        run_jobs()

    assert Job.objects.filter(task_path="notifications.events.record_event").count() == 1


def test_a_forged_report_changes_nothing(client, sent):
    before = Job.objects.count()

    assert report(client, sent, "bounced", secret="somebody else's secret", permanent=True).status_code == 401

    assert Job.objects.count() == before
    assert not SuppressedAddress.objects.exists()


@pytest.mark.parametrize(
    "fields", [{"message_id": None}, {"message_id": ""}, {"message_id": "x" * 300}, {"permanent": "yes"}]
)
def test_a_report_that_makes_no_sense_is_refused(client, sent, fields):
    assert report(client, sent, "bounced", **fields).status_code == 400


def test_other_kinds_are_nobody_s_business(client, sent):
    assert report(client, sent, "opened").status_code == 204


def test_without_secrets_there_is_no_such_address(client, sent, configure):
    configure(WEBHOOK_SECRETS=[])

    assert report(client, sent, "delivered").status_code == 404


def test_the_payload_quotes_nobody(client, sent):
    report(client, sent, "bounced", permanent=True, recipient="ada@example.com", detail="550 ada@example.com unknown")

    assert "ada@example.com" not in str(Job.objects.latest("pk").kwargs)


@pytest.mark.parametrize("value", ["one secret that is long enough", ["short"], [1], 7])
def test_wrong_secrets_are_named_and_not_repeated(value):
    [problem] = problems_of({"WEBHOOK_SECRETS": value})

    assert "secret" in problem
    assert "long enough" not in problem


def test_the_list_of_suppressed_addresses_finds_a_whole_address(admin_client, sent):
    SuppressedAddress.objects.create(address="ada@example.com", reason="bounced")
    url = reverse("admin:notifications_suppressedaddress_changelist")

    assert admin_client.get(url, {"q": "Ada@example.com "}).context["cl"].result_count == 1
    assert admin_client.get(url, {"q": "ada"}).context["cl"].result_count == 0
