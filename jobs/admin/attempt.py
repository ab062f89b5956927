"""The attempts of a job, on its page: what each failed, lost, interrupted or cancelled run left."""

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from ..models import Attempt
from .presentation import preformatted

SHOWN_ATTEMPTS = 25


class LatestAttempts(BaseInlineFormSet):
    """A job that is interrupted again and again may have many: the page shows the latest."""

    def get_queryset(self) -> Any:
        return super().get_queryset()[:SHOWN_ATTEMPTS]


class AttemptInline(admin.StackedInline):
    model = Attempt
    formset = LatestAttempts
    ordering = ["-pk"]
    extra = 0
    verbose_name_plural = _("attempts that did not succeed, latest first")
    fields = [
        "outcome",
        "exception_class",
        "message",
        "trace",
        "started_at",
        "finished_at",
        "worker_id",
        "lease_token",
    ]
    readonly_fields = ["trace"]

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # They are part of the job, not another thing to be granted.
        return request.user.has_perm("jobs.view_job")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @admin.display(description=_("traceback"))
    def trace(self, attempt: Attempt) -> SafeString | str:
        return preformatted(attempt.traceback)
