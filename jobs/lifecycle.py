"""What may happen to a job besides its own run: it is taken back, replayed, deleted, cancelled, pruned."""

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any

from django.db import IntegrityError
from django.db.models import Q, QuerySet

from . import conf, registry, signals
from .breakers import LONGEST_PROBE
from .compat import task_backends
from .concurrency import freed_by, let_in_after_commit
from .conf import Options
from .exceptions import TimedOut
from .idempotency import is_alive
from .leases import Lease, Remains
from .models import DeadLetter, IdempotencyRecord, Job, Queue
from .models.queue import BY_SETTINGS
from .outcomes import Interrupted, Lost, Outcome, Released, Settlement
from .states import ENDED, WAITING, Reason, RecordState, State
from .storage import ANY_QUEUE, storage
from .verdicts import expiry, judge, settlement
from .wake import wake

log = logging.getLogger("jobs")

BATCH = 200
CANCEL_TRIES = 5
# Of a queue from which workers may claim.
OPEN = {
    "paused": False,
    "paused_reason": "",
    "paused_at": None,
    "tripped_by": "",
    "probe_at": None,
    "probe_every": None,
}


@dataclass
class Report:
    """What an operation on many rows did: the ids it changed, and the ids it skipped with the reason."""

    done: list[int] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)


class Skipped(Exception):
    """This row is left as it is; the text says why."""


# Taken back from a worker that is gone


def reap(limit: int = BATCH) -> list[Settlement]:
    """Take expired leases back. Nobody knows what ran, so only a job that ran alone is charged."""
    store = storage()
    with store.atomic():
        return settled(store.expired(limit), lambda lease: Lost(charged=lease.suspect))


def expire(limit: int = BATCH, dedupe_keys: Collection[str] = ()) -> list[Settlement]:
    """End waiting jobs that did not start in time: nobody runs them any more.

    `dedupe_keys`: only those that hold one of these.
    """
    store = storage()
    with store.atomic():
        nobody = f"expiry-{secrets.token_hex(6)}"
        return settled(store.lease_expired_jobs(nobody, limit, timedelta(minutes=1), dedupe_keys), expiry)


def end_condemned(dedupe_keys: Collection[str]) -> int:
    """End the waiting jobs with these keys that no worker would run: too late, or cancelled. Return how many."""
    ended = 0
    keys = sorted(dedupe_keys)
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        ended += len(expire(BATCH, part))
        condemned = storage().jobs.filter(dedupe_lock__in=part, state__in=WAITING, cancel_requested=True)
        ended += len(cancel(condemned.values_list("pk", flat=True)).done)
    return ended


def take_back_lost(worker_id: str, remains: Remains) -> list[Settlement]:
    """Take the leases of a process back that died by itself.

    One that was running is charged; of several, each is a suspect. What had not started is released.
    """
    charged = len(remains.running) == 1

    def outcome(lease: Lease) -> Outcome:
        return Lost(charged) if remains.was_running(lease) else not_running(lease, remains)

    return take_back(worker_id, outcome)


def take_back_stopped(worker_id: str, remains: Remains, why: str) -> list[Settlement]:
    """Take the leases of a process back that its own supervisor stopped: nobody is charged."""

    def outcome(lease: Lease) -> Outcome:
        return Interrupted(why) if remains.was_running(lease) else not_running(lease, remains)

    return take_back(worker_id, outcome)


def take_back_frozen(worker_id: str, remains: Remains) -> list[Settlement]:
    """Take the leases of a process back that its supervisor killed because it stood still.

    One of its jobs may have held the interpreter: each runs alone next, and one that was alone is charged.
    """

    def outcome(lease: Lease) -> Outcome:
        return Lost(charged=lease.suspect) if remains.was_running(lease) else not_running(lease, remains)

    return take_back(worker_id, outcome)


def not_running(lease: Lease, remains: Remains) -> Outcome:
    """Return what becomes of a lease that a dead process held beside those it was running; nobody is charged."""
    if lease.key in remains.ended:
        # It runs again, and whoever wonders why its effect happened twice finds this.
        return Interrupted("it had ended, and its process died before its outcome was written")
    return Released()


