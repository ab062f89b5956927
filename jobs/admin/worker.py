"""Worker processes: who is there to run jobs, and who fell silent."""

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import stats
from ..models import Worker
from .listing import BoundedAdmin, Lead
from .presentation import age, badge


@admin.register(Worker)
class WorkerAdmin(BoundedAdmin):
    list_display = ["worker_id", "life", "seen", "hostname", "pid", "queue_names", "threads", "started_at"]
    fields = ["worker_id", "life", "tree", "hostname", "pid", "queue_names", "threads", "started_at", "last_seen_at"]
    readonly_fields = ["life", "queue_names"]
    ordering = ["hostname", "pid", "pk"]

    def lead_of_list(self, request: HttpRequest, changelist: ChangeList) -> Lead:
        if lead := lead_of_workers():
            return lead
        seen = stats.workers(timezone.now())
        if seen.stale:
            text = _("%(alive)d alive, %(stale)d silent for over a minute: killed, or without a database.")
            return Lead("note", text % {"alive": seen.alive, "stale": seen.stale})
        said = ngettext("The one worker is alive.", "All %(alive)d workers are alive.", seen.alive)
        return Lead("good", said % {"alive": seen.alive})

    def lead_of(self, request: HttpRequest, obj: Worker) -> Lead:
        if is_alive(obj):
            return Lead("good", _("It gave a sign of life %s ago.") % age(obj.last_seen_at))
        text = _("Silent for %s: it was killed, or cannot reach the database. Its jobs go to others.")
        return Lead("bad", text % age(obj.last_seen_at))

    @admin.display(description=_("life"))
    def life(self, worker: Worker) -> SafeString:
        return badge("✓", str(_("alive")), "succeeded") if is_alive(worker) else badge("✗", str(_("silent")), "dead")

    @admin.display(description=_("last seen"))
    def seen(self, worker: Worker) -> str:
        return _("%s ago") % age(worker.last_seen_at)

    @admin.display(description=_("queues"))
    def queue_names(self, worker: Worker) -> str:
        return ", ".join(worker.queues) or str(_("all"))


def is_alive(worker: Worker) -> bool:
    return worker.last_seen_at >= timezone.now() - stats.STALE_AFTER


def lead_of_workers() -> Lead | None:
    """Return the worst news there is about a queue: nobody works."""
    if stats.workers(timezone.now()).alive:
        return None
    return Lead("bad", _("No worker is alive, so nothing runs. Start one: manage.py runworker"))
