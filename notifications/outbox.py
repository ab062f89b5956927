"""`notify`: the row of an e-mail and the job that sends it, both in the caller's transaction."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, router, transaction

from .catalogue import template_named
from .exceptions import Refused
from .models import Email

MAX_KEY = 255


def notify(user_or_address: Any, template_id: str, *, idempotency_key: str | None = None, **references: Any) -> Email:
    """Send an e-mail later: write its row and enqueue the job, and return the row.

    Shape: a saved user or an address; `references` are what the template declares, see `catalogue`. When an e-mail
        has the `idempotency_key` already, it is returned and nothing is enqueued.
    Raises: Refused naming the field; nothing was written.
    Transaction: joins the caller's.
    """
    template = template_named(template_id)
    recipient = recipient_of(user_or_address)
    if template.users_only and not recipient["user"]:
        raise Refused("address", f"{template_id} goes to users only")
    email = Email(template_id=template_id, references=template.checked(references), **recipient)
    email.idempotency_key = key_of(email, idempotency_key)
    if idempotency_key is None:
        return written(email)
    return first_with(email)


def recipient_of(user_or_address: Any) -> dict[str, Any]:
    if isinstance(user_or_address, get_user_model()):
        if user_or_address.pk is None:
            raise Refused("user", "this user is not saved")
        found = Email(user=user_or_address)
        refuse_bad_address("user", found.recipient)
        return {"user": user_or_address, "address": ""}
    refuse_bad_address("address", user_or_address)
    return {"user": None, "address": user_or_address}


def refuse_bad_address(field: str, address: Any) -> None:
    longest = Email._meta.get_field("address").max_length or 0
    try:
        if not isinstance(address, str) or len(address) > longest:
            raise ValidationError("")
        validate_email(address)
    except ValidationError:
        what = "this is no e-mail address" if field == "address" else "this user has no valid e-mail address"
        raise Refused(field, what) from None


def key_of(email: Email, given: Any) -> str:
    if given is None:
        return f"email:{email.template_id}:{email.delivery_id}"
    if not isinstance(given, str) or not 1 <= len(given) <= MAX_KEY or not given.isprintable():
        raise Refused("idempotency_key", f"must be text of 1 to {MAX_KEY} printable characters")
    return given


def first_with(email: Email) -> Email:
    """Write the e-mail unless its key has one already, and return the one that has it."""
    holders = Email.objects.filter(idempotency_key=email.idempotency_key)
    try:
        first = holders.first() or written(email)
    except IntegrityError:
        # Another transaction was faster: the unique constraint decided.
        first = holders.get()
    if any(getattr(first, name) != getattr(email, name) for name in ("template_id", "user", "address", "references")):
        raise Refused("idempotency_key", "it belongs to another e-mail")
    return first


def written(email: Email) -> Email:
    from .tasks import send_email

    with transaction.atomic(using=router.db_for_write(Email)):
        result = send_email.enqueue(delivery_id=str(email.delivery_id), template_id=email.template_id)
        # The ids of other backends, those for tests, are no jobs.
        email.job_id = int(result.id) if result.id.isdecimal() else None
        email.save(force_insert=True)
    return email
