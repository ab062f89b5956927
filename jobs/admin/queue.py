"""Queues: how full each is, and pausing and resuming."""

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from .. import lifecycle, limits, stats
from ..models import Queue
from .confirmation import ConfirmingAdmin, Operation
from .job import lead_of_paused
from .listing import Lead, Tool
from .presentation import age, badge
from .worker import lead_of_workers

PAUSE = Operation(
    verb=_("Pause"),
    done=_("Paused"),
    asks_reason=True,
    effect=_("No worker claims from it until somebody resumes it. Running jobs go on, and jobs may still be enqueued."),
)
RESUME = Operation(verb=_("Resume"), done=_("Resumed"), effect=_("Workers claim from it again at once."))


LIMITS = ["lifts_settings", "max_running", "rate_limit", "rate_period", "max_depth", "max_age", "on_full", "shed_below"]


class QueueList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        figures = {queue.name: queue for queue in stats.queues(timezone.now())}
        in_force = limits.in_force()
        for queue in self.result_list:
            queue.figures = figures.get(queue.name, stats.QueueFigures(queue.name))
            queue.in_force = in_force.get(queue.name)


@admin.register(Queue)
class QueueAdmin(ConfirmingAdmin):
    list_display = ["name", "is_open", "paused_reason", "scheduled", "ready", "running", "dead", "oldest"]
    fields = ["name", "is_open", "paused_reason", "paused_at", "in_force", *LIMITS]
    readonly_fields = ["name", "is_open", "paused_reason", "paused_at", "in_force"]
    ordering = ["name"]
    actions = ["pause", "resume"]
    object_actions = {"pause": "pause", "resume": "resume"}

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Of its limits: all else on the page is for reading.
        return request.user.has_perm("jobs.change_queue")

    def save_model(self, request: HttpRequest, obj: Queue, form: Any, change: bool) -> None:
        # Nothing but what was written: somebody may have paused it meanwhile.
        if form.changed_data:
            obj.save(update_fields=form.changed_data)

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_queue")

    @admin.action(permissions=["pause"], description=_("Pause selected queues"))
    def pause(self, request: HttpRequest, queryset: QuerySet[Queue]) -> HttpResponse | None:
        """Stop claims, after asking for a reason."""
        reason = request.POST.get("reason", "").strip()

        def pause(queue: Queue) -> None:
            lifecycle.pause(queue.name, reason=reason)

        return self.confirm(
            request, queryset, PAUSE, for_queues(pause, are_paused=False, why=_("it is paused already"))
        )

    @admin.action(permissions=["pause"], description=_("Resume selected queues"))
    def resume(self, request: HttpRequest, queryset: QuerySet[Queue]) -> HttpResponse | None:
        """Allow claims again, after asking."""

        def resume(queue: Queue) -> None:
            lifecycle.resume(queue.name)

        return self.confirm(request, queryset, RESUME, for_queues(resume, are_paused=True, why=_("it is not paused")))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return QueueList

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead | None:
        return lead_of_workers() or lead_of_paused()

    def lead_of(self, request: HttpRequest, obj: Queue) -> Lead:
        if not obj.paused:
            if limits.is_full(obj.name, limits.in_force().get(obj.name)):
                full = _("It is full and takes no more. Start more workers for it, or raise its limit below.")
                return lead_of_workers() or Lead("bad", full)
            return lead_of_workers() or Lead("good", _("Workers claim from it."))
        if obj.tripped_by and obj.probe_at:
            tried = _(
                "%(reason)s. It has been paused for %(age)s. A job is tried %(when)s: if it does well the "
                "queue goes on by itself. Resume it now if you have mended it."
            )
            now = timezone.now()
            soon = _("as soon as one is ready")
            when = soon if obj.probe_at <= now else _("in %s") % timesince(now, obj.probe_at, depth=1)
            return Lead("bad", tried % {"reason": obj.paused_reason, "age": age(obj.paused_at), "when": when})
        text = _("Paused for %(age)s%(reason)s. Resume it once the reason is gone.")
        reason = f": {obj.paused_reason.removesuffix('.')}" if obj.paused_reason else ""
        return Lead("bad", text % {"age": age(obj.paused_at), "reason": reason})

    def tools_of(self, request: HttpRequest, obj: Queue) -> list[Tool]:
        if not self.has_pause_permission(request):
            return []
        # A person may keep a queue paused that would go on by itself.
        pause = [] if obj.paused and not obj.tripped_by else [self.tool(obj, "pause", PAUSE)]
        return [self.tool(obj, "resume", RESUME), *pause] if obj.paused else pause

    @admin.display(description=_("claims"))
    def is_open(self, queue: Queue) -> SafeString:
        return badge("‖", str(_("paused")), "dead") if queue.paused else badge("▶", str(_("open")), "succeeded")

    @admin.display(description=_("scheduled"))
    def scheduled(self, queue: Queue) -> str:
        return stats.at_least(queue.figures.scheduled)  # type: ignore[attr-defined]

    @admin.display(description=_("ready"))
    def ready(self, queue: Queue) -> str | SafeString:
        figures = queue.figures  # type: ignore[attr-defined]
        if limits.is_full(queue.name, queue.in_force):  # type: ignore[attr-defined]
            return format_html("<strong>{}</strong>", _("%s: full") % stats.at_least(figures.ready))
        if not figures.blocked:
            return stats.at_least(figures.ready)
        shown = {"ready": stats.at_least(figures.ready), "blocked": stats.at_least(figures.blocked)}
        return _("%(ready)s, and %(blocked)s that wait for their turn") % shown

    @admin.display(description=_("running"))
    def running(self, queue: Queue) -> str:
        return stats.at_least(queue.figures.running)  # type: ignore[attr-defined]

    @admin.display(description=_("dead"))
    def dead(self, queue: Queue) -> str | SafeString:
        count = queue.figures.dead  # type: ignore[attr-defined]
        return format_html("<strong>{}</strong>", stats.at_least(count)) if count else "0"

    @admin.display(description=_("in force"))
    def in_force(self, queue: Queue) -> str:
        return limits.described(limits.in_force().get(queue.name)) or str(_("No limits."))

    @admin.display(description=_("oldest waits"))
    def oldest(self, queue: Queue) -> str:
        oldest = queue.figures.oldest  # type: ignore[attr-defined]
        now = timezone.now()
        return timesince(now - oldest, now, depth=1) if oldest is not None else "-"


def for_queues(
    change: Callable[[Queue], None], *, are_paused: bool, why: Any
) -> Callable[[Sequence[Queue]], lifecycle.Report]:
    """Return what changes the queues that are not yet so, and skips the others."""

    def act(queues: Sequence[Queue]) -> lifecycle.Report:
        report = lifecycle.Report()
        for queue in queues:
            if queue.paused == are_paused or (queue.tripped_by and not are_paused):
                change(queue)
                report.done.append(queue.pk)
            else:
                report.skipped.append((queue.pk, str(why)))
        return report

    return act
