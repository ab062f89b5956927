"""What the state of an e-mail is, given its row and its job."""

import pytest

from jobs.models import DeadLetter, ErrorGroup, Job
from jobs.states import Reason
from jobs.testing import run_jobs
from notifications import notify, tracking
from notifications.models import Email
from tests.notifications.conftest import job_of, reloaded


@pytest.mark.parametrize(
    ("stored", "job", "reason", "state"),
    [
        ("queued", "ready", "", "queued"),
        ("queued", "running", "", "queued"),
        ("sending", "running", "", "sending"),
        ("sending", "ready", "", "sending"),
        ("deferred", "scheduled", "", "deferred"),
        ("sent", "running", "", "sent"),
        # The job has the last word.
        ("sending", "succeeded", "", "sent"),
        ("unknown", "succeeded", "", "sent"),
        ("queued", "dead", "attempts_exhausted", "failed"),
        ("deferred", "dead", "attempts_exhausted", "failed"),
        ("queued", "dead", "unknown_task", "failed"),
        ("queued", "dead", "uncertain", "unknown"),
        ("deferred", "dead", "uncertain", "unknown"),
        ("sending", "dead", "uncertain", "unknown"),
        ("sending", "dead", "worker_lost", "unknown"),
        ("sending", "dead", "timeout", "unknown"),
        ("queued", "cancelled", "", "failed"),
        ("sending", "cancelled", "", "unknown"),
        # But for what the attempt knew better.
        ("sent", "dead", "worker_lost", "sent"),
        ("failed", "dead", "permanent_error", "failed"),
        ("unknown", "dead", "uncertain", "unknown"),
        # Replayed.
        ("failed", "ready", "", "queued"),
        ("unknown", "ready", "", "queued"),
        ("failed", "scheduled", "", "queued"),
        ("failed", "running", "", "failed"),
    ],
)
def test_the_state_after(stored, job, reason, state):
    assert tracking.state_after(stored, job, reason) == state


def died(job, reason):
    """Let a job die as if the process that noticed it had died before it could tell."""
    now = job.enqueued_at
    group = ErrorGroup.objects.create(fingerprint="f", task_path=job.task_path, first_seen=now, last_seen=now)
    DeadLetter.objects.create(job=job, group=group, reason=reason, died_at=now)
    Job.objects.filter(pk=job.pk).update(state="dead", finished_at=now, ready_at=None)


@pytest.mark.parametrize(
    ("stored", "reason", "state"),
    [("queued", Reason.UNCERTAIN, "unknown"), ("queued", Reason.EXPIRED, "failed"), ("sending", "timeout", "unknown")],
)
def test_a_lost_signal_does_not_hide_a_death(ada, stored, reason, state):
    email = notify(ada, "welcome")
    Email.objects.filter(pk=email.pk).update(state=stored)
    died(job_of(email), reason)

    assert reloaded(email).state == stored
    assert tracking.current_state(reloaded(email)) == state


def test_the_signal_writes_the_death(ada):
    email = notify(ada, "welcome")

    tracking.on_dead(job_id=job_of(email).pk, reason="expired")

    assert (reloaded(email).state, reloaded(email).last_error) == ("failed", "the job is dead: expired")


def test_other_jobs_are_none_of_its_business(ada):
    tracking.on_dead(job_id=4711, reason="expired")
    tracking.on_replayed(job_id=4711)


def test_an_email_without_a_job_has_the_state_of_its_row(ada, mailoutbox):
    email = notify(ada, "welcome")
    run_jobs()
    Email.objects.filter(pk=email.pk).update(job=None)

    assert tracking.current_state(reloaded(email)) == "sent"


@pytest.mark.parametrize(
    ("receipt", "name"),
    [
        ("2.0.0 Ok: queued as 4F3A9C", "4F3A9C"),
        ("OK id=1sAbCd-0000-XY", "1sAbCd-0000-XY"),
        ("2.6.0 <abc@host> Queued mail for delivery", "2.6.0 <abc@host> Queued mail for delivery"),
        ("2.0.0 OK  1700000000 x-gsmtp", "2.0.0 OK 1700000000 x-gsmtp"),
        ("", ""),
        ("x" * 300, "x" * 255),
    ],
)
def test_the_servers_name_for_the_mail(receipt, name):
    assert tracking.provider_id(receipt) == name
