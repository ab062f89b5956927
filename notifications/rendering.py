"""From a row to the message: rendered in the worker, when it is sent, from what the database says then."""

from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.template.loader import render_to_string

from .catalogue import PARTS, TEMPLATES
from .exceptions import ContentRefused, RecipientRefused
from .models import Email


def rendered(email: Email) -> EmailMultiAlternatives:
    """Return the message. Raises: RecipientRefused, ContentRefused: rendering again would fail again."""
    address = address_of(email)
    try:
        subject, text, html = parts(email)
        message = EmailMultiAlternatives(
            subject,
            text,
            to=[address],
            # No out-of-office reply to these, RFC 3834.
            headers={"Message-ID": email.message_id, "Auto-Submitted": "auto-generated"},
        )
        message.attach_alternative(html, "text/html")
        # Headers are only checked here, and the dialogue is too late for that.
        message.message()
    except ContentRefused:
        raise
    except Exception as error:
        raise ContentRefused(f"{email.template_id} cannot be rendered: {type(error).__name__}: {error}") from error
    return message


def parts(email: Email) -> tuple[str, str, str]:
    template = TEMPLATES.get(email.template_id)
    if template is None:
        raise ContentRefused(f"there is no template {email.template_id!r}")
    context = template.context(email)
    subject, text, html = (render_to_string(f"notifications/{email.template_id}/{part}", context) for part in PARTS)
    return " ".join(subject.split()), text, html


def address_of(email: Email) -> str:
    try:
        validate_email(email.recipient)
    except ValidationError:
        raise RecipientRefused("the recipient is gone, or has no valid address") from None
    return email.recipient
