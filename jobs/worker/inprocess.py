"""Claim, run and settle in the calling thread, on its own connection: the worker without processes or threads."""

import uuid
from collections.abc import Iterable

from ..concurrency import freed_by, let_in
from ..conf import Options
from ..leases import Lease
from ..storage import Claim, storage
from ..verdicts import settlement
from .announcer import announce, announce_lost
from .breakers import Breakers
from .runner import AsyncRunner, Finished, is_async

LOOKED_AT = 1000  # groups of a queue; and concurrency keys, as inside a test case nothing happens after a commit


def drain(
    options: Options, breakers: Breakers, *, queues: Iterable[str] | None = None, max_jobs: int | None = None
) -> int:
    """Run ready jobs until there are none, and return how many were claimed and settled."""
    store = storage()
    worker_id = f"inprocess-{uuid.uuid4().hex[:12]}"
    wanted = None if queues is None else set(queues)
    total = 0
    while True:
        let_in(store.blocked_keys("", LOOKED_AT))
        ready = [q for q in store.ready_queues() if not q.paused and (wanted is None or q.name in wanted)]
        claimed = 0
        for found in ready:
            for suspects in (False, True):
                for group in store.ready_groups(found.name, suspects, None, LOOKED_AT):
                    if max_jobs is not None and total >= max_jobs:
                        return total
                    claim = Claim(found.name, 1, suspects, groups=(group,), ageing=options.priority_ageing)
                    for lease in store.take(worker_id, claim, options.lease):
                        settle(run_here(lease, options), breakers)
                        claimed += 1
                        total += 1
        if not claimed:
            return total


def run_here(lease: Lease, options: Options) -> Finished:
    from asgiref.sync import async_to_sync

    runner = AsyncRunner(options)
    if is_async(lease):
        return async_to_sync(runner.arun)(lease)
    return runner.run(lease)


def settle(finished: Finished, breakers: Breakers) -> None:
    lease = finished.lease
    started = None if finished.started is None else lease.database_time(finished.started)
    row = settlement(lease, finished.outcome, started, lease.database_time(finished.finished))
    if finished.settled or storage().settle([row]):
        let_in(freed_by([row]))
        announce(row, finished.outcome)
        breakers.observe([finished])
        breakers.write()
    else:
        announce_lost(lease)
