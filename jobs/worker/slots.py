"""What a process is running right now, in memory that its supervisor can still read after the process has died."""

import mmap
import os
import struct
import tempfile

# Job id, lease token, deadline in monotonic seconds (0: none). The monotonic clock is the same in both processes.
SLOT = struct.Struct("=qqd")
WORDS = 3  # of eight bytes in a slot


class Slots:
    """A row for each executor. Threads: a row has one writer; the supervisor only reads."""

    def __init__(self, descriptor: int, count: int) -> None:
        self.descriptor = descriptor
        self.count = count
        self.memory = mmap.mmap(descriptor, max(1, count) * SLOT.size)
        # Each word is written at once, whatever the supervisor reads meanwhile.
        self.numbers = memoryview(self.memory).cast("q")
        self.moments = memoryview(self.memory).cast("d")

    @classmethod
    def create(cls, count: int) -> "Slots":
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("jobs-slots")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, max(1, count) * SLOT.size)
        return cls(descriptor, count)

    def mark(self, row: int, job_id: int, token: int, deadline: float | None) -> None:
        """Say that an attempt starts. The id comes last: a row counts only once it is whole."""
        numbers, place = self.numbers, WORDS * row
        numbers[place] = 0
        numbers[place + 1] = token
        self.moments[place + 2] = deadline or 0.0
        numbers[place] = job_id

    def clear(self, row: int) -> None:
        self.numbers[WORDS * row] = 0

    def started(self) -> dict[int, int]:
        """Return the lease token of each job that is running, by job id."""
        # A stale run may still stand beside its successor: the newest lease of a job is the one that counts.
        return {job_id: token for job_id, token, _ in sorted(self.rows())}

    def overdue(self, now: float, grace_seconds: float) -> set[int]:
        """Return the jobs that are still running so long after their deadline."""
        return {job_id for job_id, _, deadline in self.rows() if deadline and now > deadline + grace_seconds}

    def rows(self) -> list[tuple[int, int, float]]:
        rows = (SLOT.unpack_from(self.memory, row * SLOT.size) for row in range(self.count))
        return [row for row in rows if row[0]]

    def close(self) -> None:
        self.numbers.release()
        self.moments.release()
        self.memory.close()
        os.close(self.descriptor)
