"""An attempt that left something to say: one row per failed, lost, interrupted or cancelled run of a job."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Attempt(models.Model):
    class Outcome(models.TextChoices):
        FAILED = "failed", _("failed")
        LOST = "lost", _("lost")
        INTERRUPTED = "interrupted", _("interrupted")
        CANCELLED = "cancelled", _("cancelled")

    job = models.ForeignKey("jobs.Job", on_delete=models.CASCADE, related_name="attempt_set")
    number = models.PositiveIntegerField(help_text=_("Which attempt of the job this was, from 1."))
    lease_token = models.BigIntegerField(help_text=_("The lease under which it ran."))
    outcome = models.CharField(max_length=11, choices=Outcome, help_text=_("How it ended."))
    worker_id = models.CharField(max_length=100, help_text=_("The worker process that ran it."))
    started_at = models.DateTimeField(null=True, help_text=_("When it started; empty: not known."))
    finished_at = models.DateTimeField(help_text=_("When it ended, or when its end was noticed."))
    exception_class = models.CharField(max_length=255, blank=True, default="")
    message = models.TextField(blank=True, default="", help_text=_("The exception's text, shortened."))
    traceback = models.TextField(blank=True, default="", help_text=_("First and last 8 KiB."))

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.outcome}"
