"""The contract between the queue and a database, in portable ORM. A vendor file overrides what it does better.

Every method uses the calling thread's connection and opens a transaction of its own, unless it says otherwise.
"""

import json
import random
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from django.db import connections, transaction
from django.db.models import F, JSONField, Model, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast, Coalesce
from django.db.utils import IntegrityError

from ..leases import CLAIMED, Lease
from ..models import Attempt, DeadLetter, ErrorGroup, Grant, IdempotencyRecord, Job, Queue, Schedule, Tick
from ..outcomes import Settlement, Success
from ..states import ENDED, WAITING, RecordState, State
from .scans import BLOCKED_KEYS, READY_GROUPS, READY_QUEUES
from .terms import (
    ANY_QUEUE,
    NO_KEYS,
    Claim,
    Holder,
    Inserted,
    Keys,
    NewJob,
    Place,
    Probe,
    Pulse,
    QueueIsBounded,
    ReadyQueue,
    Renewal,
    Taken,
)

# Of payloads that travel as one JSON text. PostgreSQL takes an array of 256 MB, and numbers grow eightfold on the way.
PORTION_CHARACTERS = 16_000_000

# What a job that waits takes over from another one with its dedupe key.
REPLACED = (
    *("args", "kwargs", "schema_version", "idempotency_key", "run_after", "expires_at", "state"),
    *("concurrency_key", "max_concurrent", "group_key"),
)

# What is read of whoever holds a dedupe key.
HELD = (
    *("dedupe_lock", "concurrency_key", "task_path", "state"),
    *("enqueued_at", "run_after", "expires_at", "started_at", "cancel_requested"),
)

# A place among those that may run becomes free whenever a job ends, wherever it ran.
SOON = timedelta(seconds=0.1)
# Grants of limited queues: after so many leases, on average, so many old ones are deleted. Others may know a longer
# period, so they are kept for longer than the period that is known here.
PRUNED_PER_LEASES, PRUNED_GRANTS = 500, 2_000
KEPT_GRANTS = timedelta(hours=1)
FORGOTTEN_GRANTS = timedelta(days=1)  # of a queue that has no limits any more
MOST_QUEUES = 200  # looked at for such grants at once
PROBED = 1000  # ready jobs of a queue, among which one of a certain task is looked for

BOUNDED = Q(max_depth__isnull=False) | Q(max_age__isnull=False)  # a queue that producers may find full
IS_BOUNDED = "EXISTS (SELECT 1 FROM jobs_queue WHERE name = {name} AND (max_depth IS NOT NULL OR max_age IS NOT NULL))"
OLDEST_FIRST, PRIORITY = attrgetter("ready_at", "id"), attrgetter("priority")
NO_COLUMNS = {"args", "kwargs", "delay", "expires_after", "expires_at", "unless_bounded"}  # of a new job, as they are

JSON_COLUMNS = ("args", "kwargs", "worker_ids")


