"""Writes the outcomes of a process in batches, and passes on what was written: to listeners, metrics and the pace."""

import logging
from collections import Counter
from collections.abc import Sequence

from django.db.utils import InterfaceError, OperationalError

from ..leases import Lease
from ..outcomes import ErrorReport, Failed, Outcome, Released, Settlement, Succeeded, Success
from ..states import Reason, State
from ..storage import Storage
from ..tally import Observation, Tally
from ..verdicts import settlement
from .announcer import Announcer
from .executors import Desk
from .pace import Pace
from .plan import BATCH
from .runner import Finished

log = logging.getLogger("jobs")


class Settler:
    """Threads: the engine's alone.

    `held` is shared with the engine: a lease stands there from its claim until its outcome is written or refused.
    """

    def __init__(
        self, store: Storage, desk: Desk, held: dict[tuple[int, int], Lease], announcer: Announcer, tally: Tally
    ) -> None:
        self.store, self.desk, self.held, self.announcer, self.tally = store, desk, held, announcer, tally
        self.pace = Pace()
        self.unwritten: list[Finished] = []
        self.released = 0  # leases given back that never started

    @property
    def waiting(self) -> int:
        """How many outcomes are not written yet."""
        return len(self.unwritten) + len(self.desk.finished)

    def settle_all(self) -> None:
        while self.waiting:
            self.settle_batch()

    def settle_batch(self) -> None:
        """Write the oldest outcomes. Until the database has answered, none of them is forgotten."""
        finished = self.desk.finished
        while finished and len(self.unwritten) < BATCH:
            self.unwritten.append(finished.popleft())
        if self.unwritten:
            batch = self.next_batch()
            self.write(batch)
            del self.unwritten[: len(batch)]

    def release(self, leases: Sequence[Lease], now: float) -> None:
        """Give back what has not started, with nothing charged."""
        self.unwritten.extend(Finished(lease, Released(), None, now) for lease in leases)
        if leases:
            self.settle_all()

    def next_batch(self) -> list[Finished]:
        """Return the oldest outcomes, at most one of each job: a stale run may end beside its successor."""
        batch = self.unwritten[:BATCH]
        if len({finished.lease.id for finished in batch}) == len(batch):
            return batch
        seen: set[int] = set()
        for place, finished in enumerate(batch):
            if finished.lease.id in seen:
                return batch[:place]
            seen.add(finished.lease.id)
        raise AssertionError("unreachable")

    def write(self, batch: Sequence[Finished]) -> None:
        successes = [f for f in batch if type(f.outcome) is Succeeded and not f.settled]
        others = {f.lease.id: row_for(f) for f in batch if type(f.outcome) is not Succeeded}
        accepted = {f.lease.id for f in batch if f.settled}
        accepted |= self.write_successes(successes)
        accepted |= self.write_others(others)
        self.close(batch, others, accepted)

    def write_successes(self, batch: Sequence[Finished]) -> set[int]:
        try:
            return self.store.complete([success_of(finished) for finished in batch])
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            log.exception("batch of outcomes refused")
            return {finished.lease.id for finished in batch if self.settle_alone(row_for(finished))}

    def write_others(self, rows: dict[int, Settlement]) -> set[int]:
        try:
            return self.store.settle(list(rows.values()))
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            log.exception("batch of outcomes refused")
            return {job_id for job_id, row in rows.items() if self.settle_alone(row)}

    def settle_alone(self, row: Settlement) -> bool:
        """Settle one outcome. One that the database refuses to store must not hold up its neighbours."""
        try:
            return bool(self.store.settle([row]))
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            report = ErrorReport.of(error)
            refused = Failed(report, reason=Reason.PERMANENT_ERROR)
            return bool(self.store.settle([settlement(row.lease, refused, row.started_at, row.lease.claimed_at)]))

    def close(self, batch: Sequence[Finished], others: dict[int, Settlement], accepted: set[int]) -> None:
        written, lost = list(batch), []
        if len(accepted) < len(batch):
            lost = [f.lease for f in batch if f.lease.id not in accepted and not self.was_written(f, others, accepted)]
            written = [finished for finished in batch if finished.lease.id in accepted]
        for finished in batch:
            self.held.pop(finished.lease.key, None)
        self.desk.lost.difference_update([finished.lease.key for finished in batch] if self.desk.lost else ())
        self.tell(written, others, lost)
        self.count(written, others, lost)

    def was_written(self, finished: Finished, others: dict[int, Settlement], accepted: set[int]) -> bool:
        """Say whether an earlier try went through and only its reply was lost; it is told once it is accepted."""
        lease = finished.lease
        if not self.store.was_settled(lease.id, lease.token):
            return False
        # What was written may be another outcome, and then this one is neither lost nor accepted.
        expected = others[lease.id].state if lease.id in others else State.SUCCEEDED
        if self.store.jobs.filter(pk=lease.id).values_list("state", flat=True).first() == expected:
            accepted.add(lease.id)
        return True

    def tell(self, written: Sequence[Finished], others: dict[int, Settlement], lost: Sequence[Lease]) -> None:
        if others or lost or self.announcer.hears_successes():
            self.announcer.put([(others.get(f.lease.id) or row_for(f), f.outcome) for f in written], lost)

    def count(self, written: Sequence[Finished], others: dict[int, Settlement], lost: Sequence[Lease]) -> None:
        events: Counter[tuple[str, str, str]] = Counter()
        ran: list[Observation] = []
        for finished in written:
            lease, started = finished.lease, finished.started
            for event in events_of(finished.outcome, others.get(lease.id)):
                events[event, lease.task_path, lease.queue_name] += 1
            if started is not None:
                wait = (lease.claimed_at - lease.ready_at).total_seconds() + started - lease.claimed_monotonic
                ran.append((lease.task_path, finished.finished - started, wait))
            elif isinstance(finished.outcome, Released):
                self.released += 1
        for lease in lost:
            events["lease_lost", lease.task_path, lease.queue_name] += 1
        self.pace.observe(sum(run for _, run, _ in ran), len(ran))
        self.tally.add(events, ran)


def success_of(finished: Finished) -> Success:
    lease, claimed = finished.lease, finished.lease.claimed_monotonic
    started = finished.finished if finished.started is None else finished.started
    return Success(lease, finished.outcome.value, started - claimed, finished.finished - claimed)  # type: ignore[union-attr]


def row_for(finished: Finished) -> Settlement:
    lease = finished.lease
    started_at = None if finished.started is None else lease.database_time(finished.started)
    return settlement(lease, finished.outcome, started_at, lease.database_time(finished.finished))


SUCCEEDED = ("succeeded",)


def events_of(outcome: Outcome, row: Settlement | None) -> Sequence[str]:
    """Return what the metrics count an outcome as; a success has no row of its own."""
    if row is None:
        return SUCCEEDED
    events = [type(outcome).__name__.lower()] if not row.death or row.attempt else []
    if row.death:
        return [*events, "dead"]
    return [*events, "retried"] if isinstance(outcome, Failed) else events
