"""A worker process that is, or was a moment ago, alive: written by its supervisor, for people to look at."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Worker(models.Model):
    worker_id = models.CharField(max_length=100, unique=True, help_text=_("Random per process start."))
    tree = models.CharField(max_length=100, help_text=_("The supervisor it belongs to."))
    hostname = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list, help_text=_("Names it was asked to serve; empty: all."))
    threads = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        ordering = ["hostname", "pid"]

    def __str__(self) -> str:
        return self.worker_id
