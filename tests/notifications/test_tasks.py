"""`send_email` in a worker: each reply, each crash point, and each second delivery."""

import smtplib
from unittest import mock

import pytest

from jobs import PermanentError, Uncertain, lifecycle
from jobs.exceptions import LeaseLost, TimedOut
from jobs.models import Attempt, DeadLetter, IdempotencyRecord, Job, Queue
from jobs.states import Reason
from jobs.testing import run_jobs
from notifications import notify, tasks, tracking, transport
from notifications.exceptions import MailMisconfigured, TemporaryFailure
from notifications.models import Email
from notifications.tasks import send_email
from notifications.verdicts import AnswerLost
from tests.notifications.conftest import job_of, reloaded


def once_key(email):
    return f"email:{email.template_id}:{email.pk}"


def letter_of(email):
    return DeadLetter.objects.filter(job=job_of(email)).latest()


def deliver_again(email):
    """Hand the job out once more, as after a worker that died before it could settle."""
    Job.objects.filter(pk=job_of(email).pk).update(state="ready", finished_at=None, return_value=None)


@pytest.fixture
def email(ada, smtp):
    return notify(ada, "welcome")


def test_it_is_sent(email, smtp):
    run_jobs()

    (delivery,) = smtp.accepted
    sent = reloaded(email)
    assert delivery.message["Message-ID"] == sent.message_id != ""
    assert (sent.state, sent.attempts, sent.last_error) == ("sent", 1, "")
    assert sent.provider_message_id == "2.0.0 queued"
    assert sent.sent_at is not None
    assert job_of(email).return_value == {
        "delivery_id": str(email.pk),
        "message_id": sent.message_id,
        "provider_message_id": "2.0.0 queued",
    }


def test_a_redelivered_email_job_returns_the_saved_result_and_sends_nothing(email, smtp):
    run_jobs()
    first = job_of(email).return_value

    deliver_again(email)
    run_jobs()

    assert job_of(email).return_value == first
    assert job_of(email).state == "succeeded"
    assert len(smtp.deliveries) == 1


def test_a_redelivered_job_needs_neither_the_row_nor_the_recipient(email, ada, smtp):
    run_jobs()
    first = job_of(email).return_value
    job = job_of(email)

    ada.delete()
    Email.objects.all().delete()
    Job.objects.filter(pk=job.pk).update(state="ready", finished_at=None, return_value=None)
    run_jobs()

    job.refresh_from_db()
    assert (job.state, job.return_value) == ("succeeded", first)
    assert len(smtp.deliveries) == 1


def test_a_row_that_is_sent_is_not_sent_again_without_its_record(email, smtp):
    run_jobs()
    first = job_of(email).return_value
    IdempotencyRecord.objects.all().delete()

    deliver_again(email)
    run_jobs()

    assert job_of(email).return_value == first
    assert len(smtp.deliveries) == 1


def test_the_message_id_is_of_the_senders_domain(email, settings):
    settings.DEFAULT_FROM_EMAIL = "Shop <hello@shop.example.com>"

    run_jobs()

    assert reloaded(email).message_id.endswith("@shop.example.com>")


def test_sending_is_written_before_the_dialogue(email, monkeypatch):
    seen: list[Email] = []

    def look(message):
        seen.append(reloaded(email))
        return ""

    monkeypatch.setattr(transport, "send", look)

    run_jobs()

    (row,) = seen
    assert (row.state, row.attempts) == ("sending", 1)
    assert row.message_id


def test_a_temporary_refusal_is_tried_again_with_the_same_message_id(email, smtp):
    smtp.answer("ada@example.com", "451 4.3.0 try again", times=1)

    run_jobs()
    deferred = reloaded(email)
    assert (deferred.state, deferred.attempts, deferred.last_error) == ("deferred", 1, "451 4.3.0 try again")

    run_jobs(advance=True)
    sent = reloaded(email)
    assert (sent.state, sent.attempts, sent.last_error) == ("sent", 2, "")
    assert sent.message_id == deferred.message_id
    assert job_of(email).attempts == 2


def test_it_is_given_up_after_three_attempts(email, smtp):
    smtp.answer("ada@example.com", "451 4.3.0 try again")

    run_jobs(advance=True)

    failed = reloaded(email)
    assert (failed.state, failed.attempts, failed.last_error) == ("failed", 3, "451 4.3.0 try again")
    assert letter_of(email).reason == Reason.ATTEMPTS_EXHAUSTED
    assert Attempt.objects.filter(job=job_of(email)).count() == 3


