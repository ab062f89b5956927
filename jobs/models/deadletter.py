"""Dead letters: one row per death of a job, grouped by what killed it."""

from django.db import models
from django.db.models import F
from django.utils.translation import gettext_lazy as _

from ..states import Reason


class ErrorGroup(models.Model):
    fingerprint = models.CharField(
        max_length=64, unique=True, help_text=_("Hash of task, exception class and message without its variable parts.")
    )
    task_path = models.CharField(max_length=255)
    exception_class = models.CharField(max_length=255, blank=True, default="")
    sample = models.TextField(blank=True, default="", help_text=_("The message of its first death."))
    count = models.PositiveIntegerField(default=0, help_text=_("Deaths so far."))
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()

    class Meta:
        verbose_name = _("error group")
        verbose_name_plural = _("error groups")

    def __str__(self) -> str:
        return f"{self.task_path}: {self.exception_class or 'no exception'}"


class DeadLetter(models.Model):
    job = models.ForeignKey("jobs.Job", on_delete=models.CASCADE, related_name="dead_letters")
    group = models.ForeignKey(ErrorGroup, on_delete=models.PROTECT, related_name="dead_letters")
    reason = models.CharField(max_length=18, choices=Reason, help_text=_("Why the job died."))
    exception_class = models.CharField(max_length=255, blank=True, default="")
    message = models.TextField(blank=True, default="", help_text=_("What was said last, shortened."))
    record_key = models.CharField(
        max_length=512, blank=True, default="", help_text=_("Uncertain deaths: the idempotency record in doubt.")
    )
    died_at = models.DateTimeField()
    replayed_at = models.DateTimeField(null=True, blank=True, help_text=_("When the job was sent back to ready."))
    replayed_by = models.CharField(max_length=255, blank=True, default="")

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        get_latest_by = "pk"
        indexes = [
            # Newest first, the order of the list in the admin.
            models.Index(F("died_at").desc(), F("id").desc(), name="jobs_deadletter_newest"),
        ]

    def __str__(self) -> str:
        return f"dead letter {self.pk} of job {self.job_id}: {self.reason}"
