"""`once`: an effect that happens once however often its job is delivered. The unique key decides who causes it."""

import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from . import conf, payload
from .exceptions import Interruption, InvalidPayload, LeaseLost, Snooze, Uncertain
from .models import IdempotencyRecord
from .runs import current_run
from .states import RecordState
from .storage import UNAVAILABLE, storage

log = logging.getLogger("jobs")

# An owner outside of any job has no lease that would show whether it is alive.
FREE_OWNER_LIVES = timedelta(minutes=5)
COME_BACK_SECONDS = 5.0
WRITE_TRIES = 5
MAX_KEY = 512

keys_in_progress: ContextVar[frozenset[str]] = ContextVar("jobs_once_keys", default=frozenset())


def once(
    key: str, work: Callable[[], Any], *, ttl: timedelta | float | None = None, on_uncertain: str = "retry"
) -> Any:
    """Run `work` unless a record says it was done, and return its result, saved as JSON, from then on.

    A `work` that raises leaves no record, so that a retry works; one that raises `Uncertain`, or is interrupted
    half-way, leaves the record in doubt: `on_uncertain="retry"` lets the next run take it over, `"dead"` sends the job
    to the dead-letter queue for a person.

    Units: `ttl` a timedelta or seconds; None keeps the record for ever.
    Raises: Snooze while a live owner elsewhere is at it; Uncertain; ImproperlyConfigured for wrong arguments.
    Transaction: inside `transaction.atomic()` of the jobs database the record commits or rolls back with the block;
    outside, the record is committed before the effect and again after it.
    """
    return Guard(key, ttl, on_uncertain).run(work)


class Saved:
    """The result of an effect that has happened already."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Guard:
    """One call of `once`: who we are, which record, and what to do when nobody knows."""

    def __init__(self, key: str, ttl: timedelta | float | None, on_uncertain: str) -> None:
        check_arguments(key, on_uncertain)
        self.key = key
        self.ttl = length_of(ttl)
        self.on_uncertain = on_uncertain
        self.running = current_run.get()
        self.owner = self.running.owner if self.running else f"free:{uuid.uuid4().hex}"
        self.store = storage()

    @property
    def records(self) -> Any:
        return self.store.rows(IdempotencyRecord)

    def run(self, work: Callable[[], Any]) -> Any:
        with Nesting(self.key):
            if joins_a_transaction(self.store.connection):
                return self.run_in_block(work)
            try:
                saved = self.begin()
            except Interruption:
                self.try_to_forget()  # only what is ours and unfinished: nothing has begun
                raise
            if saved:
                return saved.value
            try:
                value = work()
            except BaseException as error:
                if (raised := self.failed(error)) is error:
                    raise
                raise raised from error
            return self.finish(value)

    async def arun(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do as `run` does, for a coroutine."""
        with Nesting(self.key):
            try:
                saved = await sync_to_async(self.begin)()
            except Interruption:
                await sync_to_async(self.try_to_forget)()
                raise
            if saved:
                return saved.value
            try:
                value = await work()
            except BaseException as error:
                if (raised := await sync_to_async(self.failed)(error)) is error:
                    raise
                raise raised from error
            return await sync_to_async(self.finish)(value)

    def run_in_block(self, work: Callable[[], Any]) -> Any:
        if self.on_uncertain != "retry":
            raise ImproperlyConfigured(
                f"once({self.key!r}) stands inside transaction.atomic(): the record commits or rolls back with that "
                f"block, so nothing can be uncertain and on_uncertain={self.on_uncertain!r} has no meaning there"
            )
        with self.store.atomic():
            if saved := self.claim():
                return saved.value
            try:
                value = work()
            except Uncertain as error:
                raise ImproperlyConfigured(
                    f"the work of once({self.key!r}) raised Uncertain inside transaction.atomic(): the block rolls "
                    "back and the record with it; call once outside of the block"
                ) from error
            return self.write_done(value)

    def begin(self) -> Saved | None:
        """Commit the record as `processing`, or return the saved result."""
        with self.shielded():
            try:
                with self.store.atomic():
                    if self.running and not self.store.is_held(self.running.lease.id, self.running.lease.token):
                        raise LeaseLost(f"the lease was lost before the effect of {self.key!r} began")
                    return self.claim()
            except UNAVAILABLE:
                # The commit may have gone through without its reply: nothing has happened yet, so it may go.
                self.try_to_forget()
                raise

    def claim(self) -> Saved | None:
        """Make the record ours, or return its result. Transaction: joins the caller's. Raises: Snooze, Uncertain."""
        moment = self.store.now()
        ours = self.ours(moment)
        record, created = self.records.get_or_create(key=self.key, defaults=ours | {"created_at": moment})
        if created:
            return None
        record = self.records.select_for_update().filter(pk=record.pk).first()
        if record is None:  # its owner has just failed and taken it away
            raise Snooze(0.1, f"the record {self.key!r} was being given up")
        if record.state == RecordState.DONE:
            if record.expires_at is None or record.expires_at > moment:
                return Saved(record.result)
        elif record.owner != self.owner and self.is_alive(record, moment):
            raise Snooze(COME_BACK_SECONDS, f"the effect {self.key!r} is under way elsewhere")
        elif self.on_uncertain == "dead":
            raise self.doubt(Uncertain(f"the worker that began {self.key!r} is gone; its effect may have happened"))
        self.records.filter(pk=record.pk, owner=record.owner).update(**ours)
        return None

    def ours(self, moment: Any) -> dict[str, Any]:
        return {
            "state": RecordState.PROCESSING,
            "owner": self.owner,
            "result": None,
            "job_id": self.running.lease.id if self.running else None,
            "locked_until": None if self.running else moment + FREE_OWNER_LIVES,
            "expires_at": None,
        }

    def is_alive(self, record: IdempotencyRecord, moment: Any) -> bool:
        return is_alive(record, moment)

    def failed(self, error: BaseException) -> BaseException:
        """Leave the record as the failure of the work demands and return what to raise."""
        if isinstance(error, Uncertain):
            return self.doubt(error)
        if isinstance(error, Exception):
            self.try_to_forget()
            return error
        if self.on_uncertain == "dead":
            return self.doubt(Uncertain(f"the effect of {self.key!r} was interrupted: {type(error).__name__}"))
        return error

    def doubt(self, error: Uncertain) -> Uncertain:
        error.key = self.key
        error.retryable = self.on_uncertain == "retry"
        return error

    def try_to_forget(self) -> None:
        """Remove our unfinished record. Should that fail, the record stays in doubt, which is safe."""
        with self.shielded():
            try:
                again(self, lambda: self.records.filter(key=self.key, owner=self.owner).delete())
            except UNAVAILABLE:
                log.exception("idempotency record not removed", extra={"key": self.key, "owner": self.owner})

    def finish(self, value: Any) -> Any:
        """Commit the record as `done`. The effect has happened: whatever goes wrong here leaves it in doubt."""
        with self.shielded():
            try:
                return again(self, lambda: self.write_done(value))
            except UNAVAILABLE as error:
                doubt = Uncertain(f"the effect of {self.key!r} happened, but its record could not be written")
                raise self.doubt(doubt) from error

    def write_done(self, value: Any) -> Any:
        try:
            text = payload.encoded_value(value, f"once({self.key!r})", 1 << 20)
        except InvalidPayload:
            # It happened all the same: a retry must not repeat it for want of a result.
            self.update_done(None)
            raise
        self.update_done(None if text is None else json.loads(text))
        # Who did the work goes on with all of it; the record, and whoever reads it later, has no secrets.
        return None if text is None else json.loads(payload.encode(value, self.key))

    def update_done(self, saved: Any) -> None:
        expires_at = self.store.now() + self.ttl if self.ttl else None
        done = {"state": RecordState.DONE, "result": saved, "locked_until": None, "expires_at": expires_at}
        if not self.records.filter(key=self.key, owner=self.owner).update(**done):
            raise LeaseLost(f"the record {self.key!r} belongs to another owner now")

    def shielded(self) -> AbstractContextManager[None]:
        return self.running.gate if self.running else nullcontext()


