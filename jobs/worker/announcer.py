"""Tells the world what happened to jobs: Django's task signals, the queue's own, and one log line per event."""

import json
import logging
import queue
import threading
from collections.abc import Iterable
from typing import Any

from django.db import connections

from .. import backend, signals
from ..compat import is_heard, task_backends, task_finished, task_started
from ..exceptions import JobEnded
from ..leases import Lease
from ..outcomes import Failed, Lost, Outcome, Settlement, loggable
from ..states import ENDED, State

log = logging.getLogger("jobs")

MOST_WAITING = 100  # batches
LEVELS = {State.DEAD: logging.ERROR, State.SCHEDULED: logging.WARNING}


def sender_of(lease: Lease) -> type | None:
    """Return the backend class that signals name as their sender."""
    return type(task_backends[lease.backend]) if lease.backend in task_backends.settings else None


def result_of_lease(lease: Lease, state: State) -> Any:
    task = backend.task_of(lease.task_path, lease.backend, lease.queue_name, lease.priority, lease.run_after)
    return backend.result_of(
        task,
        id=lease.id,
        state=state,
        enqueued_at=lease.enqueued_at,
        args=json.loads(lease.args),
        kwargs=json.loads(lease.kwargs),
        started_at=lease.started_at,
        last_attempted_at=lease.last_started_at,
        worker_ids=[*json.loads(lease.worker_ids), lease.worker_id],
    )


def announce_start(lease: Lease) -> None:
    task_started.send_robust(sender_of(lease), task_result=result_of_lease(lease, State.RUNNING))


def announce(settlement: Settlement, outcome: Outcome | None) -> None:
    """Send what follows from an accepted settlement. `task_finished` goes out only for a job's last outcome."""
    lease, sender = settlement.lease, sender_of(settlement.lease)
    about = {"job_id": lease.id, "task_path": lease.task_path, "queue_name": lease.queue_name}
    failed = outcome if isinstance(outcome, Failed) else None
    log_settled(settlement)
    if settlement.death:
        error_class = settlement.death.error.exception_class
        signals.job_dead.send_robust(sender, **about, reason=str(settlement.death.reason), exception_class=error_class)
    elif failed and failed.retry_in is not None:
        signals.job_retry_scheduled.send_robust(
            sender,
            **about,
            attempt=lease.attempt,
            retry_in=failed.retry_in,
            exception_class=failed.error.exception_class,
        )
    level = logging.INFO if settlement.state == State.SUCCEEDED else logging.ERROR
    if settlement.state in ENDED and is_heard(task_finished, level):
        announce_finish(settlement, sender, failed.exception if failed else None)


def announce_finish(settlement: Settlement, sender: type | None, error: BaseException | None) -> None:
    """Send `task_finished` inside the exception it is about: Django's receiver logs the traceback it finds.

    Where that holds a secret, inside one that says the same without it.
    """
    try:
        result = backend.result_of_id(settlement.lease.id)
    except Exception:
        log.exception("result not read for task_finished", extra=settlement.lease.log_fields())
        return
    if error is None and settlement.state == State.SUCCEEDED:
        task_finished.send_robust(sender, task_result=result)
        return
    said = settlement.death.error.message if settlement.death else f"the job was {settlement.state.value}"
    told = loggable(error) if error else JobEnded(said)
    traceback = told.__traceback__
    try:
        raise told
    except BaseException:
        told.__traceback__ = traceback  # which is the task's, and none of ours
        task_finished.send_robust(sender, task_result=result)


def announce_lost(lease: Lease) -> None:
    """Say that an outcome was dropped because the lease it belonged to is somebody else's now."""
    log.warning("lease lost", extra=lease.log_fields())
    signals.lease_lost.send_robust(
        sender_of(lease),
        job_id=lease.id,
        task_path=lease.task_path,
        queue_name=lease.queue_name,
        lease_token=lease.token,
        worker_id=lease.worker_id,
    )


def log_settled(settlement: Settlement) -> None:
    level = LEVELS.get(settlement.state, logging.DEBUG) if settlement.attempt or settlement.death else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    fields = settlement.lease.log_fields() | {"state": settlement.state.value}
    if settlement.attempt:
        error = settlement.attempt.error
        fields |= {"outcome": str(settlement.attempt.outcome), "error": error.exception_class}
        fields |= {"message": error.message[:200]}
    if settlement.death:
        fields |= {"reason": str(settlement.death.reason), "message": settlement.death.error.message[:200]}
    log.log(level, "attempt settled", extra={f"job_{k}" if k == "message" else k: v for k, v in fields.items()})


class Announcer:
    """A thread that announces, so that a slow signal receiver never holds up the engine.

    Threads: `put` may be called by any; order is kept.
    """

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, name="announcer", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def hears_successes(self) -> bool:
        """Say whether anybody would notice that a job succeeded; most projects have nobody who does."""
        return is_heard(task_finished, logging.INFO) or log.isEnabledFor(logging.DEBUG)

    def is_behind(self) -> bool:
        """Say whether receivers are slower than jobs: then the process claims no more until they have caught up."""
        return self.events.qsize() > MOST_WAITING

    def put(self, settled: Iterable[tuple[Settlement, Outcome]], lost: Iterable[Lease]) -> None:
        self.events.put((list(settled), list(lost)))

    def stop(self, seconds: float) -> None:
        """Announce what is left, for at most so long."""
        self.events.put(None)
        self.thread.join(seconds)

    def run(self) -> None:
        while (event := self.events.get()) is not None:
            settled, lost = event
            for settlement, outcome in settled:
                self.safely(announce, settlement, outcome)
            for lease in lost:
                self.safely(announce_lost, lease)
        connections.close_all()

    def safely(self, act: Any, *about: Any) -> None:
        try:
            act(*about)
        except Exception:
            log.exception("announcement failed")


def outcome_of(settlement: Settlement) -> Outcome | None:
    """Return what the announcer needs to know of a settlement that another process made."""
    if settlement.attempt and settlement.attempt.outcome == "lost":
        return Lost(charged=settlement.crashes > settlement.lease.crashes)
    if settlement.attempt and settlement.attempt.outcome == "failed":
        return Failed(settlement.attempt.error, retry_in=settlement.delay)
    return None


def announce_all(settlements: Iterable[Settlement]) -> None:
    """Announce settlements that a supervisor made for a process that is gone."""
    for settlement in settlements:
        announce(settlement, outcome_of(settlement))
