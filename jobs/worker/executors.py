"""Executors: threads that run jobs from the buffer, and one event loop that runs coroutines. Neither writes a row."""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..leases import Lease
from ..outcomes import ErrorReport, Failed, Released
from ..runs import Run
from ..states import Reason
from .connections import discard_all, distrust, tidy
from .runner import AsyncRunner, Finished
from .slots import Slots

log = logging.getLogger("jobs")

FLUSH_AT = 100  # outcomes waiting to be written


class Desk:
    """What executors and the engine share: outcomes to write, leases not to start, and the engine's bell."""

    def __init__(self, slots: Slots, runner: AsyncRunner, ring: Callable[[], None]) -> None:
        self.slots = slots
        self.runner = runner
        self.ring = ring
        self.finished: deque[Finished] = deque()
        self.lost: set[tuple[int, int]] = set()  # leases found gone before they were started
        self.last_start = time.monotonic()
        self.is_kept: Callable[[Lease], bool] = always

    def may_start(self, lease: Lease) -> bool:
        """Say whether a lease that has waited here is still ours, as far as this process can know."""
        return lease.key not in self.lost and self.is_kept(lease)

    def hand_in(self, finished: Finished, dry: bool) -> None:
        """Take an outcome; wake the engine when enough have come together or there is nothing else to run."""
        self.finished.append(finished)
        if dry or len(self.finished) >= FLUSH_AT:
            self.ring()

    def broken(self, lease: Lease, error: BaseException) -> Finished:
        """Return the outcome of an attempt whose runner itself failed: a bug of ours must not lose the job."""
        log.critical("runner failed", exc_info=error, extra=lease.log_fields())
        report = ErrorReport.of(error)
        return Finished(lease, Failed(report, reason=Reason.PERMANENT_ERROR), None, time.monotonic())


def always(lease: Lease) -> bool:
    return True


class Threads:
    """`count` threads on one buffer."""

    def __init__(self, desk: Desk, count: int) -> None:
        self.desk = desk
        self.buffer: queue.SimpleQueue[Lease] = queue.SimpleQueue()
        self.threads = [
            threading.Thread(target=self.work, args=(row,), name=f"executor-{row}", daemon=True) for row in range(count)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def take_unstarted(self) -> list[Lease]:
        """Empty the buffer and return what was in it."""
        found: list[Lease] = []
        while True:
            try:
                lease = self.buffer.get_nowait()
            except queue.Empty:
                return found
            found.append(lease)

    def work(self, row: int) -> None:
        desk, slots = self.desk, self.desk.slots
        while True:
            lease = self.buffer.get()
            desk.last_start = time.monotonic()
            if not desk.may_start(lease):
                desk.hand_in(not_started(lease), dry=self.buffer.empty())
                continue
            distrust()
            marked = Marked(slots, row)
            try:
                finished = desk.runner.run(lease, marked)
            except BaseException as error:
                finished = desk.broken(lease, error)
            slots.clear(row)
            if marked.was_interrupted:
                discard_all()
            tidy()
            desk.hand_in(finished, dry=self.buffer.empty())


class Marked:
    """Marks a run in its slot before the task begins, and remembers it."""

    def __init__(self, slots: Slots, row: int) -> None:
        self.slots, self.row = slots, row
        self.run: Run | None = None

    def __call__(self, run: Run) -> None:
        self.run = run
        self.slots.mark(self.row, run.lease.id, run.lease.token, run.deadline)

    @property
    def was_interrupted(self) -> bool:
        return self.run is not None and self.run.gate.error is not None


def not_started(lease: Lease) -> Finished:
    """Return the outcome of a lease that is gone already: the engine offers it and learns so."""
    return Finished(lease, Released(), None, time.monotonic())


class Loop:
    """One event loop in one thread, for at most `count` coroutines at a time."""

    def __init__(self, desk: Desk, first_row: int, count: int) -> None:
        self.desk = desk
        self.free = deque(range(first_row, first_row + count))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="event-loop", daemon=True)
        self.tasks: set[Any] = set()
        self.waiting: deque[Lease] = deque()

    def start(self) -> None:
        """Begin with the first coroutine: most projects have none."""
        if not self.thread.is_alive():
            self.thread.start()

    @property
    def held(self) -> int:
        return len(self.tasks) + len(self.waiting)

    def put(self, lease: Lease) -> None:
        self.start()
        self.waiting.append(lease)
        self.loop.call_soon_threadsafe(self.begin_waiting)

    def take_unstarted(self) -> list[Lease]:
        found = []
        while self.waiting:
            try:
                found.append(self.waiting.popleft())
            except IndexError:  # the loop was quicker
                break
        return found

    def begin_waiting(self) -> None:
        while self.waiting and self.free:
            try:
                lease = self.waiting.popleft()
            except IndexError:  # it was given back in this very moment
                return
            if self.desk.may_start(lease):
                self.begin(lease, self.free.popleft())
            else:
                self.desk.hand_in(not_started(lease), dry=True)

    def begin(self, lease: Lease, row: int) -> None:
        task = self.loop.create_task(self.work(lease, row))
        # The loop itself keeps only a weak reference.
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def work(self, lease: Lease, row: int) -> None:
        slots = self.desk.slots
        try:
            finished = await self.desk.runner.arun(lease, Marked(slots, row))
        except BaseException as error:
            finished = self.desk.broken(lease, error)
        slots.clear(row)
        self.free.append(row)
        self.begin_waiting()
        self.desk.hand_in(finished, dry=not self.waiting)
