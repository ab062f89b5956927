"""The life of one attempt, from a lease to an outcome. It writes nothing, unless the task is transactional."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Token
from functools import partial
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from .. import annotations, payload, registry
from ..compat import is_heard, task_started
from ..conf import Options
from ..exceptions import CancelRequested, Interruption, InvalidPayload, LeaseLost, PermanentError
from ..idempotency import Guard
from ..leases import Lease
from ..outcomes import Buried, Cancelled, ErrorReport, Outcome, Succeeded, loggable
from ..registry import Callee
from ..runs import Gate, JobContext, Run, ThreadGate, current_run
from ..states import Reason, State
from ..storage import storage
from ..verdicts import expiry, hold, judge, settlement
from .announcer import announce_start, result_of_lease
from .connections import distrust, tidy

log = logging.getLogger("jobs")


REFRESH_SECONDS = 0.5
NOTHING_RETURNED = Succeeded()


class Finished(NamedTuple):
    """An attempt that is over. Units: monotonic seconds; `started` None when it never ran.

    `settled` when its outcome committed together with the task's own writes.
    """

    lease: Lease
    outcome: Outcome
    started: float | None
    finished: float
    settled: bool = False


class Call(NamedTuple):
    """A payload that fits its task."""

    callee: Callee
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def task(self) -> Any:
        return self.callee.task


class Committed(NamedTuple):
    """A transactional task's outcome: it is in the database already."""

    outcome: Outcome


def prepared(lease: Lease, options: Options) -> Call | Outcome:
    """Return the call that a lease asks for, or the outcome of not being able to make it."""
    if lease.cancel_requested:
        return Cancelled(ErrorReport(message="cancelled before it started"))
    callee = registry.callee(lease.task_path)
    if callee is None:
        return hold(lease, options, f"no task at {lease.task_path}")
    if lease.schema_version > callee.schema_version:
        return hold(lease, options, f"schema version {lease.schema_version} is newer than the code's")
    if lease.expires_at and lease.is_first_start and lease.database_time(time.monotonic()) >= lease.expires_at:
        return expiry(lease)
    args = [] if lease.args == "[]" else payload.decoded(lease.args)
    kwargs = {} if lease.kwargs == "{}" else payload.decoded(lease.kwargs)
    try:
        if callee.upgrades and lease.schema_version < callee.schema_version:
            name, upgrades = callee.task.name, callee.upgrades
            args, kwargs = [], payload.upgraded(name, upgrades, lease.schema_version, args, kwargs)
        if not callee.fits(args, kwargs):
            payload.bound(callee.function, callee.takes_context, args, kwargs)
        if (callee.annotations or options.annotations) == "convert":
            args, kwargs = annotations.loaded(callee.task, "convert", args, kwargs)
    except InvalidPayload as error:
        return Buried(Reason.INVALID_PAYLOAD, ErrorReport.of(error))
    except ImproperlyConfigured as error:  # the code's fault, not the payload's
        return hold(lease, options, str(error))
    return Call(callee, args, kwargs)


