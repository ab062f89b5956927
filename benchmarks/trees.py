"""A real `manage.py runworker`: started, watched from outside, and stopped as a deploy stops it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .processes import ROOT, environment

STOP_SECONDS = 60.0


class Tree:
    """A supervisor and its worker processes."""

    def __init__(self, url: str, arguments: tuple[str, ...], log_path: Path) -> None:
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "manage.py", "runworker", *arguments],
                cwd=ROOT,
                env=environment(url),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Say whether all of its processes have reported."""
        return "worker ready" in self.said()

    def said(self) -> str:
        return self.log_path.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.supervisor.pid).children(recursive=True)
        return []

    def cpu_seconds(self) -> float:
        """Return what all of its living processes have used so far."""
        return sum(cpu_of(process) for process in [psutil.Process(self.supervisor.pid), *self.children()])

    def peak_mib(self) -> float:
        """Return the largest memory that any of its worker processes has had."""
        return max((peak_of(process.pid) for process in self.children()), default=0.0)

    def check(self) -> None:
        """Raises: RuntimeError with its output when it has ended by itself."""
        if (code := self.supervisor.poll()) is not None:
            raise RuntimeError(f"the worker exited with {code}:\n{self.said()}")

    def stop(self) -> None:
        self.check()
        self.supervisor.terminate()
        code = self.supervisor.wait(STOP_SECONDS)
        if code or any(word in self.said() for word in ("WARNING", "ERROR", "Traceback")):
            raise RuntimeError(f"the worker exited with {code}:\n{self.said()}")

    def kill(self) -> None:
        for process in self.children():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ProcessLookupError):
            os.kill(self.supervisor.pid, signal.SIGKILL)
        self.supervisor.wait(STOP_SECONDS)


@contextmanager
def running(url: str, *arguments: str) -> Iterator[Tree]:
    """Run a worker tree; whoever leaves without `stop` leaves nothing behind either."""
    with tempfile.TemporaryDirectory(prefix="jobs-benchmark-") as directory:
        tree = Tree(url, arguments, Path(directory) / "worker.log")
        try:
            yield tree
        finally:
            if tree.supervisor.poll() is None:
                tree.kill()


def cpu_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def peak_of(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
