"""The breakers of tasks, as one process sees them: it counts outcomes, pauses queues, tries them, and resumes them."""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial

from django.db.utils import OperationalError

from .. import lifecycle, registry
from ..breakers import Breaker, Count, has_failed
from ..conf import QueueLimits
from ..leases import Lease
from ..storage import Claim, Storage, is_locked
from ..tally import Tally
from .plan import Plan
from .runner import Finished

LOCKED_SECONDS = 1.0  # until the row of a queue that somebody has locked is tried again


class Breakers:
    """Threads: the engine's alone."""

    def __init__(self, store: Storage, tally: Tally | None = None) -> None:
        self.store, self.tally = store, tally
        self.counts: dict[tuple[str, str], Count] = {}  # by task and queue
        self.probes: set[tuple[int, int]] = set()  # leases of jobs that are being tried
        self.due: dict[tuple[str, str], Callable[[], object]] = {}  # what is to be written of a task's queue
        self.locked_until = 0.0
        self.tripped: set[str] = set()  # queues that this process has paused just now

    def observe(self, written: Iterable[Finished], lost: Iterable[Lease] = ()) -> None:
        """Count outcomes that are in the database; no statement is sent before `write`."""
        self.probes.difference_update(lease.key for lease in lost)
        breakers = {path: breaker_of(path) for path in {finished.lease.task_path for finished in written}}
        if not self.probes and not any(breakers.values()):
            return
        for finished in written:
            lease = finished.lease
            place, breaker = (lease.task_path, lease.queue_name), breakers[lease.task_path]
            if lease.key in self.probes:
                self.probes.discard(lease.key)
                self.judge(place, has_failed(finished.outcome))
            elif breaker:
                count = self.counts.setdefault(place, Count(breaker))
                if why := count.take(finished.outcome):
                    self.due.setdefault(place, partial(self.trip, *place, why, breaker.probe_length))

    def judge(self, place: tuple[str, str], failed: bool | None) -> None:
        """Note what a job that was tried has shown; that it did well goes before all that is still to be written."""
        task_path, queue_name = place
        if failed is None:
            self.due.setdefault(place, partial(lifecycle.probe_soon, queue_name, task_path=task_path))
        elif failed:
            self.due.setdefault(place, partial(lifecycle.probe_later, queue_name, task_path=task_path))
        else:
            self.counts.pop(place, None)
            self.due[place] = partial(lifecycle.close_breaker, queue_name, task_path=task_path)

    def write(self) -> None:
        """Pause and resume queues as was found out; what somebody has locked is left for a later call."""
        if time.monotonic() < self.locked_until:
            return
        for place, act in list(self.due.items()):
            try:
                with self.store.atomic():
                    self.store.limit_lock_waits()
                    act()
            except OperationalError as error:
                if not is_locked(error):
                    raise
                self.locked_until = time.monotonic() + LOCKED_SECONDS
                return
            del self.due[place]

    def trip(self, task_path: str, queue_name: str, why: str, probe: timedelta) -> None:
        if lifecycle.trip(queue_name, task_path=task_path, reason=why, probe=probe):
            self.tripped.add(queue_name)
            if self.tally:
                self.tally.count("tripped", task_path, queue_name)

    def probe(self, plan: Plan, queue_name: str, limits: QueueLimits | None) -> list[Lease]:
        """Claim a job of a queue that a breaker has paused, if it is time to try one."""
        if not self.store.is_probe_due(queue_name):
            return []
        slowed = limits if limits and limits.slows else None
        probe = self.store.take_probe(plan.worker_id, Claim(queue_name, 1, limits=slowed), plan.lease)
        if probe.is_over:
            self.judge((probe.task_path, queue_name), failed=False)
        self.probes.update(lease.key for lease in probe.leases)
        return probe.leases


def breaker_of(task_path: str) -> Breaker | None:
    callee = registry.callee(task_path)
    return None if callee is None else callee.breaker
