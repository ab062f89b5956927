"""What an e-mail's state is: written by the attempts, by what becomes of the job, and read from both.

A signal can be lost with the process that sends it, so readers ask `current_state`, which sees the job too.
"""

import re
from typing import Any

from django.db.models import Q
from django.utils import timezone

from jobs.models import Job
from jobs.signals import job_dead, job_replayed
from jobs.states import Reason
from jobs.states import State as JobState

from .models import Email

State = Email.State
OPEN = (State.QUEUED, State.SENDING, State.DEFERRED)
STUCK = (State.FAILED, State.UNKNOWN)
# Taken by the mail server; a later one says more than an earlier one.
TAKEN = (State.SENT, State.DELIVERED, State.BOUNCED, State.COMPLAINED)
MAY_WORK_LATER = "it came back; the address may work later"


def begin(email: Email) -> bool:
    """Commit `sending` before the dialogue: whoever finds it there later knows that the mail may be out.

    Return False where the provider has said meanwhile that it has the mail, of an attempt whose end nobody saw.
    """
    email.attempts += 1
    email.state = State.SENDING
    email.sent_to = email.recipient
    begun = Email.objects.filter(pk=email.pk).exclude(state__in=TAKEN)
    changes = {"state": email.state, "attempts": email.attempts, "message_id": email.message_id}
    return bool(begun.change(**changes, sent_to=email.sent_to, last_error=""))


def end(email: Email, state: State, error: str) -> None:
    """Write how the dialogue failed, unless a later attempt or a person has the last word by now."""
    Email.objects.in_dialogue(email).change(state=state, last_error=error)


def change(email: Email, state: State, error: str) -> None:
    """Write a state, unless the row has another one by now than the caller has seen."""
    Email.objects.filter(pk=email.pk, state=email.state).change(state=state, last_error=error)


def mark_sent(delivery_id: str, result: dict[str, Any] | None) -> None:
    """Write `sent`, also when an earlier attempt sent it and died before it could say so."""
    provider = (result or {}).get("provider_message_id", "")
    email = Email.objects.filter(pk=delivery_id)
    # The provider's report may have been faster.
    email.filter(sent_at__isnull=True).change(sent_at=timezone.now(), provider_message_id=provider)
    email.exclude(state__in=TAKEN).change(state=State.SENT, last_error="")


def mark_unknown(delivery_id: str, error: str) -> None:
    Email.objects.filter(pk=delivery_id).exclude(state__in=TAKEN).change(state=State.UNKNOWN, last_error=error)


def report(email: Email, state: State, error: str) -> bool:
    """Write what the provider says, unless it has said more already: reports arrive in any order, and twice."""
    less = Q(state__in=[known for known in State if known not in TAKEN or TAKEN.index(known) < TAKEN.index(state)])
    if error == MAY_WORK_LATER:
        less &= ~Q(state=State.DELIVERED)
    else:
        less |= Q(state=State.BOUNCED, last_error=MAY_WORK_LATER)
    return bool(Email.objects.filter(less, pk=email.pk).change(state=state, last_error=error))


def provider_id(receipt: str) -> str:
    """Return the name in a reply such as "2.0.0 Ok: queued as 4F3A", or the reply itself."""
    if found := re.search(r"\b(?:queued as|queued with id|id=)\s*<?([^\s<>;]+)", receipt, re.IGNORECASE):
        return found[1][:255]
    return " ".join(receipt.split())[:255]


def state_after(stored: str, job_state: str, reason: str = "") -> State:
    """Return the state of an e-mail whose row and job say this; `reason` is that of the job's last death."""
    known = State(stored)
    match job_state:
        case _ if known in TAKEN:
            return known
        case JobState.SUCCEEDED:
            return State.SENT
        case JobState.DEAD if known in OPEN:
            # Dead in the middle of a dialogue, whatever of: it may be out.
            return State.UNKNOWN if reason == Reason.UNCERTAIN or known is State.SENDING else State.FAILED
        case JobState.CANCELLED if known in OPEN:
            return State.UNKNOWN if known is State.SENDING else State.FAILED
        case JobState.READY | JobState.SCHEDULED if known in STUCK:
            return State.QUEUED  # somebody replayed it
        case _:
            return known


def current_state(email: Email) -> State:
    job = email.job
    if job is None:
        return State(email.state)
    reason = ""
    if job.state == JobState.DEAD and email.state in OPEN:
        reason = job.dead_letters.order_by("-pk").values_list("reason", flat=True).first() or ""
    return state_after(email.state, job.state, reason)


def listen() -> None:
    job_dead.connect(on_dead, dispatch_uid="notifications.on_dead")
    job_replayed.connect(on_replayed, dispatch_uid="notifications.on_replayed")


def on_dead(job_id: int, reason: str, **kwargs: Any) -> None:
    for email in Email.objects.filter(job_id=job_id, state__in=OPEN):
        error = email.last_error or f"the job is dead: {Reason(reason).label}"
        change(email, state_after(email.state, JobState.DEAD, reason), error)


def on_replayed(job_id: int, **kwargs: Any) -> None:
    job = Job.objects.filter(pk=job_id).first()
    for email in Email.objects.filter(job_id=job_id).exclude(state__in=TAKEN):
        if job and job.state == JobState.SUCCEEDED:
            mark_sent(str(email.pk), job.return_value)  # a person said that it happened
        else:
            Email.objects.filter(pk=email.pk, state__in=STUCK).change(state=State.QUEUED)
