"""The breakers of tasks, as one process sees them: it counts outcomes, pauses queues, tries them, and resumes them."""

import random
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial

from django.db.utils import OperationalError

from .. import lifecycle, registry
from ..breakers import Breaker, Count, has_failed
from ..conf import QueueLimits
from ..leases import Lease
from ..storage import Claim, Storage, is_locked
from .plan import Plan
from .runner import Finished

GROUPS = 1000  # of a queue, from one of which a job is tried


class Breakers:
    """Threads: the engine's alone."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        self.counts: dict[tuple[str, str], Count] = {}  # by task and queue
        self.probes: set[tuple[int, int]] = set()  # leases of jobs that are being tried
        self.due: dict[tuple[str, str], Callable[[], None]] = {}  # what is to be written of a task's queue
        self.tripped: dict[str, str] = {}  # queues that this process has paused just now, and for which task

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
                self.due[place] = partial(self.judge, *place, has_failed(finished.outcome))
            elif breaker:
                count = self.counts.setdefault(place, Count(breaker))
                if why := count.take(finished.outcome):
                    self.due[place] = partial(self.trip, *place, why, breaker.probe_length)

    def write(self) -> None:
        """Pause and resume queues as was found out; what somebody has locked is left for the next call."""
        for place, act in list(self.due.items()):
            try:
                with self.store.atomic():
                    self.store.limit_lock_waits()
                    act()
            except OperationalError as error:
                if not is_locked(error):
                    raise
            else:
                del self.due[place]

    def trip(self, task_path: str, queue_name: str, why: str, probe: timedelta) -> None:
        if lifecycle.trip(queue_name, task_path=task_path, reason=why, probe=probe):
            self.tripped[queue_name] = task_path

    def judge(self, task_path: str, queue_name: str, failed: bool | None) -> None:
        """Resume a queue after one of its jobs was tried; or not, or try another where the first one said nothing."""
        if failed is None:
            lifecycle.probe_soon(queue_name)
        elif not failed:
            self.counts.pop((task_path, queue_name), None)
            lifecycle.close_breaker(queue_name, task_path=task_path)

    def probe(self, plan: Plan, queue_name: str, limits: QueueLimits | None) -> list[Lease]:
        """Claim a job of a queue that a breaker has paused, if it is time to try one."""
        if not self.store.is_probe_due(queue_name):
            return []
        groups = self.store.ready_groups(queue_name, plan.solo, None, GROUPS)
        if not groups:
            return []
        slowed = limits if limits and limits.slows else None
        claim = Claim(queue_name, 1, plan.solo, groups=(random.choice(groups),), limits=slowed)
        leases = self.store.take_probe(plan.worker_id, claim, plan.lease)
        self.probes.update(lease.key for lease in leases)
        return leases


def breaker_of(task_path: str) -> Breaker | None:
    callee = registry.callee(task_path)
    return None if callee is None else callee.breaker