class Storage:
    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def connection(self) -> Any:
        return connections[self.alias]

    def atomic(self) -> AbstractContextManager[Any]:
        return transaction.atomic(using=self.alias)

    def rows(self, model: type[Model]) -> QuerySet[Any]:
        return model._default_manager.using(self.alias)

    @property
    def jobs(self) -> Any:
        return self.rows(Job)

    def spelled(self, sql: str) -> str:
        """Return a statement in portable SQL as this database finds its partial indexes by it."""
        return sql

    def now(self) -> datetime:
        """Return the database's time."""
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_TIMESTAMP")
            return cursor.fetchone()[0]  # type: ignore[no-any-return]

    # Enqueue

    def insert(self, rows: Sequence[NewJob], tell: bool = False) -> list[Inserted]:
        """Add waiting jobs and return what became of each, in order. Transaction: joins the caller's.

        `tell` also notifies workers, in the same commit where the database can.
        Raises: QueueIsBounded, here and where more are added, if the first asks for that.
        """
        for row in rows[:1]:
            self.refuse_bounded(row)
        moment = self.now()
        jobs = [self.job_from(row, moment) for row in rows]
        if len(jobs) == 1:
            jobs[0].save(force_insert=True, using=self.alias)
        else:
            self.jobs.bulk_create(jobs, batch_size=1000)
        if tell:
            for queue_name in sorted({row.queue_name for row in rows}):
                self.notify(queue_name)
        return [Inserted(job.pk, job.state, job.enqueued_at, job.run_after) for job in jobs]

    def refuse_bounded(self, row: NewJob) -> None:
        """Raises: QueueIsBounded."""
        if row.unless_bounded and self.rows(Queue).filter(BOUNDED, name=row.queue_name).exists():
            raise QueueIsBounded(row.queue_name)

    def insert_many(self, template: NewJob, kwargs: Sequence[str], keys: Keys = NO_KEYS) -> list[Inserted]:
        """Add a job like `template` for each payload, in order. Transaction: joins the caller's."""
        return self.insert([keys.of(template, place)._replace(kwargs=text) for place, text in enumerate(kwargs)])

    def insert_many_unless_held(self, template: NewJob, kwargs: Sequence[str], keys: Keys) -> list[Inserted | None]:
        """Do as `insert_many` does; None stands for a job that was not added.

        Its dedupe key is held, or was taken by an earlier one of these. Transaction: joins the caller's.
        """
        self.refuse_bounded(template)
        template = template._replace(unless_bounded=False)
        jobs = [keys.of(template, place)._replace(kwargs=text) for place, text in enumerate(kwargs)]
        return [self.insert_unless_held(job) for job in jobs]

    def insert_unless_held(self, row: NewJob) -> Inserted | None:
        """Add a job, unless another that has not ended holds its dedupe key: None then. The constraint decides.

        Whoever holds it in a transaction that is still open is waited for. Transaction: joins the caller's.
        """
        try:
            with self.atomic():
                return self.insert([row])[0]
        except IntegrityError as error:
            # Every database names the constraint, or its column. Whoever held the key may be gone by now.
            if "dedupe_lock" not in str(error):
                raise
            return None

    def holders(self, dedupe_keys: Collection[str]) -> dict[str, Holder]:
        """Return who holds these keys, by key."""
        found: dict[str, Holder] = {}
        moment: datetime | None = None
        for part in portions(keys := sorted(dedupe_keys), 500):
            for job in self.jobs.filter(dedupe_lock__in=keys[part]).only(*HELD):
                condemned = job.is_waiting and job.cancel_requested
                if job.is_waiting and job.expires_at and job.started_at is None:
                    moment = moment or self.now()
                    condemned = condemned or job.expires_at < moment
                same = job.pk, job.task_path, job.state, job.enqueued_at, job.run_after, job.concurrency_key
                found[job.dedupe_lock] = Holder(*same, condemned)
        return found

    def replace(self, row: NewJob) -> Inserted | None:
        """Give this payload and time to the job of this task that holds the dedupe key and waits; None: none does.

        Transaction: joins the caller's.
        """
        with self.atomic():
            waiting = self.jobs.filter(dedupe_lock=row.dedupe_key, task_path=row.task_path, state__in=WAITING)
            old = waiting.select_for_update().first()
            if old is None:
                return None
            new = self.job_from(row, self.now())
            changes = {name: getattr(new, name) for name in REPLACED}
            stays = old.state == State.READY and (new.concurrency_key or not old.blocked)
            changes["ready_at"] = old.ready_at if stays and new.ready_at else new.ready_at
            # What the old payload has used up is not the new one's.
            changes |= {"forgiven_attempts": old.attempts, "crashes": 0, "held_since": None}
            # What is not due gives its slot up, and another key has other slots.
            loses = old.concurrency_key != new.concurrency_key or new.state == State.SCHEDULED
            changes["blocked"] = bool(new.concurrency_key) and (old.blocked or loses)
            if not waiting.filter(pk=old.pk).update(**changes):
                return None
        return Inserted(old.pk, new.state, old.enqueued_at, new.run_after, is_duplicate=True)

    def job_from(self, row: NewJob, moment: datetime) -> Job:
        run_after = moment + row.delay if row.delay else row.run_after
        due = run_after is None or run_after <= moment
        expires_at = row.expires_at
        if row.expires_after is not None:
            expires_at = max(moment, run_after or moment) + row.expires_after
        columns = {name: value for name, value in row._asdict().items() if name not in NO_COLUMNS}
        return Job(
            **columns
            | {"expires_at": expires_at}
            | {"args": json.loads(row.args), "kwargs": json.loads(row.kwargs), "run_after": run_after}
            | {"dedupe_lock": row.dedupe_key or None, "blocked": bool(row.concurrency_key)}
            | {"state": State.READY if due else State.SCHEDULED}
            | {"enqueued_at": moment, "ready_at": moment if due else None}
        )

    # Claim

    def claim(
        self,
        worker_id: str,
        queue_name: str,
        limit: int,
        lease: timedelta,
        suspects: bool = False,
        places: Sequence[Place] = (),
    ) -> list[Lease]:
        """Lease up to `limit` ready jobs of one queue that have no group key, best first; none of a paused queue."""
        return self.take(worker_id, Claim(queue_name, limit, suspects, places), lease)

    def take(self, worker_id: str, claim: Claim, lease: timedelta) -> list[Lease]:
        """Lease what a claim asks for; nothing of a paused queue. This storage has nothing to save by its places."""
        with self.atomic():
            if self.rows(Queue).filter(name=claim.queue_name, paused=True).exists():
                return []
            return best_first(self.lease_rows(self.chosen(claim), worker_id, lease), claim.ageing)

    def lease_rows(self, ids: Sequence[int], worker_id: str, lease: timedelta) -> list[Lease]:
        """Lease rows that are ready and locked. Transaction: joins the caller's."""
        if not ids:
            return []
        moment = self.now()
        self.jobs.filter(pk__in=ids).update(
            state=State.RUNNING,
            leased_by=worker_id,
            lease_token=F("lease_token") + 1,
            lease_expires_at=moment + lease,
            started_at=Coalesce("started_at", Value(moment)),
            last_attempted_at=moment,
        )
        return self.leases(self.jobs.filter(pk__in=ids).best_first(), moment)

    def take_limited(self, worker_id: str, claim: Claim, lease: timedelta) -> Taken:
        """Lease what a claim asks for, as far as its `limits` allow, of as many of its groups as may have a job.

        Decided under the lock of the queue's row, by the database's clock: of any period no more than `rate_limit`
        starts are granted, and a grant is counted whatever becomes of its job. A job runs as long as its lease is
        held, so a crash frees its place.
        Raises: OperationalError, as `is_locked` tells, when another is at it.
        """
        name = claim.queue_name
        with self.atomic():
            row = self.rows(Queue).select_for_update(nowait=True).filter(name=name)
            if not row.exists():
                self.list_queues([name])
                list(row)
            moment = self.now()
            free, wait = self.allowed(claim, moment)
            if free <= 0:
                return Taken([], 0, 0, wait)
            asked = claim._replace(limit=free, groups=claim.groups[:free])
            leases = self.take(worker_id, asked, lease)
            self.note_grants(claim, leases, moment)
        if random.random() < len(leases) / PRUNED_PER_LEASES:
            self.forget_grants(claim, moment)
        has_ended = len(leases) < free and len(asked.groups) == len(claim.groups)
        return Taken(leases, free, len(asked.groups), None if has_ended else timedelta())

    def is_probe_due(self, queue_name: str) -> bool:
        """Say whether it is time to try a job of a queue that a breaker has paused."""
        return self.rows(Queue).filter(name=queue_name, paused=True, probe_at__lte=self.now()).exists()

    def take_probe(self, worker_id: str, claim: Claim, lease: timedelta) -> Probe:
        """Lease one job of a paused queue, of the task whose breaker paused it, if it is time to and none runs.

        It is looked for among the first `PROBED` ready jobs; `claim` says which limits there are. Should its outcome
        never be told, the next one is tried after `probe_every`.
        """
        name = claim.queue_name
        due = self.rows(Queue).filter(name=name, paused=True, probe_at__lte=self.now())
        with self.atomic():
            queue = due.select_for_update(skip_locked=True).first()
            if queue is None or self.jobs.running().filter(queue_name=name, task_path=queue.tripped_by).exists():
                return Probe("", [])
            ready = self.jobs.ready().in_queue(name).filter(suspect=False)
            first = ready.order_by("group_key", "-priority", "ready_at", "pk").values_list("pk", "task_path")[:PROBED]
            ids = [pk for pk, path in first if path == queue.tripped_by]
            if not ids:
                return Probe(queue.tripped_by, [], is_over=True)
            moment = self.now()
            if claim.limits and self.allowed(claim, moment)[0] <= 0:
                return Probe(queue.tripped_by, [])
            free = self.jobs.ready().filter(pk__in=ids).select_for_update(skip_locked=True).order_by("pk")
            leases = self.lease_rows(list(free.values_list("pk", flat=True)[:1]), worker_id, lease)
            self.note_grants(claim, leases, moment)
            self.rows(Queue).filter(pk=queue.pk).update(probe_at=moment + queue.probe_every)
            return Probe(queue.tripped_by, [each._replace(is_probe=True) for each in leases])

    def allowed(self, claim: Claim, moment: datetime) -> tuple[int, timedelta]:
        """Return how many jobs a limited queue may start now and, if none, how long to wait."""
        limits, grants = claim.limits, self.rows(Grant).filter(queue_name=claim.queue_name)
        assert limits is not None
        free, wait = claim.limit, timedelta()
        if limits.rate_limit is not None:
            counted = grants.filter(granted_at__gt=moment - limits.rate_period).order_by("granted_at")
            free = min(free, limits.rate_limit - counted.values("pk")[: limits.rate_limit].count())
            if free <= 0:
                oldest = counted.values_list("granted_at", flat=True).first()
                wait = (oldest or moment) + limits.rate_period - moment
        if limits.max_running is not None:
            room = limits.max_running - self.still_running(claim, limits.max_running, moment)
            free, wait = min(free, room), wait if room > 0 else max(wait, SOON)
        return free, wait

    def note_grants(self, claim: Claim, leases: Sequence[Lease], moment: datetime) -> None:
        """Write down which starts a limited queue has allowed."""
        if claim.limits:
            same = {"queue_name": claim.queue_name, "granted_at": moment}
            same |= {"running": claim.limits.max_running is not None}
            self.rows(Grant).bulk_create([Grant(job_id=one.id, lease_token=one.token, **same) for one in leases])

    def still_running(self, claim: Claim, most: int, moment: datetime) -> int:
        """Count the grants whose job is still held by the lease that they were given for, and close the others.

        A claim that recounts looks for what was claimed without a grant, too, until there are `most`, and gives that
        one which counts for no rate.
        """
        grants, running = self.rows(Grant).filter(queue_name=claim.queue_name), self.jobs.running()
        granted = grants.filter(running=True).values_list("pk", "job_id", "lease_token")
        known = {tuple(lease): pk for pk, *lease in granted}
        ids = [job_id for job_id, _ in known]
        held = set(running.filter(pk__in=ids).values_list("pk", "lease_token"))
        if over := [pk for lease, pk in known.items() if lease not in held]:
            self.rows(Grant).filter(pk__in=over).update(running=False)
        if not claim.recounts or len(held) >= most:
            return len(held)
        unknown = running.filter(queue_name=claim.queue_name).exclude(pk__in=[job_id for job_id, _ in held])
        found = list(unknown.values_list("pk", "lease_token")[: most - len(held)])
        if found:
            self.forget_grants(claim, moment)
            same = {"queue_name": claim.queue_name, "granted_at": moment - self.remembered(claim)}
            self.rows(Grant).bulk_create([Grant(job_id=pk, lease_token=token, **same) for pk, token in found])
        return len(held) + len(found)

    def forget_grants(self, claim: Claim, moment: datetime) -> None:
        """Delete some of those that are over and count for nothing any more."""
        old = self.rows(Grant).filter(queue_name=claim.queue_name, running=False)
        oldest_first = old.filter(granted_at__lte=moment - self.remembered(claim)).order_by("granted_at")
        self.rows(Grant).filter(pk__in=list(oldest_first.values_list("pk", flat=True)[:PRUNED_GRANTS])).delete()

    def remembered(self, claim: Claim) -> timedelta:
        """Return for how long a grant counts. Others may know of a longer period."""
        assert claim.limits is not None
        return claim.limits.rate_period + KEPT_GRANTS

    def chosen(self, claim: Claim) -> list[int]:
        """Lock what a claim asks for. Transaction: joins the caller's."""
        ids: list[int] = []
        share, more = claim.shares
        for place, group in enumerate(claim.groups):
            if limit := share + (place < more):
                ids.extend(self.chosen_of(claim, group, limit))
        return ids

    def chosen_of(self, claim: Claim, group: str, limit: int) -> list[int]:
        ready = self.jobs.ready().in_queue(claim.queue_name).filter(suspect=claim.suspects, group_key=group)
        locked = ready.best_first().select_for_update(skip_locked=True)
        if claim.ageing is None:
            return list(locked.values_list("pk", flat=True)[:limit])
        first = locked.values_list("priority", flat=True)
        oldest: dict[int, list[tuple[datetime, int]]] = {}
        priority = first.first()
        while priority is not None:
            oldest[priority] = list(locked.filter(priority=priority).values_list("ready_at", "pk")[:limit])
            priority = first.filter(priority__lt=priority).first()
        return merged_by_age(oldest, limit, claim.ageing)

    def exchange(
        self,
        worker_id: str,
        claims: Sequence[Claim],
        lease: timedelta,
        successes: Callable[[], Sequence[Success]] | None = None,
    ) -> tuple[list[list[Lease]], set[int]]:
        """Claim and complete in one commit: return what each claim found, and the ids that `complete` would.

        `successes` is called once, where the database can work on the claims meanwhile; None: there are none.
        """
        with self.atomic():
            found = [self.take(worker_id, claim, lease) for claim in claims]
            return found, self.complete(successes()) if successes else set()

    def leases(self, jobs: QuerySet[Any], moment: datetime | None = None) -> list[Lease]:
        """Read rows as leases."""
        texts = {f"{name}_text": Cast(name, TextField()) for name in JSON_COLUMNS}
        columns = [f"{name}_text" if name in JSON_COLUMNS else name for name in CLAIMED]
        monotonic = time.monotonic()
        moment = moment or self.now()
        return [Lease.of(row, moment, monotonic) for row in jobs.annotate(**texts).values_list(*columns)]

    def ready_queues(self) -> list[ReadyQueue]:
        """Name the queues that have ready jobs, in one statement that reads an index entry per queue."""
        with self.connection.cursor() as cursor:
            cursor.execute(self.spelled(READY_QUEUES))
            return [ReadyQueue(row[0], *(bool(value) for value in row[1:])) for row in cursor.fetchall()]

    def ready_groups(self, queue_name: str, suspects: bool, after: str | None, limit: int) -> list[str]:
        """Name the next groups that have ready jobs, in order: an index probe for each, however many jobs there are.

        `after`: None for the first ones.
        """
        sql = self.spelled(READY_GROUPS.format(first=">=" if after is None else ">"))
        arguments = {"queue_name": queue_name, "suspects": suspects, "after": after or "", "limit": limit}
        with self.connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return [row[0] for row in cursor.fetchall()]

    # Concurrency keys

    def unblock(self, keys: Collection[str]) -> set[str]:
        """Hand the free slots of these keys to the jobs that wait for them, best first; return the queues they are in.

        A job holds a slot from here on until it has ended or is put off: the slots of a key that are taken are the
        jobs that are ready or run, and not blocked. One after another for a key: two that count at once would both
        find the same slot free.
        Transaction: joins the caller's, which must not go on for long.
        Raises: OperationalError, as `is_locked` tells, when somebody else is at it for long.
        """
        queues: set[str] = set()
        if not keys:
            return queues
        with self.atomic():
            for key in sorted(keys):
                waiting = self.jobs.blocked().filter(concurrency_key=key).order_by("-priority", "ready_at", "pk")
                first = waiting.select_for_update().first()  # whoever counts at the same time waits for it
                if first is None:
                    continue
                free = first.max_concurrent - self.holding(key).count()
                if free <= 0:
                    continue
                chosen = waiting.select_for_update(skip_locked=True).values_list("pk", "queue_name", "group_key")[:free]
                self.jobs.blocked().filter(pk__in=[row[0] for row in chosen]).update(blocked=False, ready_at=self.now())
                queues |= {ANY_QUEUE if group else name for _, name, group in chosen}
        return queues

    def holding(self, key: str) -> Any:
        """Return the jobs that hold a slot of a key."""
        # Said again, the key is not empty: that is how the index is found that holds only such rows.
        return self.jobs.filter(concurrency_key=key, blocked=False, finished_at__isnull=True).exclude(
            concurrency_key=""
        )

    def blocked_keys(self, after: str, limit: int) -> list[str]:
        """Name the next keys for which jobs wait, in order: an index probe for each, however many jobs there are."""
        with self.connection.cursor() as cursor:
            cursor.execute(self.spelled(BLOCKED_KEYS), [after, limit])
            return [row[0] for row in cursor.fetchall()]

    # Hold

    def renew(self, worker_id: str, lease: timedelta) -> list[Renewal]:
        """Extend every lease of a worker and return the rows that are its own now.

        A row that somebody has locked is returned as not renewed: it is unknown, not gone.
        """
        with self.atomic():
            mine = self.jobs.running().filter(leased_by=worker_id)
            free = mine.order_by("pk").select_for_update(skip_locked=True).values_list("pk", flat=True)
            renewed = set(free)
            self.jobs.filter(pk__in=renewed).update(lease_expires_at=self.now() + lease)
            rows = mine.values_list("pk", "lease_token", "cancel_requested")
            return [Renewal(pk, token, pk in renewed, cancel) for pk, token, cancel in rows]

    def is_held(self, job_id: int, lease_token: int) -> bool:
        """Say whether this lease is still somebody's. Once it is not, it never is again."""
        return self.jobs.filter(pk=job_id, lease_token=lease_token, lease_expires_at__isnull=False).exists()

    def was_settled(self, job_id: int, lease_token: int) -> bool:
        """Say whether the outcome of this lease was written, although its writer never heard so."""
        return self.jobs.filter(pk=job_id, settled_token=lease_token).exists()

    def note_progress(self, worker_id: str, job_id: int, token: int, percent: int | None, message: str) -> bool:
        """Write what a running task says of itself, fenced."""
        mine = self.jobs.leased_to(worker_id, job_id, token)
        return bool(mine.update(progress_percent=percent, progress_message=message))

    # Settle

    def settle(self, settlements: Sequence[Settlement], by_holder: bool = True) -> set[int]:
        """Write outcomes, each fenced by its lease, and return the ids of the jobs whose lease still held.

        Not `by_holder`: a reaper or supervisor writes for a worker that cannot; no `settled_token` is left, so
        that the worker, should it live, does not take that write for its own.
        """
        if not settlements:
            return set()
        with self.atomic():
            moment = self.now()
            accepted = {s.lease.id for s in sorted(settlements, key=by_id) if self.settle_one(s, moment, by_holder)}
            self.leave_notes([s for s in settlements if s.lease.id in accepted], moment)
        return accepted

    def complete(self, successes: Sequence[Success]) -> set[int]:
        """Write runs that succeeded, each fenced by its lease, and return the ids of the jobs whose lease still held.

        It leaves what `settle` leaves of a success: most outcomes are one, so they have a short way.
        """
        if not successes:
            return set()
        with self.atomic():
            return {s.lease.id for s in sorted(successes, key=by_id) if self.complete_one(s)}

    def complete_one(self, s: Success) -> bool:
        lease = s.lease
        started_at = lease.claimed_at + timedelta(seconds=s.started)
        changes: dict[str, Any] = {
            "state": State.SUCCEEDED,
            "attempts": lease.attempts + 1,
            "suspect": False,
            "worker_ids": json.loads(lease.worker_ids_after),
            "return_value": None if s.value is None else Value(json.loads(s.value), JSONField()),
            "leased_by": "",
            "lease_expires_at": None,
            "settled_token": lease.token,
            "last_attempted_at": started_at,
            "finished_at": lease.claimed_at + timedelta(seconds=s.finished),
            "held_since": None,
            "dedupe_lock": None,
        }
        if lease.never_counted:
            changes["started_at"] = started_at
        return bool(self.jobs.leased_to(lease.worker_id, lease.id, lease.token).update(**changes))

    def settle_one(self, s: Settlement, moment: datetime, by_holder: bool) -> bool:
        changes: dict[str, Any] = {
            "state": s.state,
            "attempts": s.attempts,
            "crashes": s.crashes,
            "suspect": s.suspect,
            "worker_ids": json.loads(s.worker_ids),
            "return_value": None if s.return_value is None else Value(json.loads(s.return_value), JSONField()),
            "leased_by": "",
            "lease_expires_at": None,
            "started_at": s.started_at,
            "last_attempted_at": s.last_attempted_at or (F("last_attempted_at") if s.started_at else None),
            "held_since": Coalesce("held_since", Value(moment)) if s.held else None,
        }
        if by_holder:
            changes["settled_token"] = s.lease.token
        if s.state == State.SCHEDULED:  # its slot is for others meanwhile
            changes["blocked"] = bool(s.lease.concurrency_key)
        if s.delay is not None:
            changes["run_after"] = moment + timedelta(seconds=s.delay)
        if s.state == State.READY:
            changes["ready_at"] = moment
        if s.state in ENDED:
            changes |= {"finished_at": s.finished_at or moment, "dedupe_lock": None}
        lease = s.lease
        return bool(self.jobs.leased_to(lease.worker_id, lease.id, lease.token).update(**changes))

    def leave_notes(self, settlements: Sequence[Settlement], moment: datetime) -> None:
        """Add the attempts and dead letters of accepted settlements. Transaction: joins the caller's."""
        attempts = [attempt_row(s) for s in settlements if s.attempt]
        if attempts:
            self.rows(Attempt).bulk_create(attempts, batch_size=200)
        if dead := [s for s in settlements if s.death]:
            groups = self.groups_of(dead, moment)
            letters = [dead_letter_row(s, groups, moment) for s in dead]
            self.rows(DeadLetter).bulk_create(letters, batch_size=200)

    def groups_of(self, dead: Sequence[Settlement], moment: datetime) -> dict[str, int]:
        """Count deaths into their error groups and return group ids by fingerprint."""
        by_print: dict[str, list[Settlement]] = defaultdict(list)
        for settlement in dead:
            by_print[settlement.death.fingerprint].append(settlement)  # type: ignore[union-attr]
        new = [group_row(fingerprint, found[0], moment) for fingerprint, found in sorted(by_print.items())]
        self.rows(ErrorGroup).bulk_create(new, ignore_conflicts=True)
        # In one order everywhere: two workers that bury jobs of the same groups must not wait for each other.
        for fingerprint in sorted(by_print):
            self.rows(ErrorGroup).filter(fingerprint=fingerprint).update(
                count=F("count") + len(by_print[fingerprint]), last_seen=moment
            )
        return dict(self.rows(ErrorGroup).filter(fingerprint__in=by_print).values_list("fingerprint", "pk"))

    def unlocked(self, ids: Sequence[int]) -> set[int]:
        """Lock those of these rows that nobody else has locked. Transaction: joins the caller's."""
        rows = self.jobs.filter(pk__in=ids).order_by("pk").select_for_update(skip_locked=True)
        return set(rows.values_list("pk", flat=True))

    def existing(self, ids: Sequence[int]) -> set[int]:
        """Return those of these ids that have a row."""
        return set(self.jobs.filter(pk__in=ids).values_list("pk", flat=True))

    def drop_connection(self) -> None:
        """After a failure, where it is caught: let the next statement of this thread connect anew.

        What the failed calls have left in their frames goes first. Cursors are among it, an exception that knows its
        traceback is a cycle, and SQLite keeps the files of a closed connection open as long as it has a cursor.
        """
        error, seen = sys.exc_info()[1], set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
        self.connection.close()

    def limit_lock_waits(self) -> None:
        """Let this transaction fail, as `is_locked` tells, rather than wait for long for a row that is locked.

        Transaction: joins the caller's, and ends with it.
        """

    def limit_statements(self, seconds: float) -> None:
        """Have the server end, on this connection, statements and idle transactions that last so long.

        Not where people set such limits themselves, nor through a pooler, which would hand them on to others.
        """

    # Take back. The caller decides the outcome and settles in the same transaction.

    def expired(self, limit: int) -> list[Lease]:
        """Lock and read leases that have expired. Transaction: joins the caller's."""
        # In the order of the small index of running jobs: by primary key alone SQLite would walk the whole table.
        due = self.jobs.running().filter(lease_expires_at__lt=self.now()).order_by("leased_by", "pk")
        return self.leases(due.select_for_update(skip_locked=True)[:limit])

    def held_by(self, worker_id: str, limit: int) -> list[Lease]:
        """Lock and read the leases of one worker. Transaction: joins the caller's."""
        mine = self.jobs.running().filter(leased_by=worker_id).order_by("pk")
        return self.leases(mine.select_for_update(skip_locked=True)[:limit])

    # Housekeeping

    def promote(self, limit: int = 1000) -> int:
        """Make scheduled jobs ready that are due, and return how many."""
        return self.promoted(limit)[0]

    def promoted(self, limit: int) -> tuple[int, set[str]]:
        """Do as `promote` does; return the concurrency keys too."""
        with self.atomic():
            moment = self.now()
            due = self.jobs.scheduled().filter(run_after__lte=moment).order_by("run_after", "pk")
            rows = list(due.select_for_update(skip_locked=True).values_list("pk", "concurrency_key")[:limit])
            ready = {"state": State.READY, "ready_at": moment}
            count = self.jobs.scheduled().filter(pk__in=[pk for pk, _ in rows]).update(**ready) if rows else 0
            return count, {key for _, key in rows} - {""}

    def pulse(self, limit: int = 1000) -> Pulse:
        """Promote, and say when to come back and whether there is something to reap."""
        promoted, keys = self.promoted(limit)
        moment = self.now()
        due = self.jobs.scheduled().order_by("run_after", "pk").values_list("run_after", flat=True).first()
        lost = self.jobs.running().filter(lease_expires_at__lt=moment)
        first_to_expire = self.never_started().filter(expires_at__isnull=False).order_by("expires_at", "pk")
        expires_at = first_to_expire.values_list("expires_at", flat=True).first()
        tick = self.rows(Schedule).filter(next_at__isnull=False).order_by("next_at").values_list("next_at", flat=True)
        next_due, next_tick = (then - moment if then else None for then in (due, tick.first()))
        return Pulse(
            promoted,
            lost.exists(),
            bool(expires_at and expires_at < moment),
            self.jobs.blocked().exists(),
            next_due,
            next_tick,
            sorted(keys),
        )

    def never_started(self) -> Any:
        """Return the jobs that wait for their first start: a claim writes `started_at`, a release takes it away."""
        return self.jobs.filter(started_at__isnull=True, finished_at__isnull=True)

    def lease_expired_jobs(
        self, worker_id: str, limit: int, lease: timedelta, dedupe_keys: Collection[str] = ()
    ) -> list[Lease]:
        """Lease waiting jobs whose time is over and that never started, so that they can be settled.

        `dedupe_keys`: only those that hold one of these. Transaction: joins the caller's.
        """
        moment = self.now()
        expired = self.never_started().filter(expires_at__lt=moment).order_by("expires_at", "pk")
        if dedupe_keys:
            expired = expired.filter(dedupe_lock__in=dedupe_keys)
        ids = list(expired.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
        changes = {"state": State.RUNNING, "leased_by": worker_id, "lease_expires_at": moment + lease}
        self.never_started().filter(pk__in=ids).update(lease_token=F("lease_token") + 1, **changes)
        return self.leases(self.jobs.running().filter(pk__in=ids, leased_by=worker_id), moment)

    def list_queues(self, names: Iterable[str]) -> None:
        """Add a row for each queue that has none yet, so that people can see and pause it."""
        self.rows(Queue).bulk_create([Queue(name=name) for name in sorted(names)], ignore_conflicts=True)

    def prune_jobs(self, after_id: int, limit: int, keep: dict[str, timedelta]) -> tuple[int, int | None]:
        """Delete ended jobs older than their retention among the next `limit` ids.

        The walk follows the primary key, so that kept history needs no index of its own. Returns how many were
        deleted and the id to go on from; None once the rest is too young for any of it to go.
        """
        moment = self.now()
        window = list(
            self.jobs.filter(pk__gt=after_id)
            .order_by("pk")
            .values_list("pk", "state", "finished_at", "enqueued_at")[:limit]
        )
        old = [pk for pk, state, ended, _ in window if state in keep and ended and ended < moment - keep[state]]
        deleted = self.delete_jobs(old)
        past_the_old = not window or window[-1][3] > moment - min(keep.values())
        return deleted, None if past_the_old or len(window) < limit else window[-1][0]

    def prune_grants(self, limit: int, limited: Collection[str]) -> int:
        """Delete old grants of queues that are not `limited` any more; those of the others go with their claims."""
        count, before = 0, self.now() - FORGOTTEN_GRANTS
        queues = self.rows(Queue).exclude(name__in=limited).order_by("?")
        for name in queues.values_list("name", flat=True)[:MOST_QUEUES]:
            old = self.rows(Grant).filter(queue_name=name, granted_at__lt=before).order_by("granted_at")
            if ids := list(old.values_list("pk", flat=True)[: limit - count]):
                count += self.rows(Grant).filter(pk__in=ids).delete()[0]
            if count >= limit:
                break
        return count

    def prune_ticks(self, limit: int, older_than: timedelta) -> int:
        """Delete old times of schedules, but the last one of each."""
        old = self.rows(Tick).filter(at__lt=self.now() - older_than).exclude(at=F("schedule__last_at"))
        ids = list(old.order_by("at", "pk").values_list("pk", flat=True)[:limit])
        return int(self.rows(Tick).filter(pk__in=ids).delete()[0])

    def delete_jobs(self, ids: Sequence[int]) -> int:
        """Delete ended jobs with their attempts and dead letters; never an idempotency record."""
        if not ids:
            return 0
        with self.atomic():
            ended = self.jobs.filter(pk__in=ids, state__in=ENDED).order_by("pk")
            locked = list(ended.select_for_update(skip_locked=True).values_list("pk", flat=True))
            self.rows(Attempt).filter(job__in=locked).delete()
            self.rows(DeadLetter).filter(job__in=locked).delete()
            self.rows(IdempotencyRecord).filter(job__in=locked).update(job=None)
            # Through the ORM's collector: models of other apps may point at a job and say what becomes of that.
            self.jobs.filter(pk__in=locked).only("pk").delete()
        return len(locked)

    def prune_records(self, limit: int) -> int:
        """Delete idempotency records that have expired; never one that is still processing."""
        records = self.rows(IdempotencyRecord)
        old = records.filter(expires_at__lt=self.now(), state=RecordState.DONE).order_by("expires_at")
        ids = list(old.values_list("pk", flat=True)[:limit])
        return records.filter(pk__in=ids, expires_at__lt=self.now(), state=RecordState.DONE).delete()[0] if ids else 0

    # Wake-up

    def notify(self, queue_name: str) -> None:
        """Tell sleeping workers that a queue has ready jobs, where the database can; polling finds it anyway."""

    def watch(self) -> "Watch":
        """Return what a worker waits on between polls. Threads: one watch belongs to one thread."""
        return Watch()


class Watch:
    """Waits for news of ready jobs. This one hears nothing: it only lets the time pass."""

    def wait(self, seconds: float) -> set[str]:
        """Wait up to `seconds`; return the queues that may have work as soon as there are any."""
        time.sleep(seconds)
        return set()

    def probe(self) -> None:
        """Find out whether it could still hear. Raises: OperationalError when not."""

    def close(self) -> None:
        pass


def portions(payloads: Sequence[str], count: int) -> Iterator[slice]:
    """Cut payloads into what one statement takes: at most `count` of them, and not too much text."""
    start = size = 0
    for place, text in enumerate(payloads):
        if place > start and (place - start == count or size + len(text) > PORTION_CHARACTERS):
            yield slice(start, place)
            start, size = place, 0
        size += len(text)
    if payloads:
        yield slice(start, len(payloads))


def by_id(settlement: Settlement | Success) -> int:
    return settlement.lease.id


def attempt_row(s: Settlement) -> Attempt:
    note = s.attempt
    assert note is not None
    return Attempt(
        job_id=s.lease.id,
        number=s.lease.attempt,
        lease_token=s.lease.token,
        outcome=note.outcome,
        worker_id=s.lease.worker_id,
        started_at=note.started_at,
        finished_at=note.finished_at,
        exception_class=note.error.exception_class,
        message=note.error.message,
        traceback=note.error.traceback,
    )


def group_row(fingerprint: str, s: Settlement, moment: datetime) -> ErrorGroup:
    assert s.death is not None
    return ErrorGroup(
        fingerprint=fingerprint,
        task_path=s.lease.task_path,
        exception_class=s.death.error.exception_class,
        sample=s.death.error.message,
        first_seen=moment,
        last_seen=moment,
    )


def merged_by_age(oldest: dict[int, list[tuple[datetime, int]]], limit: int, ageing: timedelta) -> list[int]:
    """Return the ids of the best of these jobs, where so much of waiting counts as one step of priority.

    Shape: of each priority the moments and ids of the oldest jobs, no fewer than `limit` where there are so many.
    """
    rows = [(ready_at - priority * ageing, pk) for priority, found in oldest.items() for ready_at, pk in found]
    return [pk for _, pk in sorted(rows)[:limit]]


def best_first(leases: list[Lease], ageing: timedelta | None) -> list[Lease]:
    """Return leases in the order in which a claim has chosen them."""
    if ageing is None:
        leases.sort(key=OLDEST_FIRST)
        leases.sort(key=PRIORITY, reverse=True)
    else:
        leases.sort(key=lambda lease: (lease.ready_at - lease.priority * ageing, lease.id))
    return leases


def dead_letter_row(s: Settlement, groups: dict[str, int], moment: datetime) -> DeadLetter:
    assert s.death is not None
    return DeadLetter(
        job_id=s.lease.id,
        group_id=groups[s.death.fingerprint],
        reason=s.death.reason,
        exception_class=s.death.error.exception_class,
        message=s.death.error.message,
        record_key=s.death.record_key,
        died_at=moment,
    )
