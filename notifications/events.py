"""What the mail provider reports of mails that it took: delivered, bounced, complained. The e-mail's state follows."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponseBase

from jobs import CancelJob, RetryLater, task
from jobs.webhooks import Refused, WebhookView

from . import conf, suppression, tracking
from .models import Email, SuppressedAddress

log = logging.getLogger("notifications")

STATES = {
    "delivered": Email.State.DELIVERED,
    "bounced": Email.State.BOUNCED,
    "complained": Email.State.COMPLAINED,
}
SAID = {
    ("delivered", False): "",
    ("delivered", True): "",
    ("bounced", False): tracking.MAY_WORK_LATER,
    ("bounced", True): "it came back for good",
    ("complained", False): "the recipient called it spam",
    ("complained", True): "the recipient called it spam",
}
TOO_EARLY_SECONDS = 30.0
LOOKS = 4  # for a mail whose row may not say yet what the provider calls it
LONGEST = 255


# What the server calls a mail may look like the number of a card.
@task(max_attempts=LOOKS + 3, takes_context=True, transactional=True, allow_secrets=("message_id",))
def record_event(context: Any, *, message_id: str, kind: str, permanent: bool) -> str:
    """Write what the provider said of one mail, and suppress its address where that was final."""
    email = Email.objects.filter(named(message_id)).order_by("-created_at").first()
    if email is None:
        if context.attempt < LOOKS:
            raise RetryLater(TOO_EARLY_SECONDS, "no e-mail has this id yet")
        raise CancelJob("no e-mail of ours has this id")
    changed = tracking.report(email, STATES[kind], SAID[kind, permanent])
    if kind == "complained":
        suppression.suppress(email, SuppressedAddress.Reason.COMPLAINED)
    elif kind == "bounced" and permanent:
        suppression.suppress(email, SuppressedAddress.Reason.BOUNCED)
    log.info("email event", extra={"delivery_id": str(email.pk), "kind": kind, "changed": changed})
    return str(email.state)


def named(message_id: str) -> Q:
    """Find a mail by what either side calls it, in brackets or without."""
    bare = message_id.strip("<>")
    # Said again, what is not empty: that is how the indexes are found that hold only such rows.
    ours = Q(message_id__in=[bare, f"<{bare}>"]) & ~Q(message_id="")
    theirs = Q(provider_message_id=bare) & ~Q(provider_message_id="")
    return ours | theirs


class DeliveryEvents(WebhookView):
    """`{"id": ..., "type": "delivered" | "bounced" | "complained", "message_id": ..., "permanent": true}`

    `message_id` is the Message-ID, or what the mail server called the mail when it took it. What else the provider
    tells stays outside: it may quote the recipient.
    """

    source = "mail-provider"
    task = record_event

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.get_secrets():
            raise Http404("no WEBHOOK_SECRETS are set")
        return super().dispatch(request, *args, **kwargs)

    def get_secrets(self) -> Sequence[str]:
        return conf.current().webhook_secrets

    def arguments(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in STATES:
            return None
        message_id, permanent = event.get("message_id"), event.get("permanent", False)
        if not isinstance(message_id, str) or not 0 < len(message_id.strip("<>")) <= LONGEST:
            raise Refused(400, f"message_id must be text of 1 to {LONGEST} characters")
        if not isinstance(permanent, bool):
            raise Refused(400, "permanent must be true or false")
        return {"message_id": message_id, "kind": kind, "permanent": permanent}