@pytest.mark.parametrize(
    ("text", "after_data", "exception"),
    [
        ("550 5.1.1 no such user", False, "notifications.exceptions.RecipientRefused"),
        ("554 5.7.1 spam", True, "notifications.exceptions.ContentRefused"),
    ],
)
def test_a_permanent_refusal_is_not_tried_again(email, smtp, text, after_data, exception):
    smtp.answer("ada@example.com", text, after_data=after_data)

    run_jobs(advance=True)

    failed = reloaded(email)
    assert (failed.state, failed.attempts, failed.last_error) == ("failed", 1, text)
    letter = letter_of(email)
    assert (letter.reason, letter.exception_class) == (Reason.PERMANENT_ERROR, exception)


def test_what_is_kept_of_a_failure_names_no_address(email, smtp):
    smtp.answer("ada@example.com", "550 5.1.1 <Ada@example.COM>: no such user")

    run_jobs()

    (attempt,) = Attempt.objects.all()
    kept = [attempt.message, attempt.traceback, letter_of(email).message, reloaded(email).last_error]
    assert "ada@example.com" not in "".join(kept).lower()
    assert reloaded(email).last_error == "550 5.1.1 <<recipient>>: no such user"


def test_a_wrong_configuration_pauses_the_queue_and_keeps_the_mail(email, smtp, caplog):
    smtp.answer("ada@example.com", "530 5.7.0 Authentication required", times=1)

    run_jobs(advance=True)

    queue = Queue.objects.get(name="email")
    assert queue.paused
    assert "530 5.7.0 Authentication required" in queue.paused_reason
    assert "queue paused by its breaker" in [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert reloaded(email).state == "deferred"
    assert (job_of(email).state, job_of(email).attempts) == ("ready", 0)

    lifecycle.resume("email")
    run_jobs(advance=True)
    assert reloaded(email).state == "sent"
    assert job_of(email).attempts == 1


def test_a_paused_queue_keeps_the_other_mails_as_they_are(email, smtp):
    other = notify("bob@example.com", "welcome")
    smtp.answer("ada@example.com", "535 5.7.8 Authentication failed")

    run_jobs(advance=True)

    assert reloaded(other).state == "queued"
    assert smtp.deliveries == []


def test_a_connection_lost_after_the_data_is_for_a_person(email, smtp):
    smtp.drop_after_data()

    run_jobs(advance=True)

    unknown = reloaded(email)
    assert (unknown.state, unknown.attempts) == ("unknown", 1)
    assert "the server took the data" in unknown.last_error
    assert letter_of(email).reason == Reason.UNCERTAIN
    assert len(smtp.deliveries) == 1


def test_it_did_not_happen(email, smtp):
    smtp.drop_after_data()
    run_jobs()
    smtp.drop_after_data(False)

    lifecycle.replay([letter_of(email)], by="admin", happened=False)
    assert reloaded(email).state == "queued"
    run_jobs()

    assert reloaded(email).state == "sent"
    assert len(smtp.accepted) == 1


def test_it_happened(email, smtp):
    smtp.drop_after_data()
    run_jobs()
    smtp.drop_after_data(False)

    lifecycle.replay([letter_of(email)], by="admin", happened=True)
    run_jobs()

    sent = reloaded(email)
    assert (sent.state, sent.last_error) == ("sent", "")
    assert sent.sent_at is not None
    assert len(smtp.deliveries) == 1


def test_the_setting_says_resend(email, smtp, configure):
    configure(RESEND_UNCERTAIN=True)
    smtp.drop_after_data()
    run_jobs()
    assert reloaded(email).state == "unknown"

    smtp.drop_after_data(False)
    run_jobs(advance=True)

    assert (reloaded(email).state, reloaded(email).attempts) == ("sent", 2)
    assert len(smtp.deliveries) == 2


# Crash points


def killed(*_args, **_kwargs):
    """End the run as a lost lease does: nothing is written any more, neither of the effect nor of the job."""
    raise LeaseLost


def owner_is_gone(email):
    """Leave what a worker leaves that was killed in the dialogue: a record of its own, and the job ready again."""
    job = job_of(email)
    IdempotencyRecord.objects.create(
        key=once_key(email), state="processing", owner=f"job:{job.pk}:7", job=job, created_at=job.enqueued_at
    )


def test_killed_before_the_record_it_is_sent_by_the_next(email, smtp, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "once", killed)
        run_jobs(max_jobs=1)
    assert reloaded(email).state == "queued"

    run_jobs(advance=True)

    assert reloaded(email).state == "sent"
    assert len(smtp.accepted) == 1


@pytest.mark.parametrize("state", ["queued", "sending"])
def test_killed_in_the_dialogue_it_is_for_a_person(email, smtp, state):
    owner_is_gone(email)
    Email.objects.filter(pk=email.pk).update(state=state)

    run_jobs()

    assert reloaded(email).state == "unknown"
    letter = letter_of(email)
    assert (letter.reason, letter.record_key) == (Reason.UNCERTAIN, once_key(email))
    assert smtp.deliveries == []


def test_killed_in_the_dialogue_it_is_sent_again_if_the_setting_says_so(email, smtp, configure):
    configure(RESEND_UNCERTAIN=True)
    owner_is_gone(email)

    run_jobs()

    assert reloaded(email).state == "sent"
    assert len(smtp.accepted) == 1


def test_killed_after_the_record_it_returns_the_result(email, smtp, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "mark_sent", killed)
        run_jobs(max_jobs=1)
    assert reloaded(email).state == "sending"
    assert len(smtp.accepted) == 1

    run_jobs(advance=True)

    assert reloaded(email).state == "sent"
    assert reloaded(email).provider_message_id == "2.0.0 queued"
    assert (job_of(email).return_value or {})["message_id"] == reloaded(email).message_id
    assert len(smtp.deliveries) == 1


def test_a_timeout_in_the_dialogue_is_for_a_person(email, monkeypatch):
    monkeypatch.setattr(transport, "send", mock.Mock(side_effect=TimedOut))

    run_jobs(advance=True)

    assert reloaded(email).state == "unknown"
    assert letter_of(email).reason == Reason.UNCERTAIN


def test_a_stale_attempt_does_not_overwrite_what_came_after_it(email):
    row = reloaded(email)
    tracking.begin(row)
    Email.objects.filter(pk=email.pk).update(state="unknown")

    tracking.end(row, Email.State.DEFERRED, "too late")

    assert (reloaded(email).state, reloaded(email).last_error) == ("unknown", "")


# What no retry can help


def test_a_mail_that_cannot_be_rendered_is_permanent(email, smtp, monkeypatch):
    monkeypatch.setattr("notifications.rendering.render_to_string", mock.Mock(side_effect=ValueError("broken")))

    run_jobs(advance=True)

    failed = reloaded(email)
    assert (failed.state, failed.attempts) == ("failed", 0)
    assert "welcome cannot be rendered: ValueError: broken" in failed.last_error
    assert letter_of(email).reason == Reason.PERMANENT_ERROR
    assert smtp.deliveries == []


def test_a_recipient_who_is_gone_is_permanent(email, ada, smtp):
    ada.delete()

    run_jobs(advance=True)

    assert reloaded(email).state == "failed"
    assert letter_of(email).exception_class == "notifications.exceptions.RecipientRefused"


@pytest.mark.parametrize(
    "payload",
    [
        {"delivery_id": "00000000-0000-4000-8000-000000000000", "template_id": "welcome"},
        {"delivery_id": "nonsense", "template_id": "welcome"},
    ],
)
def test_a_payload_without_a_row_is_permanent(db, payload):
    with pytest.raises(PermanentError, match="there is no welcome e-mail"):
        send_email.func(**payload)
    assert not IdempotencyRecord.objects.exists()


def test_a_payload_with_another_template_is_permanent(email):
    with pytest.raises(PermanentError, match="there is no password_reset e-mail"):
        send_email.func(delivery_id=str(email.pk), template_id="password_reset")


# From a failure to what the queue does


@pytest.mark.parametrize(
    ("error", "raised", "state"),
    [
        (smtplib.SMTPDataError(451, b"4.3.0 later"), TemporaryFailure, "deferred"),
        (ConnectionRefusedError(111, "Connection refused"), TemporaryFailure, "deferred"),
        (ZeroDivisionError("a bug"), TemporaryFailure, "deferred"),
        (smtplib.SMTPAuthenticationError(535, b"5.7.8 wrong"), MailMisconfigured, "deferred"),
        (smtplib.SMTPDataError(550, b"5.1.1 nobody"), PermanentError, "failed"),
        (AnswerLost("closed"), Uncertain, "sending"),
    ],
)
def test_each_verdict_has_its_exception(email, error, raised, state):
    row = reloaded(email)
    tracking.begin(row)

    with pytest.raises(raised):
        tasks.fail(row, error)

    assert reloaded(email).state == state


def test_the_backoff_is_the_settings(configure):
    configure(BACKOFF_BASE=0.01, BACKOFF_CAP=0.02)

    assert all(0 <= tasks.backoff(attempt) <= 0.02 for attempt in range(1, 9))
    assert send_email.backoff is tasks.backoff
    assert (send_email.max_attempts, send_email.timeout, send_email.queue_name) == (3, 30, "email")
