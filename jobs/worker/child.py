"""A process as its supervisor holds it: the pipes to it, and the memory that tells what it was running."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from . import forkserver
from .forkserver import Forked
from .plan import Ends, Plan
from .slots import LOOPS, Slots, memory

BOOT = "JOBS_BOOT"  # in the environment of a process that is started anew: the path as its supervisor has it


def message_in(line: bytes) -> dict[str, Any]:
    """Return a report; nothing for a line that a dying process left unfinished."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# Brings a process into being that hangs on these ends, and holds none of the other descriptors.
Birth = Callable[[Ends, list[int]], "subprocess.Popen[bytes] | Forked"]


def spawn(ends: Ends, others: list[int]) -> "subprocess.Popen[bytes]":
    """Start Python anew."""
    # The path is widened only so that the module can be found; the process itself narrows it again.
    boot = {"path": sys.path, "PYTHONPATH": os.environ.get("PYTHONPATH")}
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.worker.process", *map(str, ends)],
        pass_fds=ends,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path, BOOT: json.dumps(boot)},
    )


class Child:
    """It loads the project's code first, and waits to be told its plan. Until then it may fork others.

    Threads: the supervisor's main one; others may read.
    """

    plan: Plan
    slots: Slots

    def __init__(self, birth: Birth = spawn) -> None:
        self.unread = b""
        self.loaded = self.forks = self.ready = self.ending = False
        self.said_goodbye = False  # its end is no crash
        self.stuck: set[int] = set()  # killed because of these
        self.frozen: list[str] = []  # killed because these loops stood still
        self.killed = False
        self.born_at = time.monotonic()
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            self.memory = memory()
            ours.callback(os.close, self.memory)
            orders_read, self.orders = os.pipe()
            theirs.callback(os.close, orders_read)
            ours.callback(os.close, self.orders)
            self.reports, reports_write = os.pipe()
            ours.callback(os.close, self.reports)
            theirs.callback(os.close, reports_write)
            self.births, asked = socket.socketpair()
            ours.callback(self.births.close)
            theirs.callback(asked.close)
            ends = Ends(orders_read, reports_write, self.memory, asked.fileno())
            self.process = birth(ends, [self.orders, self.reports, self.births.fileno()])
            os.set_blocking(self.reports, False)
            ours.pop_all()

    def begin(self, plan: Plan) -> None:
        """Let it work, as soon as its code is loaded."""
        self.plan = plan
        self.slots = Slots.fill(self.memory, plan.slots, plan.rings)
        self.started_at = time.monotonic()
        self.beats = self.slots.beats()
        self.heard_at = [self.started_at] * len(LOOPS)
        self.write(plan.line())
        self.births.close()

    def bear(self, ends: Ends, others: list[int]) -> Forked:
        """Let it fork another, which holds nothing of this process. Raises: CannotFork, NoAnswer."""
        return forkserver.ask(self.births, ends)

    @property
    def worker_id(self) -> str:
        return self.plan.worker_id

    def order(self, word: str) -> None:
        self.write(word.encode() + b"\n")

    def write(self, data: bytes) -> None:
        # A process that has just died is noticed by its end, not here.
        with contextlib.suppress(OSError):
            os.write(self.orders, data)

    def kill(self) -> None:
        self.killed = True
        self.process.kill()

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that have come in since the last call."""
        try:
            while chunk := os.read(self.reports, 65536):
                self.unread += chunk
        except BlockingIOError:
            pass
        *lines, self.unread = self.unread.split(b"\n")
        return [message for line in lines if (message := message_in(line))]

    def silence(self, now: float, was_away: bool) -> dict[str, float]:
        """Return for how many seconds each of its loops has stood still, as far as an observer knows who `was_away`."""
        beats = self.slots.beats()
        for loop, (before, after) in enumerate(zip(self.beats, beats, strict=True)):
            if before != after or was_away:
                self.heard_at[loop] = now
        self.beats = beats
        return {name: now - heard for name, heard in zip(LOOPS, self.heard_at, strict=True)}

    def has_loaded(self) -> bool:
        """Say whether it only waits for its plan. Of one that has not begun."""
        for message in self.read():
            self.loaded = self.loaded or "loaded" in message
            self.forks = message.get("forks", self.forks)
        return self.loaded

    def close(self) -> None:
        os.close(self.orders)
        os.close(self.reports)
        self.slots.close()

    def dismiss(self) -> None:
        """End a process that has never begun: it holds nothing, so nobody waits for it."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        self.let_go()

    def let_go(self) -> None:
        for descriptor in (self.orders, self.reports, self.memory):
            os.close(descriptor)
        self.births.close()
