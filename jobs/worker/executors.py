"""Executors: threads that run jobs from the buffer, and one event loop that runs coroutines. Neither writes a row."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..leases import Lease
from ..outcomes import ErrorReport, Failed, Released, loggable
from ..runs import Run
from ..states import Reason
from .connections import discard_all, distrust, opened, tidy
from .runner import AsyncRunner, Finished
from .slots import Ring, Slots

log = logging.getLogger("jobs")

FLUSH_AT = 250  # outcomes waiting to be written
GRANT_SECONDS = 0.1  # what a rate limit has allowed starts within that, or not at all
RESTED_SECONDS = 0.1  # since a thread's last job began: its connections may have ended meanwhile


class Desk:
    """What executors and the engine share: outcomes to write, leases not to start, and the engine's bell."""

    def __init__(self, slots: Slots, runner: AsyncRunner, bell: threading.Event) -> None:
        self.slots = slots
        self.runner = runner
        self.bell = bell
        self.finished: deque[Finished] = deque()
        self.lost: set[tuple[int, int]] = set()  # leases found gone before they were started
        self.last_start = time.monotonic()
        self.is_kept: Callable[[Lease, float], bool] = always
        self.limited: set[str] = set()  # queues with limits
        self.start_by: dict[tuple[int, int], float] = {}  # when a lease that a rate has allowed must have begun
        self.freed: set[str] = set()  # those of which a job has ended

    def may_start(self, lease: Lease, now: float) -> bool:
        """Say whether a lease that has waited here is still ours, as far as this process can know."""
        self.last_start = now
        if self.start_by and now > self.start_by.pop(lease.key, now):
            return False
        return self.is_kept(lease, now) and not (self.lost and lease.key in self.lost)

    def expect(self, leases: Sequence[Lease], now: float) -> None:
        """Let these leases begin at once, or not at all: what a rate allows now it would allow to another later."""
        self.start_by = {key: by for key, by in self.start_by.items() if by > now}
        self.start_by |= {lease.key: now + GRANT_SECONDS for lease in leases}

    def hand_in(self, finished: Finished, dry: bool) -> None:
        """Take an outcome; wake the engine when enough have come together or there is nothing else to run."""
        self.finished.append(finished)
        if self.limited and (name := finished.lease.queue_name) in self.limited:
            self.freed.add(name)
            dry = True  # somebody may wait for its place
        if (dry or len(self.finished) >= FLUSH_AT) and not self.bell.is_set():
            self.bell.set()

    def broken(self, lease: Lease, error: BaseException) -> Finished:
        """Return the outcome of an attempt whose runner itself failed: a bug of ours must not lose the job."""
        log.critical("runner failed", exc_info=loggable(error), extra=lease.log_fields())
        report = ErrorReport.of(error)
        return Finished(lease, Failed(report, reason=Reason.PERMANENT_ERROR), None, time.monotonic())


def always(lease: Lease, now: float) -> bool:
    return True


class Threads:
    """`count` threads on one buffer. Those that find it empty park, and the engine calls as many as the work needs."""

    def __init__(self, desk: Desk, count: int) -> None:
        self.desk = desk
        self.count = count
        self.buffer: deque[Lease] = deque()
        # Rows of parked threads, the last to park the first to be called; each sleeps on a lock of its own.
        self.parked: dict[int, None] = {}
        self.calls = [threading.Lock() for _ in range(count)]
        self.threads = [
            threading.Thread(target=self.work, args=(row,), name=f"executor-{row}", daemon=True) for row in range(count)
        ]

    def start(self) -> None:
        for call, thread in zip(self.calls, self.threads, strict=True):
            call.acquire()
            thread.start()

    def put(self, leases: Sequence[Lease], crew: int, first: bool = False) -> None:
        """Add work for `crew` threads, before all that waits or behind it."""
        if first:
            self.buffer.extendleft(reversed(leases))
        else:
            self.buffer.extend(leases)
        self.call(crew)

    def call(self, crew: int) -> None:
        """Wake parked threads until `crew` are at work, or each waiting job has one."""
        wanted = min(len(self.buffer), crew - self.count + len(self.parked))
        for _ in range(wanted):
            try:
                row, _ = self.parked.popitem()
            except KeyError:  # it looked again by itself
                return
            self.calls[row].release()

    def park(self, row: int) -> None:
        """Sleep until called, unless work has come between the last look and now."""
        self.parked[row] = None
        # Whoever takes the row out of `parked` decides: this thread stays awake, or its call has been made.
        if self.buffer and self.parked.pop(row, row) is None:
            return
        self.calls[row].acquire()

    def has_waited(self, seconds: float) -> bool:
        return has_waited(self.buffer, seconds)

    def take_unstarted(self) -> list[Lease]:
        """Empty the buffer and return what was in it."""
        return emptied(self.buffer)

    def work(self, row: int) -> None:
        mark = Mark(self.desk.slots, row, self.desk.slots.ring(row))
        while True:
            try:
                lease = self.buffer.popleft()
            except IndexError:
                self.park(row)
                continue
            now = time.monotonic()
            if self.desk.may_start(lease, now):
                # A connection that served a job just now is as good as it will be at the next.
                if now - mark.began_at > RESTED_SECONDS:
                    distrust()
                mark.began_at = now
                finished = self.run(lease, mark)
            else:
                finished = not_started(lease)
            self.desk.hand_in(finished, dry=not self.buffer)

    def run(self, lease: Lease, mark: "Mark") -> Finished:
        try:
            finished = self.desk.runner.run(lease, mark)
        except BaseException as error:
            finished = self.desk.broken(lease, error)
        mark.clear()
        if opened.connections or opened.strays:
            tidy()
        return finished