def is_alive(record: IdempotencyRecord, moment: Any) -> bool:
    """Say whether the owner of a record may still be at work: a job's run as long as its lease."""
    kind, _, rest = record.owner.partition(":")
    if kind == "job":
        job_id, _, token = rest.partition(":")
        return storage().is_held(int(job_id), int(token))
    return record.locked_until is not None and record.locked_until > moment


class Nesting:
    """Refuses a `once` under its own key, which would wait for itself."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __enter__(self) -> None:
        inside = keys_in_progress.get()
        if self.key in inside:
            raise ImproperlyConfigured(f"once({self.key!r}) is nested under its own key")
        self.token = keys_in_progress.set(inside | {self.key})

    def __exit__(self, *_: object) -> None:
        keys_in_progress.reset(self.token)


def length_of(ttl: timedelta | float | None) -> timedelta | None:
    try:
        return conf.length_or_none(ttl)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"once: ttl {error}") from None


def check_arguments(key: str, on_uncertain: str) -> None:
    if not isinstance(key, str) or not key or len(key) > MAX_KEY or "\x00" in key:
        raise ImproperlyConfigured(f"once takes a key of 1 to {MAX_KEY} characters, not {str(key)[:80]!r}")
    if on_uncertain not in ("retry", "dead"):
        raise ImproperlyConfigured(f"once takes on_uncertain='retry' or 'dead', not {on_uncertain!r}")


def joins_a_transaction(connection: Any) -> bool:
    """Say whether what is written now commits only with an outer block; a test case's own block does not count."""
    if any(not block._from_testcase for block in connection.atomic_blocks):
        return True
    return not connection.in_atomic_block and not connection.get_autocommit()


def again(guard: Guard, write: Callable[[], Any]) -> Any:
    """Write until the database answers, a few times: a restart of the database is no reason for doubt."""
    for attempt in range(1, WRITE_TRIES + 1):
        try:
            return write()
        except UNAVAILABLE:
            connection = guard.store.connection
            if attempt == WRITE_TRIES or connection.in_atomic_block:
                raise
            connection.close()
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")
