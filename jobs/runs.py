"""The attempt that is running right now: what a task may ask of it, and how the queue may interrupt it."""

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any

from .compat import TaskContext
from .exceptions import Interruption
from .leases import Lease
from .outcomes import storable
from .storage import storage

ASKED_AGAIN_SECONDS = 1.0


class Gate:
    """Lets at most one interruption into a run, and none while it writes what must not be cut in half.

    It starts shut when `shut`: until `open`, where the run expects to be interrupted.
    Threads: `interrupt` is called by any thread, everything else by the one that runs the job.
    """

    __slots__ = ("closed", "error", "lock", "sent", "shields")

    def __init__(self, shut: bool = False) -> None:
        self.lock = threading.Lock()
        self.error: Interruption | None = None
        self.sent = False
        self.shields = int(shut)
        self.closed = False

    def deliver(self, kind: type[Interruption]) -> None:
        """Raise it inside the run, soon."""
        raise NotImplementedError

    def retract(self) -> None:
        """Take back what was delivered and has not arrived; what cannot be taken back is ignored when it arrives."""
        raise NotImplementedError

    def interrupt(self, error: Interruption) -> bool:
        """Raise `error` inside the run, now or when its shield falls. False: it is over, or was interrupted before."""
        with self.lock:
            if self.closed or self.error:
                return False
            self.error = error
            if not self.shields:
                self.sent = True
                self.deliver(type(error))
        return True

    def close(self) -> None:
        """Let nothing in any more. What is on its way may still arrive inside this call: then call again."""
        with self.lock:
            self.closed = True
            if self.sent:
                self.sent = False
                self.retract()

    def open(self) -> None:
        """Let interruptions in. Raises: the one that has come meanwhile."""
        with self.lock:
            self.shields -= 1
            due = None if self.shields or self.closed else self.error
        if due is not None:
            raise due

    def __enter__(self) -> None:
        with self.lock:
            self.shields += 1
            if self.sent:
                self.sent = False
                self.retract()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.open()
        except Interruption:
            if error is None:
                raise


set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc


class ThreadGate(Gate):
    """Interrupts the thread that made it by an asynchronous exception.

    Source: `PyThreadState_SetAsyncExc`; it is raised at the next bytecode, so not inside a call into C.
    """

    __slots__ = ("thread_id",)

    def __init__(self, shut: bool = False) -> None:
        self.thread_id = threading.get_ident()
        Gate.__init__(self, shut)

    def deliver(self, kind: type[Interruption]) -> None:
        set_exception(ctypes.c_ulong(self.thread_id), ctypes.py_object(kind))

    def retract(self) -> None:
        set_exception(ctypes.c_ulong(self.thread_id), None)


def not_cancelled() -> None:
    """Threads are not cancelled: their tasks look for themselves."""


class Run:
    """One attempt in progress."""

    __slots__ = (
        "asked_at",
        "cancel",
        "cancel_requested",
        "deadline",
        "gate",
        "kept_since",
        "key",
        "lease",
        "lease_lost",
        "progress",
        "timeout_seconds",
    )

    def __init__(
        self, lease: Lease, gate: Gate, timeout_seconds: float | None = None, cancel: Callable[[], None] | None = None
    ) -> None:
        self.lease = lease
        self.key = lease.key
        self.gate = gate
        self.timeout_seconds = timeout_seconds
        self.asked_at = time.monotonic()
        self.deadline = None if timeout_seconds is None else self.asked_at + timeout_seconds
        self.kept_since = lease.claimed_monotonic  # when the lease was last known to be ours
        self.cancel = cancel or not_cancelled
        self.cancel_requested = lease.cancel_requested
        self.lease_lost = False
        self.progress: tuple[int | None, str] | None = None  # not written yet

    @property
    def owner(self) -> str:
        """The name under which this attempt owns idempotency records."""
        return f"job:{self.lease.id}:{self.lease.token}"

    def ask_for_cancel(self) -> bool:
        """Return whether somebody asked the task to stop. Asks the database at most once a second."""
        now = time.monotonic()
        if not self.cancel_requested and now - self.asked_at > ASKED_AGAIN_SECONDS and not in_event_loop():
            self.asked_at = now
            asked = storage().jobs.filter(pk=self.lease.id, cancel_requested=True)
            self.cancel_requested = asked.exists()
        return self.cancel_requested


current_run: ContextVar[Run | None] = ContextVar("jobs_current_run", default=None)


class JobContext(TaskContext):  # type: ignore[misc]
    """Django's task context, and what else a long task wants to know of its own attempt."""

    __slots__ = ("run",)
    run: Run

    def __init__(self, task_result: Any, run: Run) -> None:
        TaskContext.__init__(self, task_result=task_result)
        object.__setattr__(self, "run", run)

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.run.lease.attempt

    @property
    def job_id(self) -> str:
        return str(self.run.lease.id)

    @property
    def deadline(self) -> datetime | None:
        """When this attempt times out, by the database's clock; None without a timeout."""
        return None if self.run.deadline is None else self.run.lease.database_time(self.run.deadline)

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked for an end: a task that looks may raise `CancelJob`."""
        return self.run.ask_for_cancel()

    @property
    def lease_lost(self) -> bool:
        """Whether another worker may own the job now: nothing that this attempt writes will count."""
        return self.run.lease_lost

    def progress(self, percent: int | None, message: str = "") -> None:
        """Tell people how far the task is. Units: `percent` 0 to 100. Written about once a second."""
        if percent is not None and (isinstance(percent, bool) or not 0 <= percent <= 100):
            raise ValueError(f"progress takes a percentage from 0 to 100, not {percent!r}")
        self.run.progress = (None if percent is None else int(percent), storable(str(message))[:200])


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
