"""What every list and page of this admin has in common: bounded, read-only, and a first line that says what to do."""

from typing import Any, ClassVar, NamedTuple

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model
from django.http import HttpRequest, HttpResponse

from .. import stats
from .paging import CappedPaginator

# What no list needs of a job: a page of payloads may be megabytes.
WIDE = ("args", "kwargs", "return_value", "worker_ids")


class Lead(NamedTuple):
    """The first line of a page. `level` is `good`, `note` or `bad`; it chooses a mark and a colour."""

    level: str
    text: Any


class Tool(NamedTuple):
    """A button on an object's page."""

    label: Any
    url: str
    is_destructive: bool = False


class BoundedAdmin(admin.ModelAdmin):
    """Read-only, and no page of it costs more the more rows there are."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by: ClassVar[tuple[str, ...]] = ()

    class Media:
        css = {"all": ["jobs/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead | None:
        """Return the first line of the list."""
        return None

    def lead_of(self, request: HttpRequest, obj: Any) -> Lead | None:
        """Return the first line of an object's page."""
        return None

    def tools_of(self, request: HttpRequest, obj: Any) -> list[Tool]:
        """Return the buttons of an object's page: what this user may do with it now."""
        return []

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if changelist := context.get("cl"):
            context["lead"] = self.lead_of_list(request, changelist)
            context["is_capped"] = changelist.result_count >= stats.MAX_COUNTED
            context["max_counted"] = stats.MAX_COUNTED
        return response

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= {"lead": self.lead_of(request, obj), "tools": self.tools_of(request, obj)}
        return super().render_change_form(request, context, add, change, form_url, obj)
