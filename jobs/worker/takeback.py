"""What becomes of the leases of a process that is dead, by what it died of."""

import logging
import time
from collections.abc import Callable
from functools import partial

from .. import lifecycle
from ..conf import Options
from ..leases import Remains
from ..outcomes import Settlement
from .child import Child
from .housekeeping import Housekeeping
from .plan import EXIT_DONE, EXIT_GRACE_OVER

log = logging.getLogger("jobs")


def taking_back(child: Child, code: int, remains: Remains, options: Options) -> Callable[[], list[Settlement]]:
    """Return how what a process held is taken back, by what it died of."""
    worker_id = child.worker_id
    if child.stuck:
        stuck = child.stuck & remains.running.keys()
        return partial(lifecycle.take_back_stuck, worker_id, remains, stuck, options)
    if child.frozen:
        return partial(lifecycle.take_back_frozen, worker_id, remains)
    if child.killed or (child.said_goodbye and code in (EXIT_DONE, EXIT_GRACE_OVER)):
        why = "its worker was stopped while it ran"
        if remains.running:
            log.warning("runs cut off", extra={"worker_id": worker_id, "jobs": sorted(remains.running)})
        return partial(lifecycle.take_back_stopped, worker_id, remains, why)
    log.error("process died", extra={"worker_id": worker_id, "exit_code": code, "running": sorted(remains.running)})
    return partial(lifecycle.take_back_lost, worker_id, remains)


def leaves_suspects(child: Child) -> bool:
    """Say whether what a dead process was running may have killed it: not where its supervisor, or a deploy, did."""
    return bool(child.frozen) or not (child.killed or child.said_goodbye)


class Takeback:
    """A chore: take back until nothing is left, because a dying connection may still hold row locks for a moment."""

    longest_seconds = 60.0

    def __init__(self, housekeeping: Housekeeping, worker_id: str, act: Callable[[], list[Settlement]]) -> None:
        self.housekeeping, self.worker_id, self.act = housekeeping, worker_id, act
        self.began_at = time.monotonic()
        self.done: list[Settlement] = []

    def __call__(self) -> list[Settlement]:
        while True:
            self.housekeeping.patience.again()
            self.done.extend(self.act())
            left = self.housekeeping.store.jobs.running().filter(leased_by=self.worker_id).exists()
            if not left or time.monotonic() - self.began_at > self.longest_seconds:
                # Not before: a drain ends when nothing of this tree's runs any more.
                self.housekeeping.absent(self.worker_id)
                return self.done
            time.sleep(0.1)
