"""Schedules: what is enqueued by the clock, and each time that it was."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from ..states import Missed
from .job import Job

NOT_DECLARED = "No code declares it any more."


class Schedule(models.Model):
    name = models.CharField(max_length=255, unique=True, help_text=_("What people know it by."))
    task_path = models.CharField(max_length=255, verbose_name=_("task"), help_text=_("The task that it enqueues."))
    kwargs = models.JSONField(
        default=dict, blank=True, verbose_name=_("arguments"), help_text=_("Keyword arguments as a JSON object.")
    )
    cron = models.CharField(
        max_length=100, blank=True, default="", help_text=_("Minute, hour, day of month, month, day of week.")
    )
    time_zone = models.CharField(
        max_length=64, blank=True, default="", help_text=_("Of the cron expression; empty: the project's.")
    )
    every = models.DurationField(
        null=True, blank=True, help_text=_("Instead of cron: as [days] hours:minutes:seconds.")
    )
    starts_at = models.DateTimeField(
        null=True, blank=True, help_text=_("With every: the instant that it counts from; empty: midnight UTC.")
    )
    missed = models.CharField(
        max_length=4,
        choices=Missed,
        default=Missed.ONE,
        help_text=_("What becomes of times that came while no worker ran."),
    )
    enabled = models.BooleanField(default=True, help_text=_("Whether it enqueues anything."))
    problem = models.CharField(
        max_length=1000, blank=True, default="", help_text=_("Why it has disabled itself; empty: it has not.")
    )
    declared = models.BooleanField(default=False, help_text=_("It is written in code; here it can be switched only."))
    declared_at = models.DateTimeField(null=True, blank=True, help_text=_("When a worker last found it in its code."))
    next_at = models.DateTimeField(null=True, blank=True, help_text=_("When it is due next; empty: never."))
    last_at = models.DateTimeField(null=True, blank=True, help_text=_("The last time for which it enqueued a job."))

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        ordering = ["name"]
        permissions = [("run_schedule", _("Can run schedules now"))]
        indexes = [models.Index(fields=["next_at"], name="jobs_schedule_next")]
        constraints = [
            models.CheckConstraint(
                name="jobs_schedule_cron_or_every",
                condition=(~Q(cron="") & Q(every__isnull=True)) | (Q(cron="") & Q(every__isnull=False)),
            ),
            models.CheckConstraint(
                name="jobs_schedule_is_due_only_if_enabled",
                condition=Q(next_at__isnull=True) | (Q(enabled=True) & Q(problem="")),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        """Say in one word whether it enqueues anything; one that is gone from the code is as it should be."""
        if self.problem and self.problem != NOT_DECLARED:
            return "broken"
        return "enabled" if self.enabled and not self.problem else "disabled"


class Tick(models.Model):
    """One time for which a schedule has enqueued its job: the constraint lets nobody else do it again."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="ticks")
    at = models.DateTimeField(help_text=_("The time that the schedule names."))
    enqueued_at = models.DateTimeField()
    job = models.ForeignKey(
        Job, null=True, on_delete=models.SET_NULL, related_name="+", help_text=_("Empty: it has been pruned.")
    )

    class Meta:
        verbose_name = _("tick")
        verbose_name_plural = _("ticks")
        ordering = ["-at"]
        indexes = [models.Index(fields=["at", "id"], name="jobs_tick_at")]
        constraints = [models.UniqueConstraint(fields=["schedule", "at"], name="jobs_tick_once")]

    def __str__(self) -> str:
        return f"{self.schedule} {self.at:%Y-%m-%d %H:%M:%S}"
