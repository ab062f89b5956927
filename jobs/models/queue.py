"""A queue that somebody has something to say about; one without a row has the defaults."""

from datetime import timedelta

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from ..states import OnFull
from .job import HIGHEST_PRIORITY, LOWEST_PRIORITY

BY_SETTINGS = "The settings pause it."  # as a reason


class Queue(models.Model):
    name = models.CharField(max_length=100, unique=True)
    paused = models.BooleanField(default=False, help_text=_("No worker claims from it; running jobs go on."))
    paused_reason = models.CharField(max_length=255, blank=True, default="", help_text=_("Shown in the admin."))
    paused_at = models.DateTimeField(null=True, blank=True)
    settings_paused = models.BooleanField(
        default=False, db_default=False, help_text=_("Whether the settings paused it when workers last began.")
    )
    tripped_by = models.CharField(
        max_length=255, blank=True, default="", db_default="", help_text=_("The task whose breaker has paused it.")
    )
    probe_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When a job is tried, to see whether it may go on.")
    )
    probe_every = models.DurationField(null=True, blank=True, help_text=_("How soon after that the next one is."))
    lifts_settings = models.BooleanField(
        _("settings lifted"),
        default=False,
        db_default=False,
        help_text=_("Only the limits that are written here count, and none of those in the settings."),
    )
    max_running = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("So many of its jobs run at a time, by all workers together. Empty: as the settings say."),
    )
    rate_limit = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("So many of its jobs start within the period, by all workers together."),
    )
    rate_period = models.DurationField(
        null=True,
        blank=True,
        validators=[MinValueValidator(timedelta(milliseconds=1))],
        help_text=_("The period of the rate limit. Empty: as the settings say, else a second."),
    )
    max_depth = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("So many ready jobs are enough: then it is full. Empty: as the settings say."),
    )
    max_age = models.DurationField(
        null=True,
        blank=True,
        validators=[MinValueValidator(timedelta(milliseconds=1))],
        help_text=_("Full, too, when its oldest ready job has waited so long."),
    )
    on_full = models.CharField(
        max_length=6,
        blank=True,
        default="",
        db_default="",
        choices=OnFull,
        help_text=_("What becomes of jobs that are enqueued while it is full. Empty: as the settings say."),
    )
    shed_below = models.SmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(LOWEST_PRIORITY), MaxValueValidator(HIGHEST_PRIORITY)],
        help_text=_("With shed: jobs of this priority or a higher one are let in all the same."),
    )

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def paused_by(self) -> str:
        """Say who paused it: the task whose breaker did, the settings, or a person; nobody if it is not paused."""
        if not self.paused:
            return ""
        return self.tripped_by or ("settings" if self.paused_reason == BY_SETTINGS else "person")


class Grant(models.Model):
    """One start of a job that a limited queue has allowed. It counts, whatever becomes of the job."""

    queue_name = models.CharField(max_length=100)
    granted_at = models.DateTimeField()
    job_id = models.BigIntegerField()
    lease_token = models.BigIntegerField()
    running = models.BooleanField(default=True, help_text=_("As far as is known: its lease may be over."))

    class Meta:
        verbose_name = _("grant")
        verbose_name_plural = _("grants")
        default_permissions = ()
        indexes = [
            models.Index(fields=["queue_name", "granted_at"], name="jobs_grant_newest"),
            models.Index(fields=["queue_name", "running", "granted_at"], name="jobs_grant_running"),
        ]

    def __str__(self) -> str:
        return f"{self.queue_name} #{self.job_id}"
