"""The systems that are measured, and what each one's tables say about its jobs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One system. SQL speaks to its own database.

    `pending` gives the first job from a position on that is not done, and nothing when all are done: an index scan that
    never looks back. Systems whose ids are random ignore the position: their tables are small.
    """

    name: str
    module: str
    tables: str
    pending: str
    first_start: str  # when the first job was taken to be run
    done_once: str  # how many jobs ran exactly once, as far as the tables say
    needs_python: tuple[int, int] = (3, 11)
    has_positions: bool = True

    @property
    def is_ours(self) -> bool:
        return self.name == "jobs"


OURS = System(
    name="jobs",
    module="ours",
    tables="jobs_job, jobs_attempt, jobs_deadletter, jobs_idempotencyrecord",
    pending="""
        SELECT id FROM jobs_job WHERE id >= %s AND state IN ('scheduled', 'ready', 'running') ORDER BY id LIMIT 1
    """,
    first_start="SELECT min(started_at) FROM jobs_job",
    done_once="SELECT count(*) FROM jobs_job WHERE state = 'succeeded' AND attempts = 1 AND lease_token = 1",
)
PGQUEUER = System(
    name="pgqueuer",
    module="pgqueuer",
    tables="pgqueuer, pgqueuer_log, pgqueuer_statistics",
    # A finished job's row is gone.
    pending="SELECT id FROM pgqueuer WHERE id >= %s ORDER BY id LIMIT 1",
    first_start="SELECT min(created) FROM pgqueuer_log WHERE status = 'picked'",
    done_once="""
        SELECT count(*) FROM (
            SELECT job_id FROM pgqueuer_log WHERE status NOT IN ('queued', 'picked')
            GROUP BY job_id HAVING count(*) = 1 AND min(status) = 'successful'
        ) AS once
    """,
)
PROCRASTINATE = System(
    name="procrastinate",
    module="procrastinate",
    tables="procrastinate_jobs, procrastinate_events, procrastinate_workers",
    pending="SELECT id FROM procrastinate_jobs WHERE id >= %s AND status IN ('todo', 'doing') ORDER BY id LIMIT 1",
    first_start="SELECT min(at) FROM procrastinate_events WHERE type = 'started'",
    done_once="SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded' AND attempts = 1",
)
TASKS_DB = System(
    name="django-tasks-db",
    module="django_tasks_db",
    tables="django_tasks_database_dbtaskresult",
    pending="""
        SELECT 0 FROM django_tasks_database_dbtaskresult WHERE status IN ('READY', 'RUNNING') LIMIT 1 OFFSET 0 * %s
    """,
    first_start="SELECT min(started_at) FROM django_tasks_database_dbtaskresult",
    done_once="""
        SELECT count(*) FROM django_tasks_database_dbtaskresult
        WHERE status = 'SUCCESSFUL' AND jsonb_array_length(worker_ids) = 1
    """,
    has_positions=False,
)
OX = System(
    name="django-ox",
    module="django_ox",
    tables="django_ox_oxtask",
    pending="SELECT 0 FROM django_ox_oxtask WHERE status IN ('READY', 'RUNNING') LIMIT 1 OFFSET 0 * %s",
    first_start="SELECT min(started_at) FROM django_ox_oxtask",
    done_once="SELECT count(*) FROM django_ox_oxtask WHERE status = 'SUCCESSFUL' AND attempts = 1",
    needs_python=(3, 12),
    has_positions=False,
)
PEERS = (PGQUEUER, PROCRASTINATE, TASKS_DB, OX)
