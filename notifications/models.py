"""The rows: one e-mail per recipient, and the first answer to each HTTP request that brought an Idempotency-Key."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class EmailQuerySet(models.QuerySet["Email"]):
    def change(self, **changes: Any) -> int:
        """Update the rows and their `updated_at`; return how many there were."""
        return self.update(updated_at=timezone.now(), **changes)

    def in_dialogue(self, email: "Email") -> "EmailQuerySet":
        """The row, as long as no later attempt and nobody's decision has changed it: the fence of a slow attempt."""
        return self.filter(pk=email.pk, state=Email.State.SENDING, attempts=email.attempts)


class Email(models.Model):
    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        SENDING = "sending", _("sending")
        SENT = "sent", _("sent")
        DEFERRED = "deferred", _("deferred")
        FAILED = "failed", _("failed")
        UNKNOWN = "unknown", _("unknown")
        SUPPRESSED = "suppressed", _("suppressed")
        # What the mail provider reports later.
        DELIVERED = "delivered", _("delivered")
        BOUNCED = "bounced", _("bounced")
        COMPLAINED = "complained", _("complained")

    delivery_id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    template_id = models.CharField(_("template"), max_length=100, help_text=_("Name of the template."))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text=_("The recipient; the address is read when the mail is sent."),
    )
    address = models.EmailField(
        blank=True, default="", db_index=True, help_text=_("The recipient's address, when it is not a user.")
    )
    references = models.JSONField(
        default=dict, blank=True, help_text=_("What the template needs to know: ids and numbers, never secrets.")
    )
    state = models.CharField(
        max_length=10, choices=State, default=State.QUEUED, help_text=_("What was last known of the mail.")
    )
    idempotency_key = models.CharField(max_length=255, unique=True, help_text=_("One e-mail per key."))
    message_id = models.CharField(
        _("Message-ID"),
        max_length=255,
        blank=True,
        default="",
        help_text=_("Made once, before the first attempt; every attempt sends the same."),
    )
    provider_message_id = models.CharField(
        max_length=255, blank=True, default="", help_text=_("What the mail server called it when it took it.")
    )
    sent_to = models.EmailField(
        blank=True, default="", db_default="", help_text=_("The address of the last attempt: a user's may change.")
    )
    attempts = models.PositiveIntegerField(default=0, help_text=_("Times that sending began."))
    last_error = models.TextField(blank=True, default="", help_text=_("Why the last attempt failed."))
    job = models.ForeignKey(
        "jobs.Job", null=True, blank=True, on_delete=models.SET_NULL, related_name="emails", help_text=_("Sends it.")
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    sent_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When the mail server took it, or a person said that it had.")
    )

    objects = EmailQuerySet.as_manager()

    class Meta:
        verbose_name = _("e-mail")
        verbose_name_plural = _("e-mails")
        indexes = [
            # Newest first, the order of the list in the admin.
            models.Index(F("created_at").desc(), F("delivery_id").desc(), name="notifications_email_newest"),
            # The same, for its two filters.
            models.Index(fields=["state", "-created_at", "-delivery_id"], name="notifications_email_state"),
            models.Index(fields=["template_id", "-created_at", "-delivery_id"], name="notifications_email_template"),
            # By either the provider's events name a mail.
            models.Index(fields=["message_id"], name="notifications_email_message", condition=~Q(message_id="")),
            models.Index(
                fields=["provider_message_id"],
                name="notifications_email_provider",
                condition=~Q(provider_message_id=""),
            ),
        ]
        constraints = [
            # Neither is left once the user is deleted.
            models.CheckConstraint(
                name="notifications_email_one_recipient", condition=Q(user__isnull=True) | Q(address="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.template_id} {self.delivery_id}"

    @property
    def recipient(self) -> str:
        """The address it goes to; empty when the user is gone or has none."""
        if self.user is None:
            return self.address
        return str(getattr(self.user, self.user.get_email_field_name(), "") or "")


class SuppressedAddress(models.Model):
    """An address that gets no mail any more. Deleting the row lets it have mail again."""

    class Reason(models.TextChoices):
        BOUNCED = "bounced", _("a mail to it bounced for good")
        COMPLAINED = "complained", _("its owner called a mail spam")

    address = models.EmailField(unique=True, help_text=_("In lower case."))
    reason = models.CharField(max_length=10, choices=Reason)
    email = models.ForeignKey(
        Email, null=True, on_delete=models.SET_NULL, related_name="+", help_text=_("The mail that it was about.")
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("suppressed address")
        verbose_name_plural = _("suppressed addresses")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.address


class Answer(models.Model):
    caller = models.CharField(max_length=200, help_text=_("Who asked: a user or the owner of a token."))
    key = models.CharField(max_length=255, help_text=_("The Idempotency-Key of the request."))
    digest = models.CharField(max_length=64, help_text=_("SHA-256 of the request's body."))
    content = models.JSONField(default=dict, help_text=_("What was answered."))
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("answer")
        verbose_name_plural = _("answers")
        default_permissions = ()
        constraints = [
            # Of two requests at the same time with one key, this decides which is the first.
            models.UniqueConstraint(fields=["caller", "key"], name="notifications_answer_once"),
        ]

    def __str__(self) -> str:
        return f"{self.caller}: {self.key}"
