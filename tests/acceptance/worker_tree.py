"""A real `manage.py runworker` with everything it starts, for tests to watch, stop, freeze and kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from django.conf import settings
from django.db import connections

from tests.acceptance.loaded import Loaded
from tests.conftest import wait_until


def database_url() -> str:
    """The URL of the test database, for other processes."""
    name = connections["default"].settings_dict["NAME"]
    if connections["default"].vendor == "sqlite":
        return f"sqlite:///{name}"
    # As it was given, socket directory and options included: only the name is the test database's.
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


class WorkerTree:
    """A supervisor and its children; the session that they share finds them even when the supervisor is gone."""

    def __init__(self, args: tuple[str, ...], environ: dict[str, str], log_path: Path, typed: bool) -> None:
        self.log_path = log_path
        self.supervisor: subprocess.Popen[bytes] | Loaded
        if not (typed or environ):
            self.supervisor = Loaded(args, log_path, database_url())
            return
        with open(log_path, "wb") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "manage.py", "runworker", *args],
                cwd=settings.BASE_DIR,
                env=os.environ | {"DATABASE_URL": database_url(), "PYTHONUNBUFFERED": "1"} | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.supervisor.pid

    def processes(self) -> list[psutil.Process]:
        """Return all that live, the supervisor first."""
        found = [process for process in psutil.process_iter() if self.is_alive_here(process)]
        return sorted(found, key=lambda process: process.pid != self.pid)

    def children(self) -> list[psutil.Process]:
        """Return the live processes that work, or are about to."""
        waiting = {process.pid for process in self.waiting()}
        return [process for process in self.processes() if process.pid not in waiting | {self.pid}]

    def waiting(self) -> list[psutil.Process]:
        """Return the live fork server, or spare: what the tree keeps beside its supervisor and those who work."""
        return [process for process in self.processes() if name_of(process) in ("jobs-forkserver", "jobs-spare")]

    def is_alive_here(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    def are_gone(self, processes: list[psutil.Process]) -> bool:
        return not any(self.is_alive_here(process) for process in processes)

    def log(self) -> str:
        """Return what the tree has written to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, within: float = 30.0) -> "WorkerTree":
        """Wait until the supervisor says that all its children are ready."""
        self.wait_for(lambda: "worker ready" in self.log() or self.has_exited(), within)
        assert not self.has_exited(), f"the worker exited with {self.supervisor.returncode}:\n{self.log()}"
        return self

    def exit_code(self, within: float = 30.0) -> int | None:
        """Wait for the end of the supervisor and of its children, and return the supervisor's exit code."""
        self.wait_for(lambda: self.has_exited() and not self.processes(), within)
        return self.supervisor.returncode

    def has_exited(self) -> bool:
        return self.supervisor.poll() is not None

    def wait_for(self, condition: Callable[[], Any], within: float) -> None:
        try:
            wait_until(condition, within)
        except AssertionError as error:
            raise AssertionError(f"{error}; the worker's log:\n{self.log()}") from None

    def terminate(self) -> None:
        """Send SIGTERM to the supervisor, as an init system does."""
        self.supervisor.terminate()

    def interrupt(self) -> None:
        """Send SIGINT to everybody, as Ctrl-C in a terminal does."""
        self.signal_all(signal.SIGINT)

    def pause(self) -> None:
        """Freeze everybody, as a suspended host does; the supervisor first, so that it sees no child stop."""
        self.signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal_all(signal.SIGCONT)

    def kill_tree(self) -> None:
        """Kill everybody with no warning, the supervisor first, so that it replaces nobody."""
        while processes := self.processes():
            for process in processes:
                self.signal_one(process, signal.SIGKILL)
            self.supervisor.wait(5)
            # A zombie is dead enough: whoever adopted the children may take seconds to collect them.
            wait_until(partial(self.are_gone, processes), within=5)

    def signal_all(self, number: signal.Signals) -> None:
        for process in self.processes():
            self.signal_one(process, number)

    def signal_one(self, process: psutil.Process, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