def has_waited(leases: deque[Lease], seconds: float) -> bool:
    """Say whether one of them was claimed so long ago."""
    try:
        return time.monotonic() - leases[0].claimed_monotonic >= seconds
    except IndexError:
        return False


def emptied(leases: deque[Lease]) -> list[Lease]:
    """Take out what executors have not been quicker to take."""
    found = []
    while leases:
        try:
            found.append(leases.popleft())
        except IndexError:
            break
    return found


class Mark:
    """An executor's row in the slots: each run is marked there before its task begins, until it is over."""

    def __init__(self, slots: Slots, row: int, ring: Ring) -> None:
        self.slots, self.row, self.ring = slots, row, ring
        self.run: Run | None = None
        self.began_at = 0.0

    def __call__(self, run: Run) -> None:
        self.run = run
        self.slots.mark(self.row, run.lease.id, run.lease.token, run.deadline)

    def clear(self) -> None:
        run, self.run = self.run, None
        if run is not None:
            # In this order: at no moment does it stand in neither.
            self.ring.add(*run.key)
            self.slots.clear(self.row)
            if run.gate.error is not None:
                discard_all()


def not_started(lease: Lease) -> Finished:
    """Return the outcome of a lease that is gone already: the engine offers it and learns so."""
    return Finished(lease, Released(), None, time.monotonic())


class Loop:
    """One event loop in one thread, for at most `count` coroutines at a time."""

    def __init__(self, desk: Desk, first_row: int, count: int) -> None:
        self.desk = desk
        self.free = deque(range(first_row, first_row + count))
        self.ring = desk.slots.ring(first_row)  # the one after those of the threads
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="event-loop", daemon=True)
        self.tasks: dict[int, Any] = {}  # by row: the loop itself keeps only a weak reference
        self.waiting: deque[Lease] = deque()

    def start(self) -> None:
        """Begin with the first coroutine: most projects have none."""
        if not self.thread.is_alive():
            self.thread.start()

    @property
    def held(self) -> int:
        return len(self.tasks) + len(self.waiting)

    def put(self, leases: Sequence[Lease]) -> None:
        self.start()
        self.waiting.extend(leases)
        self.loop.call_soon_threadsafe(self.begin_waiting)

    def has_waited(self, seconds: float) -> bool:
        return has_waited(self.waiting, seconds)

    def take_unstarted(self) -> list[Lease]:
        return emptied(self.waiting)

    def begin_waiting(self) -> None:
        while self.waiting and self.free:
            try:
                lease = self.waiting.popleft()
            except IndexError:  # it was given back in this very moment
                return
            if self.desk.may_start(lease, time.monotonic()):
                self.begin(lease, self.free.popleft())
            else:
                self.desk.hand_in(not_started(lease), dry=True)

    def begin(self, lease: Lease, row: int) -> None:
        self.tasks[row] = self.loop.create_task(self.work(lease, row))

    async def work(self, lease: Lease, row: int) -> None:
        try:
            finished = await self.desk.runner.arun(lease, Mark(self.desk.slots, row, self.ring))
        except BaseException as error:
            finished = self.desk.broken(lease, error)
        if finished.started is not None:
            self.ring.add(*lease.key)
        self.desk.slots.clear(row)
        del self.tasks[row]
        self.free.append(row)
        self.begin_waiting()
        self.desk.hand_in(finished, dry=not self.waiting)
