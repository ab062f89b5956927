"""Schedules: when each is due next, what came of it last, and switching, running, adding and mending them."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.models import CHANGE
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as now
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import registry, schedules, stats
from ..lifecycle import Report
from ..models import Schedule, Tick
from ..models.schedule import NOT_DECLARED
from ..timing import coming, timing_of
from .confirmation import ConfirmingAdmin, Operation
from .listing import Lead, Tool
from .presentation import age, badge, breakable, hidden_payload, job_link, may_see_payload, pretty, state_badge
from .worker import lead_of_workers

ENABLE = Operation(verb=_("Enable"), done=_("Enabled"), effect=_("It enqueues its job from its next time on."))
DISABLE = Operation(
    verb=_("Disable"), done=_("Disabled"), effect=_("It enqueues nothing until somebody enables it. Its jobs stay.")
)
RUN = Operation(
    verb=_("Run now"),
    done=_("Ran"),
    flag=CHANGE,
    question=_("Enqueue its job now?"),
    effect=_("One job more is enqueued at once. When it is due next does not change."),
)
BREAK = mark_safe("<br>")
COMING = 5
SHOWN_TICKS = 10
RULE = ["name", "task_path", "kwargs", "cron", "time_zone", "every", "starts_at", "missed"]


class ScheduleForm(forms.ModelForm):
    class Meta:
        model = Schedule
        fields = RULE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        paths = sorted({*registry.paths(), self.instance.task_path} - {""})
        self.fields["task_path"] = forms.ChoiceField(
            choices=[("", "---------"), *((path, path) for path in paths)],
            label=_("Task"),
            help_text=_("A task that this project's code has registered."),
        )

    def clean(self) -> dict[str, Any]:
        """Let nobody save what would disable itself at its first time."""
        given = super().clean() or {}
        if "kwargs" in self.fields:
            self.instance.kwargs = given.get("kwargs") or {}
            if not isinstance(self.instance.kwargs, dict):
                self.add_error("kwargs", _("It must be a JSON object: the task's keyword arguments."))
        for name in ("cron", "time_zone", "every", "starts_at"):
            if name in given:
                setattr(self.instance, name, given[name])
        try:
            timing_of(self.instance)
        except ValueError as error:
            self.add_error("cron" if given.get("cron") else "every" if given.get("every") else None, str(error))
        if given.get("task_path") and "kwargs" not in self.errors:
            problem = schedules.problem_with_call(given["task_path"], self.instance.kwargs)
            if problem:
                self.add_error("kwargs" if "kwargs" in self.fields else None, problem)
        return given

    def validate_constraints(self) -> None:
        # What they say people have been told in better words.
        if not self.errors:
            super().validate_constraints()


@admin.register(Schedule)
class ScheduleAdmin(ConfirmingAdmin):
    form = ScheduleForm
    list_display = ["name", "task", "when", "state", "next", "last_result"]
    search_fields = ["name", "task_path"]
    ordering = ["name"]
    actions = ["enable", "disable", "run_now"]
    object_actions = {"enable": "enable", "disable": "disable", "run": "run_now"}

    # Who may what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.add_schedule")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("jobs.change_schedule") and not (isinstance(obj, Schedule) and obj.declared)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        in_code = isinstance(obj, Schedule) and obj.declared and obj.problem != NOT_DECLARED
        return request.user.has_perm("jobs.delete_schedule") and not in_code

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        # Its times go along, and may be hundreds of thousands.
        return [str(obj) for obj in objs], {self.opts.verbose_name_plural: len(objs)}, set(), []

    def has_switch_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.change_schedule")

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.run_schedule")

    # What they do

    @admin.action(permissions=["switch"], description=_("Enable selected schedules"))
    def enable(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> HttpResponse | None:
        """Let schedules enqueue again, after asking."""
        return self.confirm(request, queryset, ENABLE, for_schedules(schedules.enable))

    @admin.action(permissions=["switch"], description=_("Disable selected schedules"))
    def disable(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> HttpResponse | None:
        """Stop schedules, after asking."""
        return self.confirm(request, queryset, DISABLE, for_schedules(schedules.disable))

    @admin.action(permissions=["run"], description=_("Run selected schedules now"))
    def run_now(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> HttpResponse | None:
        """Enqueue a job of each at once, after asking."""
        return self.confirm(request, queryset, RUN, for_schedules(schedules.run_now))

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        # What is due just now stays due, unless when it is due has changed.
        if obj.problem or obj.next_at is None or set(form.changed_data) & set(schedules.TIMES):
            obj.problem = ""
            schedules.plan(obj)
        super().save_model(request, obj, form, change)

    # What they look like

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead | None:
        figures = stats.schedules(timezone.now())
        if figures.broken:
            text = ngettext(
                "%d schedule has disabled itself: open it to see why.",
                "%d schedules have disabled themselves: open them to see why.",
                figures.broken,
            )
            return Lead("bad", text % figures.broken)
        if figures.late > stats.LATE:
            return lead_of_workers() or Lead("bad", _("One has been due for more than a minute: do workers keep up?"))
        return lead_of_workers()

    def lead_of(self, request: HttpRequest, obj: Schedule) -> Lead:
        if obj.problem == NOT_DECLARED:
            return Lead(
                "note", _("No code declares it any more, so it enqueues nothing. Delete it, or declare it again.")
            )
        if obj.problem:
            text = _("It has disabled itself: %s Once that is mended, enable it.")
            return Lead("bad", text % (obj.problem if obj.problem.endswith(".") else f"{obj.problem}."))
        if not obj.enabled:
            return Lead("note", _("It is disabled and enqueues nothing until somebody enables it."))
        if obj.next_at is None:
            return Lead("note", _("It never comes again."))
        if timezone.now() - obj.next_at > stats.LATE:
            return lead_of_workers() or Lead("bad", _("It has been due for %s: do workers keep up?") % age(obj.next_at))
        return lead_of_workers() or Lead("good", _("It is due at %s.") % local(obj.next_at))

    def tools_of(self, request: HttpRequest, obj: Schedule) -> list[Tool]:
        tools = []
        if self.has_run_permission(request):
            tools.append(self.tool(obj, "run_now", RUN))
        if self.has_switch_permission(request):
            on = obj.enabled and not obj.problem
            if on:
                tools.append(self.tool(obj, "disable", DISABLE))
            elif obj.problem != NOT_DECLARED:  # only code can bring that back
                tools.append(self.tool(obj, "enable", ENABLE))
        return tools

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        rule = list(RULE)
        if obj and not (may_see_payload(request) and self.has_change_permission(request, obj)):
            rule[rule.index("kwargs")] = "arguments" if may_see_payload(request) else "arguments_hidden"
        shown: list[Any] = [(None, {"fields": rule})]
        if obj:
            shown.append((_("Now"), {"fields": ["state", "coming", "ticks", "declared_in"]}))
        return shown

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["state", "coming", "ticks", "declared_in", "arguments", "arguments_hidden"]

    @admin.display(description=_("task"))
    def task(self, schedule: Schedule) -> SafeString:
        return breakable(schedule.task_path)

    @admin.display(description=_("when"))
    def when(self, schedule: Schedule) -> str:
        try:
            return str(timing_of(schedule))
        except ValueError:
            return schedule.cron or str(schedule.every)

    @admin.display(description=_("state"))
    def state(self, schedule: Schedule) -> SafeString:
        if schedule.state == "broken":
            return badge("✗", now("disabled itself"), "dead")
        on = schedule.state == "enabled"
        return badge("▶", now("enabled"), "succeeded") if on else badge("‖", now("disabled"), "cancelled")

    @admin.display(description=_("next"))
    def next(self, schedule: Schedule) -> str:
        return local(schedule.next_at) if schedule.next_at else "-"

    @admin.display(description=_("last result"))
    def last_result(self, schedule: Schedule) -> SafeString | str:
        tick = newest_ticks(schedule, 1).first()
        return result_of(tick) if tick else "-"

    @admin.display(description=_("next times"))
    def coming(self, schedule: Schedule) -> SafeString | str:
        try:
            moments = coming(timing_of(schedule), timezone.now(), COMING)
        except ValueError as error:
            return str(error)
        return format_html_join(BREAK, "{}", ((local(moment),) for moment in moments)) or "-"

    @admin.display(description=_("last times"))
    def ticks(self, schedule: Schedule) -> SafeString | str:
        rows = ((local(tick.at), result_of(tick)) for tick in newest_ticks(schedule, SHOWN_TICKS))
        return format_html_join(BREAK, "{} {}", rows) or "-"

    @admin.display(description=_("written in"))
    def declared_in(self, schedule: Schedule) -> str:
        return now("code: change it there") if schedule.declared else now("this page")

    @admin.display(description=_("arguments"))
    def arguments(self, schedule: Schedule) -> SafeString | str:
        return pretty(schedule.kwargs)

    @admin.display(description=_("arguments"))
    def arguments_hidden(self, schedule: Schedule) -> str:
        return hidden_payload()


def for_schedules(act: Any) -> Any:
    """Do something to each, and say of which it could not be done and why."""

    def act_on_all(rows: Any) -> Report:
        report = Report()
        for row in rows:
            try:
                act(row)
            except Exception as error:
                report.skipped.append((row.pk, str(error)))
            else:
                report.done.append(row.pk)
        return report

    return act_on_all


def newest_ticks(schedule: Schedule, count: int) -> QuerySet[Tick]:
    return schedule.ticks.select_related("job").only("at", "schedule", "job__state").order_by("-at")[:count]


def result_of(tick: Tick) -> SafeString | str:
    if tick.job is None:
        return now("its job has been pruned")
    return format_html("{} {}", state_badge(tick.job), job_link(tick.job_id))


def local(moment: Any) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")
