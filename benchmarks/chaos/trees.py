"""A real worker tree under faults, and what its processes take of the machine."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from ..processes import ROOT

# From linux/prctl.h and linux/capability.h.
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2

# A process has three of its own, one for each of four threads, one for coroutines, one for receivers of signals. A busy
# thread opens its own when its first task wants it.
OF_A_PROCESS = 3 + 4 + 1 + 1
MOST_CONNECTIONS = 2 * (1 + 2 * OF_A_PROCESS)  # of two trees, each with a supervisor and two processes
MOST_DATABASE_FILES = 2 * OF_A_PROCESS + 1  # SQLite's: the database and its log for each, the index of the log


class Footprint(NamedTuple):
    """What workers take: the most of any process, memory of the median one, all their connections. Units: MiB.

    `descriptors` without `database_files`, which are SQLite's.
    """

    threads: int
    descriptors: int
    mib: float
    connections: int
    database_files: int = 0

    def has_grown_to(self, later: "Footprint") -> str:
        """Say what has grown beyond what a busy moment explains, or nothing."""
        if later.threads > self.threads + 3:
            return f"from {self.threads} to {later.threads} threads in a process"
        if later.descriptors > self.descriptors + 6:
            return f"from {self.descriptors} to {later.descriptors} open files in a process"
        if later.database_files > max(MOST_DATABASE_FILES, self.database_files):
            return f"from {self.database_files} to {later.database_files} open files of the database in a process"
        if later.mib > 1.25 * self.mib + 10:
            return f"from {self.mib:.0f} to {later.mib:.0f} MiB in a process"
        if later.connections > max(MOST_CONNECTIONS, self.connections):
            return f"from {self.connections} to {later.connections} connections"
        return ""


class Tree:
    """A `manage.py runworker` in a session of its own, so that what it leaves behind can be found."""

    def __init__(self, arguments: tuple[str, ...], environ: dict[str, str], log: Path, is_humble: bool) -> None:
        self.log, self.started_at = log, time.monotonic()
        self.was_told = False  # to end, or killed
        self.is_old = environ.get("CHAOS_CODE") == "old"
        with open(log, "ab") as output:
            self.supervisor = subprocess.Popen(
                [sys.executable, "manage.py", "runworker", *arguments],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=respect_permissions if is_humble else None,
            )

    @property
    def pid(self) -> int:
        return self.supervisor.pid

    def has_ended(self) -> bool:
        return self.supervisor.poll() is not None

    def is_ready(self) -> bool:
        return "worker ready" in self.said()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self.is_here(process)]

    def children(self) -> list[psutil.Process]:
        return [process for process in self.processes() if process.pid != self.pid]

    def is_here(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    def send(self, number: signal.Signals) -> None:
        self.was_told = True
        self.supervisor.send_signal(number)

    def kill(self) -> set[int]:
        """Kill everybody, the supervisor first, so that it replaces nobody; return the pids of the workers."""
        pids = {process.pid for process in self.children()}
        self.send(signal.SIGKILL)
        while found := self.processes():
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            pids |= {process.pid for process in found}
            time.sleep(0.01)
        self.supervisor.wait()
        return pids


def respect_permissions() -> None:
    """Give up root's right to write what permissions forbid, for this process and what it starts."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