def take_back_stuck(worker_id: str, remains: Remains, stuck: set[int], options: Options) -> list[Settlement]:
    """Take the leases of a process back that was killed because jobs ignored their timeout: those alone pay."""

    def outcome(lease: Lease) -> Outcome:
        if not remains.was_running(lease):
            return not_running(lease, remains)
        if lease.id not in stuck:
            return Interrupted("a neighbour ignored its timeout and the process was replaced")
        error = TimedOut("ran longer than its timeout, ignored the interruption, and its process was killed")
        return judge(lease, registry.find(lease.task_path), options, error)

    return take_back(worker_id, outcome)


def take_back(worker_id: str, outcome: Callable[[Lease], Outcome]) -> list[Settlement]:
    """Settle what a dead process held. Rows whose locks its dying connection still holds are left for a next call."""
    done: list[Settlement] = []
    store = storage()
    while True:
        with store.atomic():
            batch = settled(store.held_by(worker_id, BATCH), outcome)
        done.extend(batch)
        if len(batch) < BATCH:
            break
    for queue_name in {s.lease.queue_name for s in done if s.state == State.READY}:
        wake(queue_name)
    return done


def settled(leases: list[Lease], outcome: Callable[[Lease], Outcome]) -> list[Settlement]:
    settlements = [settlement(lease, outcome(lease), lease.last_started_at, lease.claimed_at) for lease in leases]
    accepted = storage().settle(settlements, by_holder=False)
    done = [s for s in settlements if s.lease.id in accepted]
    let_in_after_commit(freed_by(done))
    return done


# Asked for by a person


def replay(letters: Iterable[DeadLetter], *, by: str, happened: bool | None = None) -> Report:
    """Make dead jobs ready again: same id, history and idempotency key kept.

    `happened` answers for uncertain deaths: True "the effect happened" (the record is done, the job succeeds without
    running), False "it did not" (the record goes, the job runs). Without an answer such letters are skipped.
    Transaction: one for each letter.
    """
    return for_each(letters, lambda letter: replay_one(letter, by, happened))


def replay_one(letter: DeadLetter, by: str, happened: bool | None) -> None:
    uncertain = letter.reason == Reason.UNCERTAIN
    if uncertain and happened is None:
        raise Skipped("it is uncertain whether the effect happened; say which: it happened, or it did not")
    if not uncertain and happened is not None:
        raise Skipped("it is not uncertain; replay it without an answer")
    store = storage()
    with store.atomic():
        job = lock_dead_job(letter)
        moment = store.now()
        if uncertain:
            answer(letter, bool(happened))
        changes: dict[str, Any] = {"cancel_requested": False, "forgiven_attempts": job.attempts, "crashes": 0}
        if happened:
            changes |= {"state": State.SUCCEEDED, "finished_at": moment}
        else:
            changes |= {"state": State.READY, "ready_at": moment, "finished_at": None}
            changes |= {"dedupe_lock": job.dedupe_key or None, "expires_at": None}
            changes |= {"blocked": bool(job.concurrency_key)}
        changed = 0
        try:
            with store.atomic():
                changed = store.jobs.dead().filter(pk=job.pk).update(**changes)
        except IntegrityError:
            holder = store.jobs.filter(dedupe_lock=job.dedupe_key).values_list("pk", flat=True).first()
            raise Skipped(f"its dedupe key {job.dedupe_key!r} is held by job {holder}") from None
        if not changed:
            raise Skipped("its job is no longer dead")
        store.rows(DeadLetter).filter(pk=letter.pk).update(replayed_at=moment, replayed_by=by[:255])
        if not happened:
            wake(ANY_QUEUE if job.group_key else job.queue_name)
            let_in_after_commit([job.concurrency_key])
    sender = type(task_backends[job.backend]) if job.backend in task_backends.settings else None
    signals.job_replayed.send_robust(sender, job_id=job.pk, task_path=job.task_path, queue_name=job.queue_name, by=by)


