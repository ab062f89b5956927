"""Enqueue under a dedupe key: one job for a key, from its enqueue to its end; the task says what a second one means."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from django.db.utils import OperationalError

from .concurrency import let_in_after_commit
from .exceptions import DuplicateJob
from .lifecycle import end_condemned
from .states import State
from .storage import Holder, Inserted, Keys, NewJob, is_deadlock, storage

# Each try ends because a job that held the key has just ended, or never was to run; nobody is that unlucky ten times.
TRIES = 10
UNSEEN = "by a job that this transaction cannot see"


def add_unless_held(job: NewJob, on_duplicate: str) -> Inserted:
    """Insert a job, or return the one that holds its dedupe key, with "replace" after giving it this payload and time.

    Raises: DuplicateJob with "raise", or when a job of another task holds the key; QueueIsBounded.
    """
    store, key = storage(), job.dedupe_key
    for _ in range(TRIES):
        if inserted := store.insert_unless_held(job):
            return inserted
        holder = store.holders([key]).get(key)
        if holder is None:
            continue
        if holder.is_condemned:
            end_condemned([key])
            continue
        if on_duplicate == "replace" and holder.task_path == job.task_path:
            if replaced := store.replace(job):
                let_in_after_commit({holder.concurrency_key} - {job.concurrency_key})
                return replaced
            if key not in store.holders([key]):  # it has just ended: this payload would be lost
                continue
        return duplicate_of(holder, job, on_duplicate)
    raise DuplicateJob(key, None, UNSEEN)


def held(keys: Sequence[str], on_duplicate: str) -> int:
    """Return how many jobs with these keys would make no more ready: somebody holds the key, or an earlier one of them.

    One that waits for its time is made ready where it is replaced.
    """
    wanted = set(keys)
    holders = storage().holders(wanted).values()
    return (
        len(keys)
        - len(wanted)
        + sum(on_duplicate != "replace" or holder.state != State.SCHEDULED for holder in holders)
    )


class Again(Exception):
    """A key was free again, or its holder never was to run: all have to be inserted once more, in their order."""

    def __init__(self, condemned: Collection[str] = ()) -> None:
        self.condemned = set(condemned)


def add_many_unless_held(
    template: NewJob, texts: Sequence[str], keys: Keys, on_duplicate: str, put_off: timedelta | None = None
) -> list[Inserted]:
    """Do as `add_unless_held` does for each payload: of several with one key the first is added, the last replaces.

    `put_off`: how much later they are to run, but for those that replace one that is ready: it has its place.

    Keys are taken in their order, so that two producers that wait for each other's rows get through; whoever has to
    begin again gives back what he has taken.
    Transaction: needs the caller's, in which each try is a savepoint.
    """
    condemned: set[str] = set()
    for _ in range(TRIES):
        try:
            with storage().atomic():
                end_condemned(condemned)
                return tried(template, texts, keys, on_duplicate, put_off)
        except Again as again:
            condemned |= again.condemned
        except OperationalError as error:
            if not is_deadlock(error):
                raise
    raise DuplicateJob(keys.dedupe[0], None, UNSEEN)


def tried(
    template: NewJob, texts: Sequence[str], keys: Keys, on_duplicate: str, put_off: timedelta | None
) -> list[Inserted]:
    """Raises: Again; DuplicateJob; QueueIsBounded."""
    store, locks = storage(), keys.dedupe
    later = template._replace(delay=put_off) if put_off else template
    found = dict(enumerate(store.insert_many_unless_held(later, texts, keys)))
    missing = sorted((place for place, row in found.items() if row is None), key=locks.__getitem__)
    holders = store.holders({locks[place] for place in missing})
    condemned = [key for key, holder in holders.items() if holder.is_condemned]
    if condemned or any(locks[place] not in holders for place in missing):
        raise Again(condemned)
    own = {row.id for row in found.values() if row is not None}
    last = {locks[place]: place for place in missing}
    replaced: dict[str, Inserted | None] = {}
    for place in missing:
        key = locks[place]
        job = keys.of(template if holders[key].state == State.READY else later, last[key])
        job = job._replace(kwargs=texts[last[key]])
        if on_duplicate == "replace" and key not in replaced:
            replaced[key] = store.replace(job)
            let_in_after_commit({holders[key].concurrency_key} - {job.concurrency_key})
            if replaced[key] is None and key not in store.holders([key]):
                raise Again
        if on_duplicate == "raise" and holders[key].id in own:
            raise DuplicateJob(key, None, "by an earlier one of these payloads")
        found[place] = replaced.get(key) or duplicate_of(holders[key], job, on_duplicate)
    return [row for _, row in sorted(found.items()) if row is not None]


def duplicate_of(holder: Holder, job: NewJob, on_duplicate: str) -> Inserted:
    if holder.task_path != job.task_path:
        raise DuplicateJob(job.dedupe_key, holder.id, f"by job {holder.id} of another task, {holder.task_path}")
    if on_duplicate == "raise":
        raise DuplicateJob(job.dedupe_key, holder.id, f"by job {holder.id}, which is {holder.state}")
    return Inserted(holder.id, holder.state, holder.enqueued_at, holder.run_after, is_duplicate=True)
