"""Error groups: what kills jobs, most recent first, each with a way to its dead letters."""

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ..models import ErrorGroup
from .listing import BoundedAdmin, Lead, Tool
from .presentation import age, breakable, first_line, preformatted


@admin.register(ErrorGroup)
class ErrorGroupAdmin(BoundedAdmin):
    list_display = ["task", "exception", "error", "count", "first", "last"]
    ordering = ["-last_seen", "-pk"]
    search_fields = ["task_path__startswith"]
    search_help_text = _("The beginning of a task's path.")
    fields = ["task_path", "exception_class", "sample_shown", "count", "first_seen", "last_seen", "fingerprint"]
    readonly_fields = ["sample_shown"]

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead:
        return Lead("note", _("What killed jobs, most recent first. Open one to get to its dead letters."))

    def lead_of(self, request: HttpRequest, obj: ErrorGroup) -> Lead:
        text = ngettext(
            "It killed %(count)d job so far, the last %(age)s ago.",
            "It killed %(count)d jobs so far, the last %(age)s ago.",
            obj.count,
        )
        return Lead("note", text % {"count": obj.count, "age": age(obj.last_seen)})

    def tools_of(self, request: HttpRequest, obj: ErrorGroup) -> list[Tool]:
        if not request.user.has_perm("jobs.view_deadletter"):
            return []
        url = f"{reverse('admin:jobs_deadletter_changelist')}?group={obj.pk}"
        return [Tool(_("Open its dead letters"), url)]

    @admin.display(description=_("task"))
    def task(self, group: ErrorGroup) -> SafeString:
        return breakable(group.task_path)

    @admin.display(description=_("exception"))
    def exception(self, group: ErrorGroup) -> str:
        return group.exception_class.rpartition(".")[2] or "-"

    @admin.display(description=_("first message"))
    def error(self, group: ErrorGroup) -> str:
        return first_line(group.sample) or "-"

    @admin.display(description=_("first message"))
    def sample_shown(self, group: ErrorGroup) -> SafeString | str:
        return preformatted(group.sample)

    @admin.display(description=_("first seen"))
    def first(self, group: ErrorGroup) -> str:
        return _("%s ago") % age(group.first_seen)

    @admin.display(description=_("last seen"))
    def last(self, group: ErrorGroup) -> str:
        return _("%s ago") % age(group.last_seen)