def lock_dead_job(letter: DeadLetter) -> Job:
    """Lock the job of a letter and check that it is dead of this letter. Raises: Skipped."""
    store = storage()
    job: Job | None = store.jobs.select_for_update().filter(pk=letter.job_id).first()
    latest = store.rows(DeadLetter).filter(job=letter.job_id).order_by("-pk").first()
    if job is None or latest is None:
        raise Skipped("its job no longer exists")
    if latest.pk != letter.pk:
        raise Skipped(f"only the latest dead letter of a job can be replayed: {latest.pk}")
    if job.state != State.DEAD or latest.replayed_at:
        raise Skipped(f"its job is no longer dead but {job.get_state_display()}")
    return job


def answer(letter: DeadLetter, happened: bool) -> None:
    """Write a person's answer into the record in doubt. Raises: Skipped when the record already knows better."""
    store = storage()
    record = store.rows(IdempotencyRecord).select_for_update().filter(key=letter.record_key).first()
    if record is None:
        return
    if record.state == RecordState.DONE:
        if not happened:
            raise Skipped("its idempotency record says the effect happened")
        return
    if is_alive(record, store.now()):
        raise Skipped(f"its effect is under way elsewhere ({record.owner}); wait for it")
    if happened:
        store.rows(IdempotencyRecord).filter(pk=record.pk).update(state=RecordState.DONE, owner="", locked_until=None)
    else:
        store.rows(IdempotencyRecord).filter(pk=record.pk).delete()


def delete(letters: Iterable[DeadLetter], *, by: str) -> Report:
    """Delete dead letters for good, each with its dead job and attempts; never an idempotency record.

    A letter that was replayed goes alone: its job lives on. Transaction: one for each letter.
    """
    return for_each(letters, delete_one)


def delete_one(letter: DeadLetter) -> None:
    store = storage()
    with store.atomic():
        try:
            job = lock_dead_job(letter)
        except Skipped:
            if not store.rows(DeadLetter).filter(pk=letter.pk, replayed_at__isnull=False).delete()[0]:
                raise
            return
        store.delete_jobs([job.pk])


def cancel(job_ids: Iterable[int]) -> Report:
    """End waiting jobs at once; ask running ones to stop, which they do when their task agrees."""
    store = storage()
    report = Report()
    for job_id in job_ids:
        for _ in range(CANCEL_TRIES):
            if cancel_one(store.jobs.filter(pk=job_id)):
                report.done.append(job_id)
                break
            state = store.jobs.filter(pk=job_id).values_list("state", flat=True).first()
            # Between two looks it may have been claimed, or given back.
            if state is None or State(state) in ENDED:
                report.skipped.append((job_id, f"it has ended already: {state}" if state else "there is no such job"))
                break
        else:
            report.skipped.append((job_id, "workers take it and give it back all the time; try again"))
    return report


def cancel_one(job: Any) -> bool:
    """Cancel the one job of a queryset; say whether it was there to be cancelled."""
    store = storage()
    with store.atomic():
        ended = job.filter(state__in=WAITING).update(state=State.CANCELLED, finished_at=store.now(), dedupe_lock=None)
        if ended:
            let_in_after_commit(job.values_list("concurrency_key", flat=True))
        return bool(ended or job.running().update(cancel_requested=True))


def pause(queue_name: str, *, reason: str = "") -> None:
    """Stop claims from a queue; running jobs go on."""
    store = storage()
    changes = OPEN | {"paused": True, "paused_reason": reason[:255], "paused_at": store.now()}
    store.rows(Queue).update_or_create(name=queue_name, defaults=changes)


def resume(queue_name: str) -> None:
    """Let workers claim from a queue again."""
    storage().rows(Queue).filter(name=queue_name).update(**OPEN)
    wake(queue_name)


def follow_settings() -> None:
    """Pause queues of which the settings say so now and did not when workers last began, and resume likewise.

    All that the settings name are listed, so that people may pause and limit one before its first job.
    In between, a person's word counts. What the settings say nothing of stays as it is: another tree may have others.
    Raises: OperationalError, as `is_locked` tells, when somebody has locked one of these rows for long.
    """
    store = storage()
    rows = store.rows(Queue)
    said = {name: limits.paused for name, limits in conf.options().queues.items()}
    wanted, free = ({name for name, paused in said.items() if paused is word} for word in (True, False))
    with store.atomic():
        store.limit_lock_waits()
        store.list_queues(conf.named_queues() | said.keys())
        new = rows.filter(name__in=wanted, settings_paused=False)
        # One that a breaker has paused would go on by itself.
        going = new.filter(Q(paused=False) | ~Q(tripped_by=""))
        going.update(**OPEN | {"paused": True, "paused_reason": BY_SETTINGS, "paused_at": store.now()})
        new.update(settings_paused=True)
        resumed = rows.filter(name__in=free, paused=True, paused_reason=BY_SETTINGS).update(**OPEN)
        rows.filter(settings_paused=True).exclude(name__in=wanted).update(settings_paused=False)
    if resumed:
        wake(ANY_QUEUE)


