"""Idempotency records: what is known of effects that must happen once."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import DELETION
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as now
from django.utils.translation import gettext_lazy as _

from .. import lifecycle
from ..models import IdempotencyRecord
from ..states import RecordState
from .confirmation import ConfirmingAdmin, Operation
from .listing import Lead
from .presentation import badge, hidden_payload, job_link, may_see_payload, pretty

DELETE = Operation(
    verb=_("Delete"),
    done=_("Deleted"),
    flag=DELETION,
    is_destructive=True,
    effect=_("The effect is forgotten: the next job or request with the key causes it again."),
)


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(ConfirmingAdmin):
    list_display = ["key", "state_shown", "job_page", "created_at", "expires_at"]
    list_filter = ["state"]
    list_select_related = False
    ordering = ["-pk"]
    search_fields = ["key"]
    search_help_text = _("The whole key.")
    # Takes the place of Django's own action of that name, which would delete records of effects under way.
    actions = ["delete_selected"]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Of an effect that may be under way the page offers no button; the action itself says why it refuses.
        if isinstance(obj, IdempotencyRecord) and obj.state != RecordState.DONE:
            return False
        return request.user.has_perm("jobs.delete_idempotencyrecord")

    @admin.action(permissions=["delete"], description=_("Delete selected idempotency records"))
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord]) -> HttpResponse | None:
        """Forget effects, after asking; not those that somebody may be causing right now."""
        return self.confirm(request, queryset, DELETE, delete_done)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return self.object_action(request, object_id, "delete_selected")

    def delete_model(self, request: HttpRequest, obj: IdempotencyRecord) -> None:
        delete_done([obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord]) -> None:
        delete_done(queryset)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord], search_term: str
    ) -> tuple[QuerySet[IdempotencyRecord], bool]:
        # Only a whole key is found through its index on every database.
        return (queryset.filter(key=search_term.strip()) if search_term.strip() else queryset), False

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead:
        return Lead(
            "note", _("Each stands for an effect that must happen once. Delete one only to let it happen again.")
        )

    def lead_of(self, request: HttpRequest, obj: IdempotencyRecord) -> Lead:
        if obj.state == RecordState.DONE:
            return Lead("good", _("The effect happened. Delete this only to let it happen again."))
        return Lead(
            "note",
            _(
                "Somebody is causing the effect, or died doing so. It cannot be deleted: if its job is dead, answer on "
                "the dead letter whether it happened."
            ),
        )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        result = "result_shown" if may_see_payload(request) else "result_hidden"
        return [
            (None, {"fields": ["key", "state_shown", "job_page", result]}),
            (_("Owner and times"), {"fields": ["owner", "locked_until", "created_at", "expires_at"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for _title, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    @admin.display(description=_("state"))
    def state_shown(self, record: IdempotencyRecord) -> SafeString:
        done = record.state == RecordState.DONE
        return badge("✓" if done else "▶", record.get_state_display(), "succeeded" if done else "running")

    @admin.display(description=_("job"))
    def job_page(self, record: IdempotencyRecord) -> SafeString | str:
        return job_link(record.job_id)

    @admin.display(description=_("result"))
    def result_shown(self, record: IdempotencyRecord) -> SafeString | str:
        return pretty(record.result)

    @admin.display(description=_("result"))
    def result_hidden(self, record: IdempotencyRecord) -> str:
        return hidden_payload()


def delete_done(records: Sequence[IdempotencyRecord] | QuerySet[IdempotencyRecord]) -> lifecycle.Report:
    report = lifecycle.Report()
    for record in records:
        # The condition is in the DELETE: a record that somebody took over meanwhile is not touched.
        if IdempotencyRecord.objects.filter(pk=record.pk, state=RecordState.DONE).delete()[0]:
            report.done.append(record.pk)
        else:
            why = now("the effect may be under way; if its job is dead, answer on the dead letter whether it happened")
            report.skipped.append((record.pk, why))
    return report
