"""The e-mail templates: what each of them must be told, and what it reads for itself when the mail is sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.tokens import default_token_generator
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from . import conf
from .exceptions import ContentRefused, Refused
from .models import Email

PARTS = ("subject.txt", "body.txt", "body.html")
MAX_TEXT = 100


def text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= MAX_TEXT or not value.isprintable():
        raise ValueError(f"must be text of 1 to {MAX_TEXT} printable characters")
    return value.strip()


def day(value: Any) -> str:
    try:
        return (value if type(value) is date else date.fromisoformat(value)).isoformat()
    except (TypeError, ValueError):
        raise ValueError("must be a date such as 2026-03-31") from None


def user_id(value: Any) -> Any:
    """Return the primary key, as JSON can hold it, of a user or of the user with this key."""
    user = value if isinstance(value, get_user_model()) else find_user(value)
    if user is None or user.pk is None:
        raise ValueError("there is no such user")
    return user.pk if isinstance(user.pk, int) else str(user.pk)


def find_user(key: Any) -> Any:
    users = get_user_model()._default_manager
    if isinstance(key, bool) or not isinstance(key, int | str):
        return None
    try:
        return users.filter(pk=key).first()
    except (TypeError, ValueError, OverflowError, ValidationError):
        return None


def name_of(user: Any) -> str:
    return str(user.get_full_name() or user.get_username()) if user else ""


def nothing_more(email: Email) -> dict[str, Any]:
    return {}


def reset_link(email: Email) -> dict[str, Any]:
    """Make the token here, in the worker: it stands in no payload and no row."""
    user = email.user
    if user is None or not user.is_active or not user.has_usable_password():
        raise ContentRefused("this user cannot reset a password")
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    path = reverse("notifications:password_reset", args=[uid, default_token_generator.make_token(user)])
    return {"reset_url": absolute(path)}


def due_date(email: Email) -> dict[str, Any]:
    return {"due_on": date.fromisoformat(email.references["due_on"])}


def agent(email: Email) -> dict[str, Any]:
    return {"agent": name_of(find_user(email.references.get("agent_id")))}


def absolute(path: str) -> str:
    if not (site := conf.site_url()):
        raise ContentRefused("this mail needs a link, and NOTIFICATIONS['SITE_URL'] is not set")
    return site.rstrip("/") + path


@dataclass(frozen=True)
class Template:
    """What a template takes: the name of each reference with what makes it storable, or raises ValueError."""

    needs: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    allows: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    reads: Callable[[Email], dict[str, Any]] = nothing_more
    users_only: bool = False

    def checked(self, references: Mapping[str, Any]) -> dict[str, Any]:
        """Return the references as they are stored. Raises: Refused naming the reference."""
        known = {**self.needs, **self.allows}
        for name in references:
            if name not in known:
                takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                raise Refused(f"references.{name}", f"this template has no such reference; {takes}")
        for name in self.needs:
            if name not in references:
                raise Refused(f"references.{name}", "this template needs it")
        return {name: stored(name, known[name], value) for name, value in references.items()}

    def context(self, email: Email) -> dict[str, Any]:
        """Return what the three files of the template can say. Raises: ContentRefused."""
        shared = {"name": name_of(email.user), "site_url": conf.site_url()}
        return shared | email.references | self.reads(email)


def stored(name: str, reader: Callable[[Any], Any], value: Any) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise Refused(f"references.{name}", str(error)) from None


TEMPLATES: dict[str, Template] = {
    "welcome": Template(),
    "password_reset": Template(reads=reset_link, users_only=True),
    "invoice_reminder": Template(needs={"invoice_number": text, "due_on": day}, reads=due_date),
    "support_reply": Template(needs={"ticket_number": text}, allows={"agent_id": user_id}, reads=agent),
}


def template_named(template_id: Any) -> Template:
    """Raises: Refused."""
    found = TEMPLATES.get(template_id) if isinstance(template_id, str) else None
    if found is None:
        raise Refused("template_id", f"there is no such template; there are {', '.join(sorted(TEMPLATES))}")
    return found