def trip(queue_name: str, *, task_path: str, reason: str, probe: timedelta) -> bool:
    """Pause a queue because a task's breaker says so, and try a job after `probe`.

    Returns whether this call paused it: one that is paused stays as it is, above all when a person has paused it.
    """
    store = storage()
    with store.atomic():
        store.list_queues([queue_name])
        moment = store.now()
        changes = {"paused": True, "paused_reason": f"Breaker of {task_path}: {reason}"[:255], "paused_at": moment}
        changes |= {"tripped_by": task_path, "probe_at": moment + probe, "probe_every": probe}
        done = store.rows(Queue).filter(name=queue_name, paused=False).update(**changes)
    if done:
        log.error("queue paused by its breaker", extra={"queue": queue_name, "task": task_path, "error": reason})
    return bool(done)


def tripped(queue_name: str, task_path: str) -> Any:
    """Return the row of a queue, if this task's breaker has paused it."""
    rows = storage().rows(Queue)
    return rows.filter(name=queue_name, tripped_by=task_path, paused=True, probe_at__isnull=False)


def close_breaker(queue_name: str, *, task_path: str) -> bool:
    """Resume a queue that this task's breaker has paused: a job of the task did well, or none of it waits any more."""
    done = tripped(queue_name, task_path).update(**OPEN)
    if done:
        log.warning("queue resumed by its breaker", extra={"queue": queue_name, "task": task_path})
        wake(queue_name)
    return bool(done)


def probe_soon(queue_name: str, *, task_path: str) -> None:
    """Try another job at once: the one that was tried has shown nothing."""
    tripped(queue_name, task_path).update(probe_at=storage().now())


def probe_later(queue_name: str, *, task_path: str) -> None:
    """Try the next job after twice as long: the one that was tried has failed."""
    store = storage()
    with store.atomic():
        for queue in tripped(queue_name, task_path).select_for_update():
            queue.probe_every = min(2 * queue.probe_every, LONGEST_PROBE)
            queue.probe_at = store.now() + queue.probe_every
            queue.save(update_fields=["probe_at", "probe_every"])


def prune(*, older_than: timedelta | None = None, batch: int = 5000) -> dict[str, int]:
    """Delete what is past its retention, all of it, in bounded transactions.

    `older_than` replaces the retention of succeeded and cancelled jobs, not that of dead ones.
    """
    store = storage()
    keep = dict(conf.options().retention)
    if older_than is not None:
        keep |= {"succeeded": older_than, "cancelled": older_than}
    jobs, place = 0, 0
    while place is not None:
        deleted, place = store.prune_jobs(place, batch, keep)  # type: ignore[assignment]
        jobs += deleted
    records = 0
    while deleted := store.prune_records(batch):
        records += deleted
    return {"jobs": jobs, "idempotency_records": records}


def for_each(letters: Iterable[DeadLetter], act: Callable[[DeadLetter], None]) -> Report:
    report = Report()
    for letter in in_chunks(letters):
        try:
            act(letter)
        except Skipped as skipped:
            report.skipped.append((letter.pk, str(skipped)))
        else:
            report.done.append(letter.pk)
    return report


def in_chunks(letters: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
    """Walk rows without holding a cursor open across the transactions of each, nor all of them in memory."""
    if isinstance(letters, QuerySet):
        ids = list(letters.order_by("pk").values_list("pk", flat=True))
        for start in range(0, len(ids), BATCH):
            yield from letters.model._default_manager.filter(pk__in=ids[start : start + BATCH]).order_by("pk")
        return
    source = iter(letters)
    while chunk := list(islice(source, BATCH)):
        yield from chunk
