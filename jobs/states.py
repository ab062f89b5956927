"""What a job can be: the six states and the groups of them that rules speak of."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class State(models.TextChoices):
    SCHEDULED = "scheduled", _("scheduled")
    READY = "ready", _("ready")
    RUNNING = "running", _("running")
    SUCCEEDED = "succeeded", _("succeeded")
    DEAD = "dead", _("dead")
    CANCELLED = "cancelled", _("cancelled")


WAITING = frozenset({State.SCHEDULED, State.READY})
ENDED = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})


class Reason(models.TextChoices):
    """Why a job became a dead letter."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted", _("attempts exhausted")
    PERMANENT_ERROR = "permanent_error", _("permanent error")
    INVALID_PAYLOAD = "invalid_payload", _("invalid payload")
    UNKNOWN_TASK = "unknown_task", _("unknown task")
    WORKER_LOST = "worker_lost", _("worker lost")
    TIMEOUT = "timeout", _("timeout")
    EXPIRED = "expired", _("expired")
    UNCERTAIN = "uncertain", _("uncertain")


class RecordState(models.TextChoices):
    """What an idempotency record knows of its effect."""

    PROCESSING = "processing", _("processing")
    DONE = "done", _("done")


class Missed(models.TextChoices):
    """What a schedule does about the times that came while no worker ran."""

    SKIP = "skip", _("skip them")
    ONE = "one", _("one job for all of them")
    ALL = "all", _("a job for each, up to a hundred")


class OnFull(models.TextChoices):
    """What a full queue does to jobs that come."""

    REJECT = "reject", _("refuse them")
    DEFER = "defer", _("let them wait until later")
    SHED = "shed", _("refuse those of low priority")