class Runner:
    """Runs attempts. Threads: shared by all executors; `running` holds what they run right now."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.running: dict[tuple[int, int], Run] = {}

    def run(self, lease: Lease, watch: Callable[[Run], None] | None = None) -> Finished:
        """Run one attempt in the calling thread. `watch` learns of the run before the task begins."""
        call = prepared(lease, self.options)
        if not isinstance(call, Call):
            return Finished(lease, call, None, time.monotonic())
        run = Run(lease, ThreadGate(shut=True), timeout_seconds(lease, call.callee))
        token = self.begin(run, watch)
        try:
            started = time.monotonic()
            result = self.attempt(run, call)
            finished = time.monotonic()
        finally:
            self.end(run, token)
        if isinstance(result, Committed):
            return Finished(lease, result.outcome, started, finished, settled=True)
        return Finished(lease, result, started, finished)

    def begin(self, run: Run, watch: Callable[[Run], None] | None) -> Token[Run | None]:
        """Show a run to those who may interrupt it; its gate is shut until the task begins."""
        token = current_run.set(run)
        self.running[run.key] = run
        if watch:
            watch(run)
        return token

    def end(self, run: Run, token: Token[Run | None]) -> None:
        self.running.pop(run.key, None)
        current_run.reset(token)

    def attempt(self, run: Run, call: Call) -> Outcome | Committed:
        value: Any = None
        error: BaseException | None = None
        try:
            try:
                run.gate.open()
                value = self.called(run, call)
            except BaseException as raised:
                error = raised
            run.gate.close()
        except Interruption as late:
            # It arrived after the task had ended, in these very lines. There is only one, so this close is quiet.
            run.gate.close()
            if value is None and error is None:
                error = late
        return self.outcome(run, call, value, error)

    def called(self, run: Run, call: Call) -> Any:
        # Here, because a receiver may be interrupted as the task may: by a timeout, say.
        if is_heard(task_started, logging.INFO):
            announce_start(run.lease)
        arguments = self.arguments(run, call) if call.callee.takes_context else call.args
        if not (run.lease.idempotency_key or call.callee.transactional):
            return call.callee.function(*arguments, **call.kwargs)
        function: Callable[[], Any] = partial(call.callee.function, *arguments, **call.kwargs)
        if run.lease.idempotency_key:
            function = partial(self.guard(run, call).run, function)
        return self.committed(run, call, function) if call.callee.transactional else function()

    def arguments(self, run: Run, call: Call) -> list[Any]:
        return [JobContext(result_of_lease(run.lease, State.RUNNING), run), *call.args]

    def guard(self, run: Run, call: Call) -> Guard:
        policy = "retry" if call.callee.transactional else getattr(call.task, "on_uncertain", "retry")
        key = f"{run.lease.task_path}|{run.lease.idempotency_key}"
        return Guard(key, self.options.idempotency_ttl, policy)

    def outcome(self, run: Run, call: Call, value: Any, error: BaseException | None) -> Outcome | Committed:
        if isinstance(value, Committed):
            if error is not None:
                log.error("on_commit hook raised", exc_info=loggable(error), extra=run.lease.log_fields())
            return value
        if error is None:
            try:
                return (
                    NOTHING_RETURNED
                    if value is None
                    else Succeeded(payload.encoded_value(value, call.task.name, self.options.max_payload))
                )
            except InvalidPayload as refused:
                # The work is done; running it again would not make its value fit.
                error = PermanentError(str(refused))
        return self.judged(run, call, error)

    def judged(self, run: Run, call: Call, error: BaseException) -> Outcome:
        asked_for = run.gate.error
        if asked_for is not None and isinstance(error, type(asked_for)):
            asked_for.__traceback__ = error.__traceback__
            error = asked_for
        return judge(run.lease, call.task, self.options, error, run.cancel_requested)

    def committed(self, run: Run, call: Call, function: Callable[[], Any]) -> Any:
        """Run a transactional task: its writes and its success commit together, or neither does."""
        store, lease = storage(), run.lease
        commit = Commit()
        started = time.monotonic()
        try:
            with store.atomic():
                # First in line: it runs as soon as the commit is through, before any hook of the task can raise.
                transaction.on_commit(commit.went_through, using=store.alias)
                value = function()
                text = payload.encoded_value(value, call.task.name, self.options.max_payload)
                run.gate.close()
                commit.outcome = Succeeded(text)
                times = lease.database_time(started), lease.database_time(time.monotonic())
                if not store.settle([settlement(lease, commit.outcome, *times)]):
                    raise LeaseLost("the lease was lost before the transaction could commit; it was rolled back")
        except InvalidPayload as error:
            raise PermanentError(str(error)) from error
        except Exception as error:
            if not commit.done:
                raise
            log.error("on_commit hook raised", exc_info=loggable(error), extra=lease.log_fields())
        if not commit.done and not store.connection.in_atomic_block:
            raise transaction.TransactionManagementError("the task marked its transaction for rollback")
        return Committed(commit.outcome)


class Commit:
    """Whether a transaction went through: only its own first hook can tell a failed commit from a failed hook."""

    def __init__(self) -> None:
        self.done = False
        self.outcome: Outcome = Succeeded()

    def went_through(self) -> None:
        self.done = True


def is_async(lease: Lease) -> bool:
    callee = registry.callee(lease.task_path)
    return callee is not None and callee.is_async


def timeout_seconds(lease: Lease, callee: Callee) -> float | None:
    return callee.timeout_seconds if lease.timeout is None else lease.timeout.total_seconds()


class AsyncRunner(Runner):
    """Runs attempts of coroutine tasks, all in one event loop."""

    refreshed_at = float("inf")  # a worker sets it; in a test's process connections are left alone

    async def arun(self, lease: Lease, watch: Callable[[Run], None] | None = None) -> Finished:
        call = prepared(lease, self.options)
        if not isinstance(call, Call):
            return Finished(lease, call, None, time.monotonic())
        task = asyncio.current_task()
        gate = TaskGate(task.get_loop(), task)  # type: ignore[union-attr]
        run = Run(lease, gate, timeout_seconds(lease, call.callee), gate.cancel_on_request)
        token = self.begin(run, watch)
        try:
            started = time.monotonic()
            value: Any = None
            error: BaseException | None = None
            try:
                gate.open()
                if time.monotonic() - self.refreshed_at > REFRESH_SECONDS:
                    await self.refresh_connections()
                if is_heard(task_started, logging.INFO):
                    # Not in the loop's own thread: receivers may use the database, or be coroutines themselves.
                    await sync_to_async(announce_start)(lease)
                arguments = self.arguments(run, call) if call.callee.takes_context else call.args
                if lease.idempotency_key:
                    function = partial(call.callee.function, *arguments, **call.kwargs)
                    value = await self.guard(run, call).arun(function)
                else:
                    value = await call.callee.function(*arguments, **call.kwargs)
            except asyncio.CancelledError as cancelled:
                error = gate.error or cancelled
            except BaseException as raised:
                error = raised
            gate.close()
        finally:
            self.end(run, token)
        return Finished(lease, self.outcome(run, call, value, error), started, time.monotonic())  # type: ignore[arg-type]

    async def refresh_connections(self) -> None:
        """Tidy the one thread in which coroutines use the database, now and then: nobody else does."""
        self.refreshed_at = time.monotonic()
        await sync_to_async(refreshed)()


def refreshed() -> None:
    distrust()
    tidy()


class TaskGate(Gate):
    """Interrupts a coroutine by cancelling its asyncio task."""

    __slots__ = ("loop", "task")

    def __init__(self, loop: Any, task: Any) -> None:
        Gate.__init__(self, shut=True)
        self.loop, self.task = loop, task

    def cancel_on_request(self) -> None:
        self.interrupt(CancelRequested("cancelled on request"))

    def deliver(self, kind: type[Interruption]) -> None:
        self.loop.call_soon_threadsafe(self.cancel)

    def retract(self) -> None:
        """Nothing to do: `cancel` looks whether it is still wanted."""

    def cancel(self) -> None:
        with self.lock:
            if self.sent and not self.closed:
                self.task.cancel()
