"""Asking before acting: an effect needs a permission, a confirmed POST, and leaves a LogEntry for each row."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.admin import helpers
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import model_ngettext, quote, unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import stats
from ..lifecycle import Report
from .listing import BoundedAdmin, Tool
from .paging import row_id

SHOWN_ROWS = 10
SHOWN_IDS = 5
SHOWN_REASONS = 5

Act = Callable[[Sequence[Any]], Report]


@dataclass(frozen=True)
class Operation:
    """What people read of an operation: before it, on its button, after it, and in the history."""

    verb: Any
    effect: Any
    done: Any
    question: Any = ""
    flag: int = CHANGE
    is_destructive: bool = False
    asks_reason: bool = False


class ConfirmingAdmin(BoundedAdmin):
    """Actions that ask first, on the list for many rows and on an object's page for one.

    `object_actions` maps a part of a URL to the name of an action's method: `{"replay": "replay"}`.
    """

    object_actions: ClassVar[dict[str, str]] = {}

    def confirm(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        operation: Operation,
        act: Act,
        warnings: Sequence[str] = (),
    ) -> HttpResponse | None:
        """Ask, or once confirmed act on all rows in chunks, log each, and tell what became of them."""
        if request.method != "POST" or "confirmed" not in request.POST:
            return self.ask(request, queryset, operation, warnings)
        report = Report()
        for chunk in stats.chunks(
            queryset.filter(pk__lte=row_id(request.POST["up_to"])) if "up_to" in request.POST else queryset
        ):
            found = act(chunk)
            done = set(found.done)
            if acted_on := [obj for obj in chunk if obj.pk in done]:
                log(request, acted_on, operation)
            report.done += found.done
            report.skipped += found.skipped
        self.tell(request, operation, report)
        return None

    def ask(
        self, request: HttpRequest, queryset: QuerySet[Any], operation: Operation, warnings: Sequence[str]
    ) -> HttpResponse:
        rows = list(queryset[:SHOWN_ROWS])
        count = stats.counted(queryset)
        # What arrives between the question and the answer was not asked about.
        last = queryset.order_by("-pk").values_list("pk", flat=True).first() or 0
        hidden = [("confirmed", "yes"), ("up_to", last)]
        for name in ("action", "select_across", helpers.ACTION_CHECKBOX_NAME):
            hidden += [(name, value) for value in request.POST.getlist(name)]
        context = self.admin_site.each_context(request) | {
            "title": operation.question or self.question(operation, count),
            "opts": self.opts,
            "media": self.media,
            "operation": operation,
            "rows": [self.row_text(obj) for obj in rows],
            "more": count - len(rows),
            "warnings": warnings,
            "hidden": hidden,
            "back_url": self.back_url(request),
        }
        return TemplateResponse(request, "admin/jobs/confirmation.html", context)

    def question(self, operation: Operation, count: int) -> str:
        return _("%(verb)s %(count)s %(name)s?") % {
            "verb": operation.verb,
            "count": stats.at_least(count),
            "name": model_ngettext(self.opts, count),
        }

    def row_text(self, obj: Any) -> str:
        """Return what people know an object by, in the list of what will be acted on."""
        return str(obj)

    def back_url(self, request: HttpRequest) -> str:
        """Return where the question came from: the filtered list, or the object's page."""
        match = request.resolver_match
        if match and (object_id := match.kwargs.get("object_id")):
            return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id])
        return request.get_full_path()

    def tell(self, request: HttpRequest, operation: Operation, report: Report) -> None:
        """Say what was done, and what was skipped and why."""
        count = len(report.done)
        if count:
            text = _("%(done)s %(count)d %(name)s.")
            names = {"done": operation.done, "count": count, "name": model_ngettext(self.opts, count)}
            self.message_user(request, text % names, messages.SUCCESS)
        reasons: dict[str, list[int]] = defaultdict(list)
        for pk, why in report.skipped:
            reasons[why].append(pk)
        for why, ids in list(reasons.items())[:SHOWN_REASONS]:
            self.message_user(request, skipped_text(why, ids), messages.WARNING)
        if rest := sum(len(ids) for ids in list(reasons.values())[SHOWN_REASONS:]):
            self.message_user(request, _("%d more were skipped for other reasons.") % rest, messages.WARNING)
        if not count and not report.skipped:
            self.message_user(request, _("Nothing was left to do."), messages.INFO)

    # One object: the same actions under a URL each

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                f"<path:object_id>/{part}/",
                self.admin_site.admin_view(partial(self.object_action, method=method)),
                name=f"{self.opts.app_label}_{self.opts.model_name}_{method}",
            )
            for part, method in self.object_actions.items()
        ]
        return own + super().get_urls()

    def object_action(self, request: HttpRequest, object_id: str, method: str) -> HttpResponse:
        """Ask on GET, act on a confirmed POST, and go back to where the object is or was."""
        if request.method not in ("GET", "HEAD", "POST"):
            return HttpResponseNotAllowed(["GET", "POST"])
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            raise Http404(_("There is no %(name)s %(id)s.") % {"name": self.opts.verbose_name, "id": object_id})
        if not self.has_view_permission(request, obj) or not self.may(request, method):
            raise PermissionDenied
        queryset = self.get_queryset(request).filter(pk=obj.pk)
        if answer := getattr(self, method)(request, queryset):
            return answer  # type: ignore[no-any-return]
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}"
        if queryset.exists():
            return HttpResponseRedirect(reverse(f"{name}_change", args=[quote(obj.pk)]))
        return HttpResponseRedirect(reverse(f"{name}_changelist"))

    def may(self, request: HttpRequest, method: str) -> bool:
        """Say whether the user has a permission that the action declares."""
        allowed = getattr(self, method).allowed_permissions
        return any(getattr(self, f"has_{permission}_permission")(request) for permission in allowed)

    def tool(self, obj: Model, method: str, operation: Operation) -> Tool:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{method}"
        return Tool(operation.verb, reverse(name, args=[quote(obj.pk)]), operation.is_destructive)


def log(request: HttpRequest, objects: Sequence[Model], operation: Operation) -> None:
    """Write the history: one LogEntry for each object."""
    user_id: Any = request.user.pk
    LogEntry.objects.log_actions(user_id, objects, operation.flag, f"{operation.verb}.")  # type: ignore[arg-type]


def skipped_text(why: str, ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:SHOWN_IDS]))
    if len(ids) > SHOWN_IDS:
        shown = _("%(ids)s and %(count)d more") % {"ids": shown, "count": len(ids) - SHOWN_IDS}
    text = ngettext("%(count)d was skipped (%(ids)s): %(why)s.", "%(count)d were skipped (%(ids)s): %(why)s.", len(ids))
    return text % {"count": len(ids), "ids": shown, "why": why}
