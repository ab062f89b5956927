"""What happened, as told by jobs and feeder themselves: datagrams to the harness, which outlives every fault.

Not a file that workers write: a disk that is full for them would be full for the ledger.
"""

import os
import socket
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

VARIABLE = "CHAOS_LEDGER"

STARTED, EFFECT, ENDED, RAISED = "started", "effect", "ended", "raised"  # of a job's run
RECORDED = "recorded"  # of a guarded effect: its record is committed
WALL = "wall"  # the wall clock as a run sees it, in place of a number
FED, UNSURE = "fed", "unsure"  # of the feeder: it knows, or does not know, that a job was enqueued

MARK = "mark"  # of the harness: all that was sent before has arrived


class Entry(NamedTuple):
    """Units: monotonic seconds of this machine, when the writer said so."""

    moment: float
    event: str
    n: int
    kind: str
    pid: int


class Ledger:
    """The harness's side. Threads: one of its own receives; readers take copies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(str(path))
        path.chmod(0o777)
        threading.Thread(target=self.receive, name="ledger", daemon=True).start()

    def receive(self) -> None:
        while line := self.socket.recv(1024).decode():
            moment, event, n, kind, pid = line.split(" ")
            self.entries.append(Entry(float(moment), event, int(n), kind, int(pid)))
        self.socket.close()

    def close(self) -> None:
        """End after what has been sent so far."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))

    def catch_up(self) -> None:
        """Wait until all that has been sent so far is here."""
        before = len(self.of(MARK))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(f"{time.monotonic():.6f} {MARK} 0 - {os.getpid()}".encode(), str(self.path))
        while len(self.of(MARK)) == before:
            time.sleep(0.01)

    def of(self, event: str) -> list[Entry]:
        return [entry for entry in self.entries.copy() if entry.event == event]

    def effects(self) -> Counter[int]:
        return Counter(entry.n for entry in self.of(EFFECT))

    def running(self, pids: set[int], moment: float) -> set[int]:
        """Return the jobs that these processes had begun and not ended at a moment."""
        open_runs: dict[int, float] = {}
        for entry in self.entries.copy():
            if entry.pid in pids and entry.moment <= moment:
                if entry.event == STARTED:
                    open_runs[entry.n] = entry.moment
                elif entry.event in (ENDED, RAISED):
                    open_runs.pop(entry.n, None)
        return set(open_runs)

    def resumed(self, pids: set[int], jobs: set[int], moment: float) -> int:
        """Return how many of these jobs' runs in these processes were heard of after a moment."""
        later = [entry for entry in self.entries.copy() if entry.moment > moment]
        return len({entry.n for entry in later if entry.pid in pids and entry.n in jobs})

    def repeated_on_record(self) -> Counter[int]:
        """Return the effects of runs that started when the effect was on record already, by job."""
        started: dict[tuple[int, int], float] = {}
        recorded: dict[int, float] = {}
        repeats: Counter[int] = Counter()
        for entry in sorted(self.entries.copy()):
            if entry.event == STARTED:
                started[entry.pid, entry.n] = entry.moment
            elif entry.event == RECORDED:
                recorded.setdefault(entry.n, entry.moment)
            elif entry.event == EFFECT and started.get((entry.pid, entry.n), 0.0) > recorded.get(entry.n, float("inf")):
                repeats[entry.n] += 1
        return repeats

    def starts(self) -> dict[int, list[float]]:
        found: defaultdict[int, list[float]] = defaultdict(list)
        for entry in self.of(STARTED):
            found[entry.n].append(entry.moment)
        return found

    def fed(self, begin: float, end: float) -> float:
        """Return how many jobs a second were enqueued between two moments."""
        return sum(begin <= entry.moment < end for entry in self.of(FED)) / (end - begin) if end > begin else 0.0

    def rate(self, begin: float, end: float) -> float:
        """Return how many jobs a second ended between two moments."""
        ends = sum(1 for entry in self.of(ENDED) if begin <= entry.moment < end)
        return ends / (end - begin) if end > begin else 0.0


# The other side

_socket: socket.socket | None = None


def note(event: str, n: int, kind: str) -> None:
    """Tell the harness. What was told is kept, even if this process dies in the next instant."""
    global _socket
    if _socket is None:
        # Another thread must not find it half made.
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        connected.connect(os.environ[VARIABLE])
        _socket = connected
    _socket.send(f"{time.monotonic():.6f} {event} {n} {kind} {os.getpid()}".encode())
