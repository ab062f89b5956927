"""A queue that somebody has something to say about; one without a row has the defaults."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Queue(models.Model):
    name = models.CharField(max_length=100, unique=True)
    paused = models.BooleanField(default=False, help_text=_("No worker claims from it; running jobs go on."))
    paused_reason = models.CharField(max_length=255, blank=True, default="", help_text=_("Shown in the admin."))
    paused_at = models.DateTimeField(null=True, blank=True)
    max_running = models.PositiveIntegerField(null=True, blank=True, help_text=_("Not built yet."))
    rate_limit = models.PositiveIntegerField(null=True, blank=True, help_text=_("Not built yet."))
    rate_period = models.DurationField(null=True, blank=True, help_text=_("Not built yet."))
    max_depth = models.PositiveIntegerField(null=True, blank=True, help_text=_("Not built yet."))

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
