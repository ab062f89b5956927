"""How values look: text first, colour second, and nothing of a payload for who may not see it."""

import json
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _

from ..models import Job
from ..secrets import redacted
from ..states import State

MAX_SHOWN = 64 * 1024
MARKS = {
    State.SCHEDULED: "◷",
    State.READY: "○",
    State.RUNNING: "▶",
    State.SUCCEEDED: "✓",
    State.DEAD: "✗",
    State.CANCELLED: "◌",
}


def state_badge(job: Job) -> SafeString:
    return badge(MARKS[State(job.state)], job.get_state_display(), job.state)


def badge(mark: str, text: str, kind: str) -> SafeString:
    return format_html(
        '<span class="jobs-badge jobs-{}"><span aria-hidden="true">{}</span> {}</span>', kind, mark, text
    )


def job_link(job_id: int | None, text: str = "") -> SafeString | str:
    if job_id is None:
        return "-"
    return format_html('<a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[job_id]), text or f"#{job_id}")


def age(moment: datetime | None) -> str:
    """Return how long ago, in its largest unit: `3 hours`."""
    if moment is None:
        return "-"
    return timesince(moment, timezone.now(), depth=1).replace("\xa0", " ")


def first_line(text: str, length: int = 120) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def breakable(path: str) -> SafeString:
    """Return a dotted path that may be broken after its dots, so that a column of them stays narrow."""
    return format_html_join("", "{}<wbr>", ((part,) for part in path.replace(".", ".\0").split("\0")))


def preformatted(text: str) -> SafeString | str:
    return format_html('<pre class="jobs-pre">{}</pre>', text) if text else "-"


def pretty(value: Any) -> SafeString | str:
    """Return a JSON value as people read it: without secrets, and cut where a page would become too long."""
    text = json.dumps(redacted(value), indent=2, ensure_ascii=False, default=str)
    if len(text) > MAX_SHOWN:
        text = f"{text[:MAX_SHOWN]}\n… {len(text) - MAX_SHOWN} more characters"
    return preformatted(text)


def may_see_payload(request: HttpRequest) -> bool:
    return request.user.has_perm("jobs.view_payload")


def hidden_payload() -> str:
    return _("Hidden. To see it you need the permission “Can see arguments and return values”.")
