"""What is known of an effect that must happen once: the unique key decides who may cause it."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from ..states import RecordState


class IdempotencyRecord(models.Model):
    key = models.CharField(max_length=512, unique=True, help_text=_("The effect happens once per key."))
    state = models.CharField(max_length=10, choices=RecordState, help_text=_("What is known of the effect."))
    owner = models.CharField(max_length=100, help_text=_("Who may write: job and lease token, or a random id."))
    result = models.JSONField(null=True, blank=True, help_text=_("What the work returned."))
    job = models.ForeignKey(
        "jobs.Job", null=True, blank=True, on_delete=models.SET_NULL, related_name="idempotency_records"
    )
    locked_until = models.DateTimeField(
        null=True, blank=True, help_text=_("Until then an owner outside of any job counts as alive.")
    )
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text=_("From then on the effect may happen again; empty: never.")
    )
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = _("idempotency record")
        verbose_name_plural = _("idempotency records")
        indexes = [
            models.Index(fields=["expires_at"], name="jobs_idempotency_expiry", condition=Q(expires_at__isnull=False))
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.state}"
