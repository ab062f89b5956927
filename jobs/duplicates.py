"""Enqueue under a dedupe key: one job for a key, from its enqueue to its end; the task says what a second one means."""

from collections.abc import Sequence

from .exceptions import DuplicateJob
from .storage import Holder, Inserted, NewJob, storage

# Each try ends because a job that held the key has just ended; nobody is that unlucky ten times.
TRIES = 10


def add_unless_held(job: NewJob, on_duplicate: str) -> Inserted:
    """Insert a job, or return the one that holds its dedupe key, with "replace" after giving it this payload and time.

    Raises: DuplicateJob with "raise", or when a job of another task holds the key.
    """
    store = storage()
    for _ in range(TRIES):
        if inserted := store.insert_unless_held(job):
            return inserted
        if on_duplicate == "replace" and (replaced := store.replace(job)):
            return replaced
        if holder := store.holders([job.dedupe_key]).get(job.dedupe_key):
            return duplicate_of(holder, job, on_duplicate)
    raise DuplicateJob(job.dedupe_key, None, "by a job that this transaction cannot see")


def add_many_unless_held(
    template: NewJob, texts: Sequence[str], idempotency_keys: Sequence[str], keys: Sequence[str], on_duplicate: str
) -> list[Inserted]:
    """Do as `add_unless_held` does for each payload: of several with one key the first is added, the last replaces."""
    store = storage()

    def call(place: int) -> NewJob:
        key = idempotency_keys[place] if idempotency_keys else ""
        return template._replace(kwargs=texts[place], idempotency_key=key, dedupe_key=keys[place])

    found: dict[int, Inserted] = {}
    missing = list(range(len(texts)))
    for _ in range(TRIES):
        added = store.insert_many_unless_held(
            template,
            [texts[place] for place in missing],
            [keys[place] for place in missing],
            [idempotency_keys[place] for place in missing if idempotency_keys],
        )
        found |= {place: row for place, row in zip(missing, added, strict=True) if row}
        # By key, so that two producers that wait for each other's rows get through.
        missing = sorted((place for place in missing if place not in found), key=keys.__getitem__)
        if on_duplicate == "replace":
            found |= {place: replaced for place in missing if (replaced := store.replace(call(place)))}
            missing = [place for place in missing if place not in found]
        holders = store.holders({keys[place] for place in missing})
        for place in sorted(missing):
            if holder := holders.get(keys[place]):
                found[place] = duplicate_of(holder, call(place), on_duplicate)
        missing = [place for place in sorted(missing) if place not in found]
        if not missing:
            return [found[place] for place in range(len(texts))]
    raise DuplicateJob(keys[missing[0]], None, "by a job that this transaction cannot see")


def duplicate_of(holder: Holder, job: NewJob, on_duplicate: str) -> Inserted:
    if holder.task_path != job.task_path:
        raise DuplicateJob(job.dedupe_key, holder.id, f"by job {holder.id} of another task, {holder.task_path}")
    if on_duplicate == "raise":
        raise DuplicateJob(job.dedupe_key, holder.id, f"by job {holder.id}, which is {holder.state}")
    return Inserted(holder.id, holder.state, holder.enqueued_at, holder.run_after, is_duplicate=True)
