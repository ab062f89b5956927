"""Slots of concurrency keys: who waits for one is let in when one is free, and nobody has to look for it meanwhile."""

import logging
from collections.abc import Collection, Iterable

from django.db import transaction
from django.db.utils import OperationalError

from .leases import Lease
from .outcomes import Settlement
from .states import State
from .storage import is_locked, storage
from .wake import wake

log = logging.getLogger("jobs")

MOST_AT_ONCE = 500  # keys in one transaction: each is locked until it ends


def let_in(keys: Collection[str]) -> None:
    """Hand free slots of these keys to who waits for them, and wake workers. Transaction: joins the caller's.

    What a process that dies leaves undone, or finds locked by one that stands still, housekeeping does at a later beat.
    """
    store = storage()
    ordered = sorted(keys)
    for start in range(0, len(ordered), MOST_AT_ONCE):
        try:
            queues = store.unblock(ordered[start : start + MOST_AT_ONCE])
        except OperationalError as error:
            if not is_locked(error):
                raise
            log.info("concurrency keys locked by others", extra={"keys": ordered[start : start + 3]})
            continue
        for queue_name in queues:
            wake(queue_name)


def let_in_after_commit(keys: Iterable[str]) -> None:
    """Let in whom the caller's transaction adds or makes room for, once it has committed.

    Not before: as long as it goes on, no worker could hand on a slot of these keys. A failure is logged: housekeeping
    lets them in then.
    """
    wanted = set(keys) - {""}

    # A function and no partial: see `wake`.
    def after_commit() -> None:
        let_in(wanted)

    if wanted:
        transaction.on_commit(after_commit, using=storage().alias, robust=True)


def freed_by(settlements: Iterable[Settlement]) -> set[str]:
    """Return the keys of which these outcomes have freed a slot: a job that is to run again at once keeps its own."""
    return keys_of(s.lease for s in settlements if s.state != State.READY)


def keys_of(leases: Iterable[Lease]) -> set[str]:
    return {lease.concurrency_key for lease in leases} - {""}
