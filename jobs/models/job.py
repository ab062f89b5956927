"""A job: one enqueued call of a task, from enqueue to its end."""

from typing import Self

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from ..states import ENDED, State

LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100


class JobQuerySet(models.QuerySet["Job"]):
    def ready(self) -> Self:
        """Return the jobs that may be handed out."""
        return self.filter(state=State.READY, blocked=False)

    def blocked(self) -> Self:
        """Return the jobs that are due and have no slot of their concurrency key yet."""
        return self.filter(state=State.READY, blocked=True)

    def scheduled(self) -> Self:
        return self.filter(state=State.SCHEDULED)

    def running(self) -> Self:
        return self.filter(state=State.RUNNING)

    def dead(self) -> Self:
        return self.filter(state=State.DEAD)

    def in_queue(self, name: str) -> Self:
        return self.filter(queue_name=name)

    def best_first(self) -> Self:
        """Order as a queue hands out: priority, then who has been ready longest, then id."""
        return self.order_by("-priority", "ready_at", "pk")

    def leased_to(self, worker_id: str, job_id: int, lease_token: int) -> Self:
        """The one job whose lease this is, or nothing: the fence of every write by a worker."""
        return self.filter(pk=job_id, lease_token=lease_token, leased_by=worker_id, lease_expires_at__isnull=False)


