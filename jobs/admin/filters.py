"""What lists are narrowed by: constants and small tables, never a DISTINCT over jobs."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import stats
from ..models import ErrorGroup, Queue
from ..states import State
from .paging import row_id

SHOWN_GROUPS = 20


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        first, second, *others = State.choices
        return [first, second, (stats.BLOCKED, _("waiting for its turn")), *others]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return stats.listed(queryset, self.value()) if self.value() else queryset  # type: ignore[no-any-return, arg-type]


class QueueFilter(admin.SimpleListFilter):
    title = _("queue")
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        names = Queue.objects.order_by("name").values_list("name", flat=True)[: stats.MAX_QUEUES]
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(queue_name=self.value()) if self.value() else queryset


class TriageFilter(admin.SimpleListFilter):
    """Those that wait for a decision unless something else is asked for."""

    title = _("decision")
    parameter_name = "decision"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("replayed", _("Replayed")), ("any", _("All"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "any":
                return queryset
            case "replayed":
                return queryset.filter(replayed_at__isnull=False)
            case _:
                return queryset.filter(replayed_at__isnull=True)

    def choices(self, changelist: ChangeList) -> Any:
        first, *others = super().choices(changelist)
        return [first | {"display": _("Waiting for you")}, *others]


class ErrorGroupFilter(admin.SimpleListFilter):
    """The error groups that killed last."""

    title = _("error group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        latest = list(ErrorGroup.objects.order_by("-last_seen", "-pk")[:SHOWN_GROUPS])
        chosen = row_id(request.GET.get(self.parameter_name, ""))
        if chosen and chosen not in {group.pk for group in latest}:
            latest += ErrorGroup.objects.filter(pk=chosen)
        return [(group.pk, group_name(group)) for group in latest]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(group=row_id(chosen)) if chosen else queryset


def group_name(group: ErrorGroup) -> str:
    """Return the last parts of both paths: a sidebar is narrow."""
    return f"{group.task_path.rpartition('.')[2]}: {group.exception_class.rpartition('.')[2] or '-'}"
