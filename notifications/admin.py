"""E-mails for people to look at: what became of each, which job sends it, and why none goes out just now."""

import uuid
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from jobs import stats
from jobs.models import Queue

from . import tracking
from .catalogue import TEMPLATES
from .models import Email
from .tasks import send_email


class CappedPaginator(Paginator):
    """Counts up to a limit: an exact count of a large table takes minutes."""

    @cached_property
    def count(self) -> int:
        return stats.counted(self.object_list)


class TemplateFilter(admin.SimpleListFilter):
    """By the catalogue: asking the table which templates it has would read all of it."""

    title = _("template")
    parameter_name = "template_id"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        return [(template_id, template_id) for template_id in TEMPLATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Email]) -> QuerySet[Email]:
        return queryset.filter(template_id=self.value()) if self.value() else queryset


@admin.register(Email)
class EmailAdmin(admin.ModelAdmin):
    change_list_template = "admin/notifications/email/change_list.html"
    list_display = ("delivery_id", "state_now", "template_id", "recipient", "attempts", "age", "job_link")
    list_filter = ("state", TemplateFilter)
    sortable_by = ("age",)
    list_select_related = ("user", "job")
    list_per_page = 50
    ordering = ("-created_at", "-delivery_id")
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = None
    search_fields = ("delivery_id", "address")
    search_help_text = _("A delivery id, or the whole address.")
    fieldsets = (
        (None, {"fields": ("delivery_id", "state_now", "template_id", "recipient", "references")}),
        (_("Sending"), {"fields": ("attempts", "last_error", "job_link", "message_id", "provider_message_id")}),
        (_("History"), {"fields": ("created_at", "updated_at", "sent_at", "idempotency_key")}),
    )
    readonly_fields = tuple(name for _title, options in fieldsets for name in options["fields"])

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Email | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Email | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"paused_queue": paused_queue(), **(extra_context or {})})

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

    @admin.display(description=_("state"))
    def state_now(self, email: Email) -> str:
        return str(tracking.current_state(email).label)

    @admin.display(description=_("recipient"))
    def recipient(self, email: Email) -> str:
        return email.recipient

    @admin.display(description=_("age"), ordering="created_at")
    def age(self, email: Email) -> str:
        return timesince(email.created_at, timezone.now(), depth=1)

    @admin.display(description=_("job"))
    def job_link(self, email: Email) -> str:
        if email.job is None:
            return ""
        shown = f"{email.job_id} ({email.job.get_state_display()})"
        try:
            return format_html('<a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[email.job_id]), shown)
        except NoReverseMatch:
            return shown


def paused_queue() -> Queue | None:
    return Queue.objects.filter(name=send_email.queue_name, paused=True).first()
