"""The keys of the NOTIFICATIONS setting: defaults, units, and what is wrong with the ones given."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from django.conf import settings

from jobs.webhooks import SHORTEST_SECRET

LONGEST_REPLY_SECONDS = 10
SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class Conf:
    """Every key, in lower case, with its default."""

    # Longest wait before the second attempt, in seconds; it doubles from there. Too small: a short outage of the mail
    # server kills mails; too large: mails come late.
    backoff_base: float = 5
    # Longest wait before any attempt, in seconds.
    backoff_cap: float = 600
    # Longest wait for one reply of the mail server, in seconds. Too small: slow servers never get a mail; it cannot be
    # larger than 10, so that a dialogue ends before the attempt's timeout and a worker's grace.
    smtp_timeout: float = LONGEST_REPLY_SECONDS
    # Send again when nobody knows whether the mail went out. Off: a person decides. On: some recipients get it twice.
    resend_uncertain: bool = False
    # Bearer tokens of the HTTP API by the name of their caller. Each may do what `notifications.add_email` allows.
    api_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Largest body of a request to the HTTP API, in bytes.
    max_body: int = 16 * 1024
    # Secrets that the mail provider's events may be signed with; several while one takes the place of another.
    webhook_secrets: Sequence[str] = field(default=(), repr=False)
    # Scheme and host that links in mails begin with, as https://example.com; a mail that needs a link fails without.
    site_url: str = ""


def current() -> Conf:
    given: Mapping[str, Any] = getattr(settings, "NOTIFICATIONS", {})
    return Conf(**{key.lower(): value for key, value in given.items()})


def site_url() -> str:
    """Return what links begin with; on a developer's machine that is where `runserver` listens."""
    return current().site_url or ("http://127.0.0.1:8000" if settings.DEBUG else "")


def problems_of(given: Any) -> list[str]:
    """Return one sentence for each key that is unknown or has a wrong value."""
    if not isinstance(given, Mapping):
        return [f"NOTIFICATIONS must be a dict, not a {type(given).__name__}."]
    return [problem for key, value in given.items() if (problem := problem_of(key, value))]


def problem_of(key: object, value: Any) -> str:
    if key not in READERS:
        near = difflib.get_close_matches(str(key).upper(), READERS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(READERS))}."
        return f"NOTIFICATIONS has no {key!r}. {hint}"
    if wrong := READERS[str(key)](value):
        return f"NOTIFICATIONS[{key!r}] {wrong}."
    return ""


def seconds(value: Any, longest: float = float("inf")) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return f"must be a number of seconds above 0, not {value!r}"
    return f"must be at most {longest:g} seconds, not {value!r}" if value > longest else ""


def reply_seconds(value: Any) -> str:
    return seconds(value, LONGEST_REPLY_SECONDS)


def switch(value: Any) -> str:
    return "" if isinstance(value, bool) else f"must be True or False, not {value!r}"


def size(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return f"must be a number of bytes above 0, not {value!r}"
    return ""


def site(value: Any) -> str:
    if isinstance(value, str) and (not value or value.startswith(("http://", "https://"))):
        return ""
    return f"must begin with https:// or http://, not {value!r}"


def tokens(value: Any) -> str:
    # A value is never repeated here: checks are printed and logged.
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        return "must be a dict from the caller's name to its token"
    if short := [name for name, token in value.items() if len(token) < SHORTEST_TOKEN]:
        return f"has a token of less than {SHORTEST_TOKEN} characters, for {short[0]!r}"
    if not all(token.isascii() and token.isprintable() and " " not in token for token in value.values()):
        return "has a token with spaces, or characters that a header cannot carry"
    return "has the same token for two callers" if len(set(value.values())) < len(value) else ""


def secrets(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        return "must be a list of secrets"
    short = any(len(text) < SHORTEST_SECRET for text in value)
    return f"has a secret of less than {SHORTEST_SECRET} characters" if short else ""


READERS: dict[str, Callable[[Any], str]] = {
    "BACKOFF_BASE": seconds,
    "BACKOFF_CAP": seconds,
    "SMTP_TIMEOUT": reply_seconds,
    "RESEND_UNCERTAIN": switch,
    "API_TOKENS": tokens,
    "MAX_BODY": size,
    "SITE_URL": site,
    "WEBHOOK_SECRETS": secrets,
}
assert set(READERS) == {f.name.upper() for f in fields(Conf)}
