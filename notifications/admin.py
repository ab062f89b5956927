"""E-mails for people to look at: what became of each, which job sends it, and why none goes out just now."""

import uuid
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from jobs.admin.listing import BoundedAdmin, Lead, Tool
from jobs.admin.presentation import age, badge, job_link
from jobs.models import Queue
from jobs.states import State as JobState

from . import tracking
from .catalogue import TEMPLATES
from .models import Email, SuppressedAddress
from .tasks import send_email

State = Email.State
# Beside each state stands the job's state that looks the same.
LOOKS = {
    State.QUEUED: ("○", "ready"),
    State.SENDING: ("▶", "running"),
    State.SENT: ("✓", "succeeded"),
    State.DEFERRED: ("◷", "scheduled"),
    State.FAILED: ("✗", "dead"),
    State.UNKNOWN: ("?", "dead"),
    State.SUPPRESSED: ("‖", "cancelled"),
    State.DELIVERED: ("✓", "succeeded"),
    State.BOUNCED: ("✗", "dead"),
    State.COMPLAINED: ("✗", "dead"),
}


class TemplateFilter(admin.SimpleListFilter):
    """By the catalogue: asking the table which templates it has would read all of it."""

    title = _("template")
    parameter_name = "template_id"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(template_id, template_id) for template_id in TEMPLATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Email]) -> QuerySet[Email]:
        return queryset.filter(template_id=self.value()) if self.value() else queryset


@admin.register(Email)
class EmailAdmin(BoundedAdmin):
    change_list_template = "admin/jobs/change_list.html"
    change_form_template = "admin/jobs/change_form.html"
    list_display = ("short_id", "state_now", "template_id", "recipient", "attempts", "age", "sent_by")
    list_filter = ("state", TemplateFilter)
    list_select_related = ("user", "job")
    ordering = ("-created_at", "-delivery_id")
    actions = None
    search_fields = ("delivery_id", "address")
    search_help_text = _("A delivery id, or the whole address.")
    fieldsets = (
        (None, {"fields": ("delivery_id", "state_now", "template_id", "recipient", "references")}),
        (_("Sending"), {"fields": ("attempts", "last_error", "sent_by", "message_id", "provider_message_id")}),
        (_("History"), {"fields": ("created_at", "updated_at", "sent_at", "idempotency_key")}),
    )
    readonly_fields = ("state_now", "recipient", "sent_by")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Email], search_term: str
    ) -> tuple[QuerySet[Email], bool]:
        """Search by whole values only: both have an index, and a part of an address has none."""
        if not (term := search_term.strip()):
            return queryset, False
        try:
            return queryset.filter(pk=uuid.UUID(term)), False
        except ValueError:
            return queryset.filter(address=term), False

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead | None:
        return lead_of_paused()

    def lead_of(self, request: HttpRequest, obj: Email) -> Lead | None:
        match tracking.current_state(obj):
            case State.SENT:
                return Lead("good", _("The mail server took it %s ago.") % age(obj.sent_at or obj.updated_at))
            case State.DELIVERED:
                return Lead("good", _("The provider says that it has arrived."))
            case State.BOUNCED:
                return Lead("bad", _("It came back. If that was for good, the address gets no mail any more."))
            case State.COMPLAINED:
                return Lead("bad", _("The recipient called it spam. The address gets no mail any more."))
            case State.SUPPRESSED:
                return Lead("note", _("It was not sent: the address is suppressed. Delete that to let it have mail."))
            case State.UNKNOWN:
                return Lead(
                    "bad", _("Nobody knows whether it went out. Ask the recipient, then answer at its dead letter.")
                )
            case State.FAILED:
                return Lead("bad", _("It was not sent. Its dead letter says why, and can be replayed."))
            case State.DEFERRED:
                return lead_of_paused() or Lead("note", _("It was not taken yet and is tried again."))
            case _:
                return lead_of_paused()

    def tools_of(self, request: HttpRequest, obj: Email) -> list[Tool]:
        if obj.job is None or obj.job.state != JobState.DEAD or not request.user.has_perm("jobs.view_deadletter"):
            return []
        letter = obj.job.dead_letters.order_by("-pk").first()
        return (
            [Tool(_("Open its dead letter"), reverse("admin:jobs_deadletter_change", args=[letter.pk]))]
            if letter
            else []
        )

    @admin.display(description=_("delivery"))
    def short_id(self, email: Email) -> str:
        return str(email.delivery_id)[:8]

    @admin.display(description=_("state"))
    def state_now(self, email: Email) -> SafeString:
        state = tracking.current_state(email)
        mark, kind = LOOKS[state]
        return badge(mark, str(state.label), kind)

    @admin.display(description=_("recipient"))
    def recipient(self, email: Email) -> str:
        return email.recipient or "-"

    @admin.display(description=_("age"))
    def age(self, email: Email) -> str:
        return age(email.created_at)

    @admin.display(description=_("job"))
    def sent_by(self, email: Email) -> SafeString | str:
        return job_link(email.job_id)


@admin.register(SuppressedAddress)
class SuppressedAddressAdmin(BoundedAdmin):
    change_list_template = "admin/jobs/change_list.html"
    change_form_template = "admin/jobs/change_form.html"
    list_display = ("address", "reason", "created_at")
    list_filter = ("reason",)
    fields = ("address", "reason", "email", "created_at")
    ordering = ("-pk",)
    search_fields = ("address",)
    search_help_text = _("The whole address.")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("notifications.delete_suppressedaddress")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[SuppressedAddress], search_term: str
    ) -> tuple[QuerySet[SuppressedAddress], bool]:
        term = search_term.strip().lower()
        return (queryset.filter(address=term) if term else queryset), False

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead:
        return Lead("note", _("These get no mail any more. Delete one to let it have mail again."))

    def lead_of(self, request: HttpRequest, obj: SuppressedAddress) -> Lead:
        text = _("It gets no mail any more: %s. Delete this to let it have mail again.")
        return Lead("note", text % obj.get_reason_display())


def lead_of_paused() -> Lead | None:
    queue = Queue.objects.filter(name=send_email.queue_name, paused=True).first()
    if queue is None:
        return None
    text = gettext("The queue {} is paused, no e-mail goes out: {}. The waiting mails are kept. Resume it under {}.")
    link = format_html('<a href="{}">{}</a>', reverse("admin:jobs_queue_changelist"), _("Queues"))
    return Lead("bad", format_html(text, queue.name, queue.paused_reason or _("no reason given"), link))
