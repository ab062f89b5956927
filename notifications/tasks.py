"""`send_email`: one attempt at one e-mail, from claim to what the mail server said."""

import logging
import re
from datetime import timedelta
from email.utils import parseaddr
from functools import partial
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import make_msgid
from django.core.mail.utils import DNS_NAME

from jobs import CancelJob, PermanentError, Uncertain, once, task
from jobs.breakers import Breaker
from jobs.retries import exponential

from . import conf, suppression, tracking, transport
from .exceptions import ContentRefused, MailMisconfigured, RecipientRefused, TemporaryFailure
from .models import Email
from .rendering import rendered
from .verdicts import Verdict, classify_exception

log = logging.getLogger("notifications")

# Longer than a dead job is kept: as long as it can be replayed, it is known whether its mail went out.
REMEMBERED = timedelta(days=180)
# Every other mail would fail the same way, and none of them is at fault.
BREAKER = Breaker(errors=(MailMisconfigured,), after=1, probe=60)


def backoff(attempt: int, exception: BaseException | None = None) -> float:
    """Wait as NOTIFICATIONS says at the moment of the failure, with full jitter."""
    chosen = conf.current()
    return exponential(base=chosen.backoff_base, cap=chosen.backoff_cap)(attempt, exception)


@task(queue_name="email", max_attempts=3, backoff=backoff, timeout=30, breaker=BREAKER)
def send_email(*, delivery_id: str, template_id: str) -> dict[str, Any]:
    """Send one e-mail and return what is known of it; one that was sent is not sent again, the same is returned."""
    try:
        result = once(
            f"email:{template_id}:{delivery_id}",
            partial(deliver, delivery_id, template_id),
            ttl=REMEMBERED,
            on_uncertain="retry" if conf.current().resend_uncertain else "dead",
        )
    except Uncertain as doubt:
        tracking.mark_unknown(delivery_id, str(doubt))
        raise
    tracking.mark_sent(delivery_id, result)
    return result or {"delivery_id": delivery_id}


def deliver(delivery_id: str, template_id: str) -> dict[str, Any]:
    """Render and send: what `once` guards."""
    email = wanted(delivery_id, template_id)
    if email.state in tracking.TAKEN:
        return what_is_known(email)
    if suppressed := suppression.of(email.recipient):
        reason = f"the address is suppressed: {suppressed.get_reason_display()}"
        tracking.change(email, Email.State.SUPPRESSED, reason)
        raise CancelJob(reason)
    try:
        email.message_id = email.message_id or new_message_id()
        message = rendered(email)
    except PermanentError as error:
        tracking.change(email, Email.State.FAILED, str(error))
        raise
    if not tracking.begin(email):
        return what_is_known(email)
    try:
        receipt = transport.send(message)
    except Exception as error:
        fail(email, error)
    email.provider_message_id = tracking.provider_id(receipt)
    log.info("email sent", extra=log_fields(email))
    return what_is_known(email)


def new_message_id() -> str:
    """Return a Message-ID of the sender's domain: one of this machine's name looks forged to who receives it."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
    return make_msgid(domain=domain or DNS_NAME.get_fqdn())


def wanted(delivery_id: str, template_id: str) -> Email:
    """Raises: PermanentError when the row is gone or is not what the payload says."""
    try:
        return Email.objects.select_related("user", "job").get(pk=delivery_id, template_id=template_id)
    except (Email.DoesNotExist, ValidationError):
        raise PermanentError(f"there is no {template_id} e-mail {delivery_id}") from None


def what_is_known(email: Email) -> dict[str, Any]:
    return {
        "delivery_id": str(email.delivery_id),
        "message_id": email.message_id,
        "provider_message_id": email.provider_message_id,
    }


def fail(email: Email, error: Exception) -> NoReturn:
    """Turn the failure of a dialogue into what the queue does next."""
    failure = classify_exception(error)
    # What the server says goes into the job's history, and that is no place for addresses.
    text = re.sub(re.escape(email.recipient), "<recipient>", failure.text, flags=re.IGNORECASE)
    log.warning("email not sent", extra=log_fields(email) | {"verdict": failure.verdict.value, "error": text})
    # A reply explains itself; the traceback of anything else is wanted, and quotes no recipient.
    cause = None if isinstance(error, OSError) else error
    match failure.verdict:
        case Verdict.AMBIGUOUS:
            raise Uncertain(text) from None
        case Verdict.CONFIGURATION:
            tracking.end(email, Email.State.DEFERRED, text)
            raise MailMisconfigured(f"mail cannot be sent: {text}") from cause
        case Verdict.RECIPIENT:
            tracking.end(email, Email.State.FAILED, text)
            raise RecipientRefused(text) from cause
        case Verdict.CONTENT:
            tracking.end(email, Email.State.FAILED, text)
            raise ContentRefused(text) from cause
        case _:
            tracking.end(email, Email.State.DEFERRED, text)
            raise TemporaryFailure(text) from cause


def log_fields(email: Email) -> dict[str, Any]:
    return {
        "delivery_id": str(email.delivery_id),
        "template_id": email.template_id,
        "job_id": email.job_id,
        "attempt": email.attempts,
    }