class Job(models.Model):
    task_path = models.CharField(max_length=255, help_text=_("Dotted path of the task's function."))
    backend = models.CharField(
        max_length=64, default="default", help_text=_("Alias in the TASKS setting that enqueued it.")
    )
    queue_name = models.CharField(max_length=100, help_text=_("The queue it waits in."))
    priority = models.SmallIntegerField(default=0, help_text=_("-100 to 100; higher runs first within its queue."))
    args = models.JSONField(default=list, help_text=_("Positional arguments: JSON, references, never secrets."))
    kwargs = models.JSONField(default=dict, help_text=_("Keyword arguments: JSON, references, never secrets."))
    schema_version = models.PositiveSmallIntegerField(
        default=1, help_text=_("Version of the payload's shape; a newer one waits for a worker that knows it.")
    )
    state = models.CharField(max_length=9, choices=State, default=State.READY, help_text=_("What the job is now."))

    attempts = models.PositiveIntegerField(default=0, help_text=_("Runs that raised, timed out or succeeded."))
    max_attempts = models.PositiveIntegerField(default=5, help_text=_("Runs that may raise before the job is dead."))
    forgiven_attempts = models.PositiveIntegerField(
        default=0, help_text=_("Attempts before its last replay: a replay has all of max_attempts again.")
    )
    crashes = models.PositiveIntegerField(default=0, help_text=_("Runs whose worker died, charged to this job."))
    max_crashes = models.PositiveIntegerField(default=3, help_text=_("Lost workers before the job is dead."))
    timeout = models.DurationField(
        null=True, blank=True, help_text=_("Longest run of one attempt; empty: the task's own setting.")
    )
    suspect = models.BooleanField(
        default=False, help_text=_("A worker died while it may have run: it runs alone in a process next.")
    )
    cancel_requested = models.BooleanField(
        default=False, help_text=_("Somebody asked the running task to stop; it ends when the task agrees.")
    )
    held_since = models.DateTimeField(
        null=True, blank=True, help_text=_("Since when no worker has known its task or its schema version.")
    )

    enqueued_at = models.DateTimeField(help_text=_("When it was enqueued."))
    run_after = models.DateTimeField(null=True, blank=True, help_text=_("It is not run before this moment."))
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text=_("If it has not started by then it is not run any more.")
    )
    drop_expired = models.BooleanField(
        default=False, db_default=False, help_text=_("If it expires it is cancelled; else it is a dead letter.")
    )
    ready_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When it last became ready; its place among equals.")
    )
    started_at = models.DateTimeField(null=True, blank=True, help_text=_("When its first attempt started."))
    last_attempted_at = models.DateTimeField(null=True, blank=True, help_text=_("When its last attempt started."))
    finished_at = models.DateTimeField(null=True, blank=True, help_text=_("When it ended."))

    leased_by = models.CharField(
        max_length=100, blank=True, default="", help_text=_("The worker process that holds it; empty: nobody.")
    )
    lease_token = models.BigIntegerField(
        default=0, help_text=_("Raised by one at each claim, never reset: the fencing token.")
    )
    lease_expires_at = models.DateTimeField(
        null=True, blank=True, help_text=_("From then on the lease may be taken back. Set exactly while running.")
    )
    settled_token = models.BigIntegerField(
        null=True,
        blank=True,
        help_text=_("The lease token whose outcome was written last: tells a lost reply from a lost lease."),
    )
    worker_ids = models.JSONField(default=list, help_text=_("The worker of each attempt, oldest first."))

    dedupe_key = models.CharField(max_length=255, blank=True, default="", help_text=_("Kept for people."))
    dedupe_lock = models.CharField(  # noqa: DJ001 - unique, and NULL is what does not collide
        max_length=255, null=True, blank=True, help_text=_("Held until the job ends: one per key.")
    )
    idempotency_key = models.CharField(
        max_length=255, blank=True, default="", help_text=_("The task's effect happens once per key.")
    )
    # With defaults in the database: code that does not know these columns yet goes on inserting.
    concurrency_key = models.CharField(
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("Of the jobs with this key only so many run at a time."),
    )
    max_concurrent = models.PositiveSmallIntegerField(
        default=1, db_default=1, help_text=_("How many jobs with its concurrency key may run at a time.")
    )
    blocked = models.BooleanField(
        default=False,
        db_default=False,
        help_text=_("It has no slot of its concurrency key: it is not handed out until it gets one."),
    )
    group_key = models.CharField(
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("The groups of a queue take turns; jobs without a key are one group."),
    )
    return_value = models.JSONField(null=True, blank=True, help_text=_("What the task returned."))
    progress_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text=_("How far the running task says it is, 0 to 100.")
    )
    progress_message = models.CharField(
        max_length=200, blank=True, default="", help_text=_("What the running task says it is doing.")
    )

    objects = JobQuerySet.as_manager()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        permissions = [
            ("view_payload", _("Can see arguments and return values")),
            ("replay_job", _("Can replay dead jobs")),
            ("cancel_job", _("Can cancel jobs")),
        ]
        # Each partial index holds only the rows of one step of a job's life. None of them names a column that a
        # lease renewal changes, so that renewals stay heap-only updates on PostgreSQL.
        indexes = [
            models.Index(
                fields=["queue_name", "suspect", "group_key", "-priority", "ready_at", "id"],
                name="jobs_job_ready",
                condition=Q(state=State.READY, blocked=False),
            ),
            models.Index(
                fields=["concurrency_key", "-priority", "ready_at", "id"],
                name="jobs_job_blocked",
                condition=Q(state=State.READY, blocked=True),
            ),
            models.Index(
                fields=["concurrency_key"],
                name="jobs_job_slots",
                condition=Q(blocked=False, finished_at__isnull=True) & ~Q(concurrency_key=""),
            ),
            models.Index(fields=["run_after", "id"], name="jobs_job_scheduled", condition=Q(state=State.SCHEDULED)),
            models.Index(
                fields=["expires_at", "id"],
                name="jobs_job_expiring",
                condition=Q(expires_at__isnull=False, started_at__isnull=True, finished_at__isnull=True),
            ),
            models.Index(fields=["leased_by", "id"], name="jobs_job_running", condition=Q(state=State.RUNNING)),
            models.Index(fields=["finished_at", "id"], name="jobs_job_dead", condition=Q(state=State.DEAD)),
        ]
        constraints = [
            # Not unique=True, which would add a second index on PostgreSQL for LIKE.
            models.UniqueConstraint(fields=["dedupe_lock"], name="jobs_job_dedupe_lock"),
            models.CheckConstraint(
                name="jobs_job_running_has_a_lease",
                condition=(Q(state=State.RUNNING) & Q(lease_expires_at__isnull=False) & ~Q(leased_by=""))
                | (~Q(state=State.RUNNING) & Q(lease_expires_at__isnull=True) & Q(leased_by="")),
            ),
            models.CheckConstraint(
                name="jobs_job_priority_in_range",
                condition=Q(priority__gte=LOWEST_PRIORITY, priority__lte=HIGHEST_PRIORITY),
            ),
            models.CheckConstraint(
                name="jobs_job_ready_has_ready_at", condition=~Q(state=State.READY) | Q(ready_at__isnull=False)
            ),
            models.CheckConstraint(
                name="jobs_job_scheduled_has_run_after",
                condition=~Q(state=State.SCHEDULED) | Q(run_after__isnull=False),
            ),
            models.CheckConstraint(
                name="jobs_job_ended_is_finished",
                condition=Q(state__in=sorted(ENDED), finished_at__isnull=False, dedupe_lock__isnull=True)
                | (~Q(state__in=sorted(ENDED)) & Q(finished_at__isnull=True)),
            ),
            models.CheckConstraint(name="jobs_job_max_attempts_positive", condition=Q(max_attempts__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.task_path} #{self.pk}"

    @property
    def is_waiting(self) -> bool:
        return self.state in (State.SCHEDULED, State.READY)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED
