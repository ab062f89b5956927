"""Dead letters: why jobs died, and the two ways on: replay or delete."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import DELETION
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import lifecycle, stats
from ..models import Attempt, DeadLetter, Job
from ..states import Reason, State
from .confirmation import ConfirmingAdmin, Operation
from .filters import ErrorGroupFilter, TriageFilter
from .listing import WIDE, Lead, Tool
from .paging import row_id
from .presentation import (
    age,
    breakable,
    first_line,
    hidden_payload,
    job_link,
    may_see_payload,
    preformatted,
    pretty,
    state_badge,
)

REPLAY = Operation(
    verb=_("Replay"),
    done=_("Replayed"),
    effect=_(
        "Each job becomes ready again and a worker runs it soon, with all of its attempts: same id, history and "
        "idempotency key. Do this once the cause is gone."
    ),
)
DELETE = Operation(
    verb=_("Delete"),
    done=_("Deleted"),
    flag=DELETION,
    is_destructive=True,
    effect=_(
        "The dead letter goes for good, and with it its dead job, the payload and the attempts. The work it stands "
        "for is not done by anybody. Idempotency records stay."
    ),
)
HAPPENED = Operation(
    verb=_("It happened"),
    question=_("Did its effect happen?"),
    done=_("Answered “it happened” for"),
    effect=_("The effect is recorded as done and the job succeeds without running again. This cannot be undone."),
)
NOT_HAPPENED = Operation(
    verb=_("It did not happen"),
    question=_("Is it certain that its effect did not happen?"),
    done=_("Answered “it did not happen” for"),
    effect=_(
        "The idempotency record is removed and the job becomes ready: a worker causes the effect. If it did happen "
        "after all, it happens twice."
    ),
)

ADVICE = {
    Reason.ATTEMPTS_EXHAUSTED: _("Every attempt failed. Remove the cause shown below, then replay it."),
    Reason.PERMANENT_ERROR: _("The task says that no retry can help. Correct the data, then replay it; or delete it."),
    Reason.INVALID_PAYLOAD: _("Its arguments do not fit the task. Deploy code that takes them, then replay it."),
    Reason.UNKNOWN_TASK: _("No worker knew its task. Deploy the code that has it, then replay it."),
    Reason.WORKER_LOST: _("Its worker died each time, often for want of memory. Look at the worker's log first."),
    Reason.TIMEOUT: _("It ran longer than its timeout. Raise the timeout or make it faster, then replay it."),
    Reason.EXPIRED: _("It was not run before it expired. Replay it if it is still wanted; or delete it."),
    Reason.UNCERTAIN: _("Nobody knows whether its effect happened. Find out, then press one of the two answers."),
}


class LetterList(ChangeList):
    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        return super().get_queryset(*args, **kwargs).defer(*(f"job__{name}" for name in WIDE))


@admin.register(DeadLetter)
class DeadLetterAdmin(ConfirmingAdmin):
    list_display = ["letter", "task", "reason", "error", "attempts", "died"]
    list_display_links = ["letter"]
    list_filter = [TriageFilter, "reason", ErrorGroupFilter]
    list_select_related = ["job", "group"]
    ordering = ["-died_at", "-pk"]
    search_fields = ["pk"]
    search_help_text = _("Number of a dead letter or a job, or the beginning of a task's path.")
    # The second takes the place of Django's own action of that name, which would not go through `lifecycle`.
    actions = ["replay", "delete_selected"]
    object_actions = {"replay": "replay", "happened": "happened", "not-happened": "not_happened"}

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.replay_job")

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("jobs.delete_deadletter")

    @admin.action(permissions=["replay"], description=_("Replay selected dead letters"))
    def replay(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Make dead jobs ready again, after asking; uncertain ones are left for an answer each."""

        def act(letters: Sequence[DeadLetter]) -> lifecycle.Report:
            return lifecycle.replay(letters, by=request.user.get_username())

        return self.confirm(request, queryset, REPLAY, act, self.uncertain_ones(queryset))

    @admin.action(permissions=["delete"], description=_("Delete selected dead letters"))
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Delete dead letters with their dead jobs, after asking."""

        def act(letters: Sequence[DeadLetter]) -> lifecycle.Report:
            return lifecycle.delete(letters, by=request.user.get_username())

        return self.confirm(request, queryset, DELETE, act)

    @admin.action(permissions=["replay"])
    def happened(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Answer for an uncertain death that its effect happened, after asking."""

        def act(letters: Sequence[DeadLetter]) -> lifecycle.Report:
            return lifecycle.replay(letters, by=request.user.get_username(), happened=True)

        return self.confirm(request, queryset, HAPPENED, act)

    @admin.action(permissions=["replay"])
    def not_happened(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Answer for an uncertain death that its effect did not happen, after asking."""

        def act(letters: Sequence[DeadLetter]) -> lifecycle.Report:
            return lifecycle.replay(letters, by=request.user.get_username(), happened=False)

        return self.confirm(request, queryset, NOT_HAPPENED, act)

    def row_text(self, obj: DeadLetter) -> str:
        error = ": ".join(filter(None, (exception_name(obj), first_line(obj.message, 80))))
        return f"#{obj.pk} {obj.group.task_path}, {obj.get_reason_display()}{f' ({error})' if error else ''}"

    def uncertain_ones(self, queryset: QuerySet[DeadLetter]) -> list[str]:
        count = stats.counted(queryset.filter(reason=Reason.UNCERTAIN))
        if not count:
            return []
        text = ngettext(
            "%d of them is uncertain and will be skipped: open it and say whether its effect happened.",
            "%d of them are uncertain and will be skipped: open each and say whether its effect happened.",
            count,
        )
        return [text % count]

    # Django's own ways to delete end in the same place

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return self.object_action(request, object_id, "delete_selected")

    def delete_model(self, request: HttpRequest, obj: DeadLetter) -> None:
        lifecycle.delete([obj], by=request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        lifecycle.delete(queryset, by=request.user.get_username())

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LetterList

    @admin.display(description=_("no."))
    def letter(self, letter: DeadLetter) -> str:
        return f"#{letter.pk}"

    @admin.display(description=_("task"))
    def task(self, letter: DeadLetter) -> SafeString:
        return breakable(letter.group.task_path)

    @admin.display(description=_("exception and error"))
    def error(self, letter: DeadLetter) -> SafeString | str:
        if not letter.exception_class:
            return first_line(letter.message) or "-"
        return format_html("<strong>{}</strong><br>{}", exception_name(letter), first_line(letter.message))

    @admin.display(description=_("attempts"))
    def attempts(self, letter: DeadLetter) -> int:
        return letter.job.attempts

    @admin.display(description=_("died"))
    def died(self, letter: DeadLetter) -> str:
        return _("%s ago") % age(letter.died_at)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter], search_term: str
    ) -> tuple[QuerySet[DeadLetter], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.isdecimal():
            return queryset.filter(pk=row_id(term)) | queryset.filter(job=row_id(term)), False
        return queryset.filter(group__task_path__startswith=term), False

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead:
        count = changelist.result_count
        if TriageFilter.parameter_name in changelist.params:
            return Lead("note", _("Replayed ones are history: their jobs live on."))
        if not count:
            return Lead("good", _("No dead letter waits for a decision."))
        return Lead(
            "bad",
            ngettext(
                "%d job died and waits for you: open it to see why, then replay it or delete it.",
                "%d jobs died and wait for you: open one to see why, then replay or delete them.",
                count,
            )
            % count,
        )

    # One letter

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        payload = ["args", "kwargs"] if may_see_payload(request) else ["payload"]
        return [
            (None, {"fields": ["task", "reason", "exception_class", "full_message"]}),
            (_("Traceback of the last attempt"), {"fields": ["traceback"]}),
            (_("Job"), {"fields": ["job_page", "job_state", "attempts", "queue", "record_key", "error_group"]}),
            (_("Payload"), {"fields": payload}),
            (_("History"), {"fields": ["died_at", "replayed_at", "replayed_by"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for _title, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def lead_of(self, request: HttpRequest, obj: DeadLetter) -> Lead:
        if obj.replayed_at:
            text = _("Replayed by %(by)s %(age)s ago. There is nothing left to do here; the job is now %(state)s.")
            names = {"by": obj.replayed_by, "age": age(obj.replayed_at), "state": obj.job.get_state_display()}
            return Lead("good", text % names)
        what = _("%(task)s died %(age)s ago: %(reason)s.") % {
            "task": obj.group.task_path,
            "age": age(obj.died_at),
            "reason": obj.get_reason_display(),
        }
        return Lead("bad", f"{what} {ADVICE[Reason(obj.reason)]}")

    def tools_of(self, request: HttpRequest, obj: DeadLetter) -> list[Tool]:
        if obj.replayed_at or obj.job.state != State.DEAD or not self.has_replay_permission(request):
            return []
        if obj.reason == Reason.UNCERTAIN:
            return [self.tool(obj, "happened", HAPPENED), self.tool(obj, "not_happened", NOT_HAPPENED)]
        return [self.tool(obj, "replay", REPLAY)]

    @admin.display(description=_("message"))
    def full_message(self, letter: DeadLetter) -> SafeString | str:
        return preformatted(letter.message)

    @admin.display(description=_("traceback"))
    def traceback(self, letter: DeadLetter) -> SafeString | str:
        attempts = Attempt.objects.filter(job=letter.job_id, finished_at__lte=letter.died_at).exclude(traceback="")
        last = attempts.order_by("-pk").first()
        return preformatted(last.traceback) if last else str(_("None was kept: the job did not die of an exception."))

    @admin.display(description=_("job"))
    def job_page(self, letter: DeadLetter) -> SafeString | str:
        return job_link(letter.job_id)

    @admin.display(description=_("state"))
    def job_state(self, letter: DeadLetter) -> SafeString:
        return state_badge(letter.job)

    @admin.display(description=_("queue"))
    def queue(self, letter: DeadLetter) -> str:
        return letter.job.queue_name

    @admin.display(description=_("error group"))
    def error_group(self, letter: DeadLetter) -> str:
        count = letter.group.count
        text = ngettext("%(group)s, %(count)d death so far", "%(group)s, %(count)d deaths so far", count)
        return text % {"group": letter.group, "count": count}

    @admin.display(description=Job._meta.get_field("args").verbose_name)
    def args(self, letter: DeadLetter) -> SafeString | str:
        return pretty(letter.job.args)

    @admin.display(description=Job._meta.get_field("kwargs").verbose_name)
    def kwargs(self, letter: DeadLetter) -> SafeString | str:
        return pretty(letter.job.kwargs)

    @admin.display(description=_("arguments"))
    def payload(self, letter: DeadLetter) -> str:
        return hidden_payload()


def exception_name(letter: DeadLetter) -> str:
    return letter.exception_class.rpartition(".")[2]
