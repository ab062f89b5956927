"""Jobs: read-only, with their attempts; the one thing to do here is to cancel."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import lifecycle, stats
from ..models import Job, Queue
from ..states import State
from .attempt import AttemptInline
from .confirmation import ConfirmingAdmin, Operation
from .filters import QueueFilter, StateFilter
from .listing import WIDE, Lead, Tool
from .paging import row_id
from .presentation import age, breakable, hidden_payload, may_see_payload, pretty, state_badge
from .worker import lead_of_workers

CANCEL = Operation(
    verb=_("Cancel"),
    done=_("Cancelled, or asked to stop,"),
    is_destructive=True,
    effect=_(
        "Waiting jobs end at once and are never run. A running one is asked to stop and ends when its task agrees; "
        "what it has done until then stays done."
    ),
)

SEARCHED_BY_TASK = 10_000
KEYS = ("idempotency_key", "dedupe_key", "concurrency_key", "group_key")
WAITED = ("enqueued_at", "run_after", "expires_at", "ready_at")


class JobList(ChangeList):
    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        return super().get_queryset(*args, **kwargs).defer(*WIDE)


@admin.register(Job)
class JobAdmin(ConfirmingAdmin):
    list_display = ["number", "state_shown", "task", "queue", "attempts_of", "since"]
    list_display_links = ["number", "task"]
    list_filter = [StateFilter, QueueFilter]
    search_fields = ["pk"]
    search_help_text = _("Number of a job, or the beginning of a task's path among the newest 10,000 jobs.")
    inlines = [AttemptInline]
    actions = ["cancel"]
    object_actions = {"cancel": "cancel"}

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.cancel_job")

    @admin.action(permissions=["cancel"], description=_("Cancel selected jobs"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        """End waiting jobs and ask running ones to stop, after asking."""
        asked_to_stop: list[int] = []

        def act(jobs: Sequence[Job]) -> lifecycle.Report:
            report = lifecycle.cancel(job.pk for job in jobs)
            asked_to_stop.extend(Job.objects.running().filter(pk__in=report.done).values_list("pk", flat=True))
            return report

        answer = self.confirm(request, queryset, CANCEL, act)
        if asked_to_stop:
            text = ngettext(
                "%d of them is running: it ends when its task agrees.",
                "%d of them are running: they end when their tasks agree.",
                len(asked_to_stop),
            )
            self.message_user(request, text % len(asked_to_stop))
        return answer

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobList

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return stats.LISTED_BY.get(request.GET.get("state", ""), ("-pk",))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.isdecimal():
            return queryset.filter(pk=row_id(term)), False
        # No index knows task paths: look no further back than this.
        newest = Job.objects.order_by("-pk").values_list("pk", flat=True)
        oldest_searched = next(iter(newest[SEARCHED_BY_TASK - 1 : SEARCHED_BY_TASK]), 0)
        return queryset.filter(pk__gte=oldest_searched, task_path__startswith=term), False

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead | None:
        return lead_of_workers() or lead_of_paused()

    @admin.display(description=_("no."))
    def number(self, job: Job) -> str:
        return f"#{job.pk}"

    @admin.display(description=_("state"))
    def state_shown(self, job: Job) -> SafeString:
        return state_badge(job)

    @admin.display(description=_("task"))
    def task(self, job: Job) -> SafeString:
        return breakable(job.task_path)

    @admin.display(description=_("queue"))
    def queue(self, job: Job) -> str:
        return job.queue_name

    @admin.display(description=_("attempts"))
    def attempts_of(self, job: Job) -> str:
        return _("%(attempts)d of %(max)d") % {"attempts": charged(job), "max": job.max_attempts}

    @admin.display(description=_("since"))
    def since(self, job: Job) -> str:
        if job.state == State.SCHEDULED and job.run_after:
            return _("due in %s") % age_until(job) if job.run_after > timezone.now() else str(_("due now"))
        moments = {State.READY: job.ready_at, State.RUNNING: job.last_attempted_at}
        return age(moments.get(State(job.state), job.finished_at))

    # One job

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        payload = ["args_shown", "kwargs_shown", "returned"] if may_see_payload(request) else ["payload"]
        return [
            (None, {"fields": ["state_shown", "task_path", "queue_name", "priority", "attempts_of", "crashes"]}),
            (_("Payload"), {"fields": payload}),
            (
                _("Times"),
                {"fields": [*WAITED, "started_at", "last_attempted_at", "finished_at"]},
            ),
            (_("Lease"), folded("leased_by", "lease_expires_at", "lease_token", "cancel_requested", "worker_ids")),
            (_("Keys"), folded(*KEYS, "schema_version", "backend")),
            (_("More"), folded("timeout", "suspect", "held_since", "progress_percent", "progress_message")),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for _title, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def lead_of(self, request: HttpRequest, obj: Job) -> Lead | None:
        match State(obj.state):
            case State.SCHEDULED:
                return Lead("note", _("It waits until it is due: %s.") % self.since(obj))
            case State.READY:
                return lead_of_ready(obj)
            case State.RUNNING if obj.lease_expires_at and obj.lease_expires_at < timezone.now():
                text = _("Its lease expired %s ago: its worker is gone, and another will take the job back.")
                return Lead("bad", text % age(obj.lease_expires_at))
            case State.RUNNING if obj.cancel_requested:
                return Lead("note", _("It was asked to stop and ends when its task agrees."))
            case State.RUNNING:
                return Lead("note", _("It has been running for %s.") % age(obj.last_attempted_at))
            case State.SUCCEEDED:
                return Lead("good", _("It succeeded %s ago.") % age(obj.finished_at))
            case State.CANCELLED:
                return Lead("note", _("It was cancelled %s ago and is never run.") % age(obj.finished_at))
            case State.DEAD:
                text = _("It died %s ago. Open its dead letter to see why, and to replay or delete it.")
                return Lead("bad", text % age(obj.finished_at))

    def tools_of(self, request: HttpRequest, obj: Job) -> list[Tool]:
        letter = obj.dead_letters.order_by("-pk").first() if obj.state == State.DEAD else None
        if letter and request.user.has_perm("jobs.view_deadletter"):
            return [Tool(_("Open its dead letter"), reverse("admin:jobs_deadletter_change", args=[letter.pk]))]
        may_end = obj.is_waiting or (obj.state == State.RUNNING and not obj.cancel_requested)
        return [self.tool(obj, "cancel", CANCEL)] if may_end and self.has_cancel_permission(request) else []

    @admin.display(description=_("args"))
    def args_shown(self, job: Job) -> SafeString | str:
        return pretty(job.args)

    @admin.display(description=_("kwargs"))
    def kwargs_shown(self, job: Job) -> SafeString | str:
        return pretty(job.kwargs)

    @admin.display(description=_("return value"))
    def returned(self, job: Job) -> SafeString | str:
        return pretty(job.return_value) if job.state == State.SUCCEEDED else "-"

    @admin.display(description=_("arguments and return value"))
    def payload(self, job: Job) -> str:
        return hidden_payload()


def folded(*fields: str) -> dict[str, Any]:
    """Return a fieldset that is closed until somebody wants it."""
    return {"fields": list(fields), "classes": ["collapse"]}


def charged(job: Job) -> int:
    """Return the attempts since the last replay, which gave the job all of its attempts again."""
    return job.attempts - job.forgiven_attempts


def age_until(job: Job) -> str:
    now = timezone.now()
    return age(now - (job.run_after - now)) if job.run_after else "-"


def lead_of_paused() -> Lead | None:
    paused = list(Queue.objects.filter(paused=True).order_by("name")[:5])
    if not paused:
        return None
    names = ", ".join(
        f"{queue.name} ({queue.paused_reason})" if queue.paused_reason else queue.name for queue in paused
    )
    return Lead("note", _("Paused, nothing is claimed from: %s. Resume under Queues.") % names)


def lead_of_ready(job: Job) -> Lead:
    if job.held_since:
        text = _("No worker has known its task or its version for %s: deploy the code that does.")
        return Lead("bad", text % age(job.held_since))
    if job.blocked:
        text = _("It waits for its turn: of the jobs with the key %(key)s no more than %(most)d run at a time.")
        return Lead("note", text % {"key": job.concurrency_key, "most": job.max_concurrent})
    if queue := Queue.objects.filter(name=job.queue_name, paused=True).first():
        text = _("Its queue is paused%s. Resume it under Queues.")
        return Lead("bad", text % (f": {queue.paused_reason}" if queue.paused_reason else ""))
    return lead_of_workers() or Lead("note", _("It has waited for a worker for %s.") % age(job.ready_at))
