"""Writes the outcomes of a process in batches, and passes on what was written: to listeners, metrics and the pace."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from ..concurrency import keys_of, let_in
from ..leases import Lease
from ..outcomes import ErrorReport, Failed, Outcome, Released, Settlement, Succeeded, Success
from ..states import Reason, State
from ..storage import Storage, is_locked, is_refusal
from ..tally import Tally
from ..verdicts import settlement
from .announcer import Announcer
from .breakers import Breakers
from .executors import Desk
from .pace import Pace
from .plan import BATCH
from .runner import Finished

log = logging.getLogger("jobs")

LOCKED_SECONDS = 1.0  # until rows that somebody has locked are tried again
CAREFUL_SECONDS = 5.0  # since rows were found locked: others may be
MOST_WAITS = 3  # for locks, one after another

T = TypeVar("T")


class Settler:
    """Threads: the engine's alone.

    `held` is shared with the engine: a lease stands there from its claim until its outcome is written or refused.
    """

    def __init__(
        self, store: Storage, desk: Desk, held: dict[tuple[int, int], Lease], announcer: Announcer, tally: Tally
    ) -> None:
        self.store, self.desk, self.held, self.announcer, self.tally = store, desk, held, announcer, tally
        self.pace = Pace()
        self.breakers = Breakers(store, tally)
        self.unwritten: list[Finished] = []
        self.batch: list[Finished] = []  # the part of them that is being written
        self.locked: list[Finished] = []  # outcomes of jobs whose rows somebody else has locked
        self.locked_until = self.careful_until = 0.0
        self.uncounted: list[Written] = []
        self.freed: set[str] = set()  # concurrency keys
        self.released = 0  # leases given back that never started

    @property
    def waiting(self) -> int:
        """How many outcomes are not written yet."""
        return len(self.unwritten) + len(self.desk.finished)

    def successes(self) -> list[Success]:
        """Begin a batch of the oldest outcomes and return its successes; `finish` ends it.

        Until then none is forgotten: the next call begins with the same ones. What the batch before it means to others
        is worked out here, while the database is busy.
        """
        self.count()
        finished = self.desk.finished
        while finished and len(self.unwritten) < BATCH:
            self.unwritten.append(finished.popleft())
        self.batch = self.next_batch()
        return [success_of(f) for f in self.batch if is_success(f)]

    def finish(self, accepted: set[int], locked: frozenset[int] = frozenset()) -> None:
        """Write the rest of the batch. `accepted` names its successes that are in the database, `locked` those to put
        aside."""
        others = {f.lease.id: row_for(f) for f in self.batch if type(f.outcome) is not Succeeded}
        if others:
            written, more = self.write_others(others)
            accepted, locked = accepted | written, locked | more
        accepted |= {f.lease.id for f in self.batch if f.settled}
        self.close([f for f in self.batch if f.lease.id not in locked], others, accepted)
        # Only now: until here, the next call would begin with the same ones.
        self.put_aside([f for f in self.batch if f.lease.id in locked])
        del self.unwritten[: len(self.batch)]
        self.batch = []
        self.let_in()

    def let_in(self) -> None:
        """Hand on the slots that written outcomes have freed; should this fail, again with the next ones."""
        if self.freed:
            let_in(self.freed)
            self.freed.clear()

    def finish_otherwise(self, error: Exception) -> bool:
        """Write the batch with care after an error that one of its jobs may be to blame for; say whether it was."""
        if is_locked(error):
            self.careful_until = time.monotonic() + CAREFUL_SECONDS
        elif is_refusal(error):
            log.error("batch of outcomes refused", exc_info=error)
        else:
            return False
        self.finish(*self.write_successes())
        return True

    def is_careful(self) -> bool:
        """Say whether rows have been found locked just now: then it is known before the writing which are free."""
        return bool(self.locked) or time.monotonic() < self.careful_until

    def write_carefully(self) -> None:
        """Write a batch, and put aside what somebody has locked."""
        self.successes()
        self.finish(*self.write_successes())

    def write_successes(self) -> tuple[set[int], frozenset[int]]:
        successes = {f.lease.id: f for f in self.batch if is_success(f)}
        return self.write_free(successes, lambda free: self.store.complete([success_of(f) for f in free]), row_for)

    def put_aside(self, locked: list[Finished]) -> None:
        """Keep outcomes for later whose rows somebody has locked: they hold up no other."""
        if locked:
            log.warning("rows locked by others", extra={"jobs": [f.lease.id for f in locked[:10]]})
            now = time.monotonic()
            self.locked_until, self.careful_until = now + LOCKED_SECONDS, now + CAREFUL_SECONDS
            self.locked.extend(locked)

    def try_locked(self, now: float) -> None:
        """Write the outcomes whose rows were locked, now and then."""
        if not self.locked or now < self.locked_until:
            return
        self.unwritten[:0] = self.locked
        self.locked = []
        self.batch = self.next_batch()
        self.finish(*self.write_successes())

    def settle_all(self) -> None:
        """Write all outcomes there are, without claiming anything."""
        while self.waiting:
            if self.is_careful():
                self.write_carefully()
                continue
            try:
                accepted = self.store.complete(self.successes())
            except Exception as error:
                if not self.finish_otherwise(error):
                    raise
            else:
                self.finish(accepted)
        self.try_locked(time.monotonic())
        self.count()

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

    def write_others(self, rows: dict[int, Settlement]) -> tuple[set[int], frozenset[int]]:
        """Write what are no successes; return the jobs whose lease held, and those that somebody has locked."""
        if not self.is_careful():
            try:
                with self.store.atomic():
                    self.store.limit_lock_waits()
                    return self.store.settle(list(rows.values())), frozenset()
            except Exception as error:
                if not is_locked(error) and not is_refusal(error):
                    raise
        return self.write_free(rows, self.store.settle, itself)

    def write_free(
        self, rows: dict[int, T], write: Callable[[list[T]], set[int]], row_of: Callable[[T], Settlement]
    ) -> tuple[set[int], frozenset[int]]:
        """Write what belongs to rows that nobody has locked; what is refused does not hold up its neighbours."""
        if not rows:
            return set(), frozenset()
        try:
            with self.store.atomic():
                self.store.limit_lock_waits()
                free = self.store.unlocked(list(rows))
                # A row that is gone is not locked: its lease is lost.
                there = free if len(free) == len(rows) else self.store.existing(list(rows))
                return write([given for job_id, given in rows.items() if job_id in free]), frozenset(there - free)
        except Exception as error:
            if is_locked(error):  # of what they have in common: an error group
                return set(), frozenset(rows)
            if not is_refusal(error):
                raise
            log.exception("batch of outcomes refused")
        accepted: set[int] = set()
        locked: set[int] = set()
        for job_id, given in rows.items():
            if len(locked) >= MOST_WAITS:
                locked.add(job_id)
                continue
            try:
                if self.settle_alone(row_of(given)):
                    accepted.add(job_id)
            except Exception as error:
                if not is_locked(error):
                    raise
                locked.add(job_id)
        return accepted, frozenset(locked)

    def settle_alone(self, row: Settlement) -> bool:
        """Settle one outcome; one that the database refuses to store becomes a dead letter that says so."""
        try:
            return self.settle_one(row)
        except Exception as error:
            if not is_refusal(error):
                raise
            report = ErrorReport.of(error)
            refused = Failed(report, reason=Reason.PERMANENT_ERROR)
            return self.settle_one(settlement(row.lease, refused, row.started_at, row.lease.claimed_at))

    def settle_one(self, row: Settlement) -> bool:
        with self.store.atomic():
            self.store.limit_lock_waits()
            return bool(self.store.settle([row]))

    def close(self, batch: list[Finished], others: dict[int, Settlement], accepted: set[int]) -> None:
        """Note what became of outcomes that are in the database or refused."""
        written, lost = batch, []
        if len(accepted) < len(written):
            lost = [f.lease for f in batch if f.lease.id not in accepted and not self.was_written(f, others, accepted)]
            written = [finished for finished in batch if finished.lease.id in accepted]
        for finished in batch:
            self.held.pop(finished.lease.key, None)
            if self.desk.lost:
                self.desk.lost.discard(finished.lease.key)
        self.freed |= keys_of(f.lease for f in written if f.lease.id not in others or frees(others[f.lease.id]))
        self.released += sum(1 for f in written if type(f.outcome) is Released and f.started is None)
        self.uncounted.append(Written(written, others, lost))
        self.breakers.observe(written, lost)

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

    def count(self) -> None:
        """Tell listeners, metrics and the pace what has been written since the last call."""
        while self.uncounted:
            batch = self.uncounted.pop(0)
            if batch.others or batch.lost or self.announcer.hears_successes():
                told = [(batch.others.get(f.lease.id) or row_for(f), f.outcome) for f in batch.written]
                self.announcer.put(told, batch.lost)
            runs, waits = batch.runs_and_waits()
            self.pace.observe(sum(map(sum, runs.values())), sum(map(len, runs.values())))
            self.tally.add(batch.events(), runs, waits)


class Written(NamedTuple):
    """A batch that is in the database; `others` are the rows of those that are no successes."""

    written: Sequence[Finished]
    others: dict[int, Settlement]
    lost: Sequence[Lease]

    def events(self) -> Counter[tuple[str, str, str]]:
        successes = self.written
        events: Counter[tuple[str, str, str]] = Counter()
        if self.others:
            successes = [f for f in successes if f.lease.id not in self.others]
            for finished in self.written:
                for event in events_of(finished.outcome, self.others.get(finished.lease.id)):
                    events[event, finished.lease.task_path, finished.lease.queue_name] += 1
        events.update(("succeeded", f.lease.task_path, f.lease.queue_name) for f in successes)
        events.update(("lease_lost", lease.task_path, lease.queue_name) for lease in self.lost)
        return events

    def runs_and_waits(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Return by task how long attempts ran, and how long their jobs had been ready before. Units: seconds."""
        runs: defaultdict[str, list[float]] = defaultdict(list)
        waits: defaultdict[str, list[float]] = defaultdict(list)
        for lease, _, started, finished, _ in self.written:
            if started is not None:
                runs[lease.task_path].append(finished - started)
                ready = (lease.claimed_at - lease.ready_at).total_seconds()
                waits[lease.task_path].append(ready + started - lease.claimed_monotonic)
        return runs, waits


def frees(row: Settlement) -> bool:
    return row.state != State.READY


def is_success(finished: Finished) -> bool:
    return type(finished.outcome) is Succeeded and not finished.settled


def itself(row: Settlement) -> Settlement:
    return row


def success_of(finished: Finished) -> Success:
    lease, claimed = finished.lease, finished.lease.claimed_monotonic
    started = finished.finished if finished.started is None else finished.started
    return Success(lease, finished.outcome.value, started - claimed, finished.finished - claimed)  # type: ignore[union-attr]


def row_for(finished: Finished) -> Settlement:
    lease = finished.lease
    started_at = None if finished.started is None else lease.database_time(finished.started)
    return settlement(lease, finished.outcome, started_at, lease.database_time(finished.finished))


def events_of(outcome: Outcome, row: Settlement | None) -> Sequence[str]:
    """Return what the metrics count an outcome as that is no success."""
    if row is None:
        return ()
    events = [type(outcome).__name__.lower()] if not row.death or row.attempt else []
    if row.death:
        return [*events, "dead"]
    return [*events, "retried"] if isinstance(outcome, Failed) else events
