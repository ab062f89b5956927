"""What a process runs, and has just run, in memory that its supervisor can still read when the process is dead."""

import mmap
import os
import struct
import tempfile

from ..leases import Remains

# Job id, lease token, deadline in monotonic seconds (0: none). The monotonic clock is the same in both processes.
SLOT = struct.Struct("=qqd")
WORDS = 3  # of eight bytes in a slot
# The loops that show that they go on: one word each, before all slots.
LOOPS = ("engine", "heartbeat", "watchdog")
ENGINE, HEARTBEAT, WATCHDOG = range(len(LOOPS))
HEAD = len(LOOPS)
# Ended runs in a ring: more than a process ever holds outcomes that are not written yet.
RING = 2048
ENDED = struct.Struct("=qq")


def size_of(count: int, rings: int) -> int:
    return 8 * HEAD + count * SLOT.size + rings * RING * ENDED.size


def memory() -> int:
    """Return the descriptor of an empty memory that can be shared, and belongs to no path."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("jobs-slots")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Slots:
    """A pulse of each loop, a row for each executor, and a ring of what ended last for each thread.

    Threads: a row or a ring has one writer; the supervisor only reads.
    """

    def __init__(self, descriptor: int, count: int, rings: int = 1) -> None:
        self.descriptor = descriptor
        self.count, self.rings = count, rings
        self.memory = mmap.mmap(descriptor, size_of(count, rings))
        # Each word is written at once, whatever the supervisor reads meanwhile.
        self.numbers = memoryview(self.memory).cast("q")
        self.moments = memoryview(self.memory).cast("d")

    @classmethod
    def create(cls, count: int, rings: int = 1) -> "Slots":
        return cls.fill(memory(), count, rings)

    @classmethod
    def fill(cls, descriptor: int, count: int, rings: int) -> "Slots":
        """Lay the slots out in a `memory()` that nobody has used yet."""
        os.ftruncate(descriptor, size_of(count, rings))
        return cls(descriptor, count, rings)

    def beat(self, loop: int) -> None:
        """Say that a loop goes on."""
        self.numbers[loop] += 1

    def beats(self) -> list[int]:
        """Return how often each of the LOOPS has beaten."""
        return self.numbers[:HEAD].tolist()

    def mark(self, row: int, job_id: int, token: int, deadline: float | None) -> None:
        """Say that an attempt starts. The id comes last: a row counts only once it is whole."""
        numbers, place = self.numbers, HEAD + WORDS * row
        numbers[place] = 0
        numbers[place + 1] = token
        self.moments[place + 2] = deadline or 0.0
        numbers[place] = job_id

    def clear(self, row: int) -> None:
        self.numbers[HEAD + WORDS * row] = 0

    def ring(self, number: int) -> "Ring":
        return Ring(self.numbers, HEAD + WORDS * self.count + 2 * RING * number)

    def remains(self) -> Remains:
        """Return what its process, which is dead, was at."""
        start = size_of(self.count, 0)
        ended = ENDED.iter_unpack(self.memory[start : size_of(self.count, self.rings)])
        return Remains(self.started(), frozenset(key for key in ended if key[0]))

    def started(self) -> dict[int, int]:
        """Return the lease token of each job that is running, by job id."""
        # A stale run may still stand beside its successor: the newest lease of a job is the one that counts.
        return {job_id: token for job_id, token, _ in sorted(self.rows())}

    def overdue(self, now: float, grace_seconds: float) -> set[int]:
        """Return the jobs that are still running so long after their deadline."""
        return {job_id for job_id, _, deadline in self.rows() if deadline and now > deadline + grace_seconds}

    def rows(self) -> list[tuple[int, int, float]]:
        rows = SLOT.iter_unpack(self.memory[size_of(0, 0) : size_of(self.count, 0)])
        return [row for row in rows if row[0]]

    def close(self) -> None:
        """Threads: no ring of it may be written any more."""
        self.numbers.release()
        self.moments.release()
        self.memory.close()
        os.close(self.descriptor)


class Ring:
    """The runs that one thread has ended last: their outcomes may not be written yet."""

    __slots__ = ("numbers", "place", "start")

    def __init__(self, numbers: memoryview, start: int) -> None:
        self.numbers, self.start = numbers, start
        self.place = 0

    def add(self, job_id: int, token: int) -> None:
        place = self.start + self.place
        self.numbers[place + 1] = token
        self.numbers[place] = job_id
        self.place = (self.place + 2) % (2 * RING)
