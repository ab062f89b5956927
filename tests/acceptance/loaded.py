"""What Python's fork server loads for tests: the project, which each `manage.py runworker` needs a second to load."""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

MOST_DESCRIPTORS = 256
ROOT = Path(__file__).resolve().parent.parent.parent
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.acceptance.preload"])


def run_worker(args: tuple[str, ...], log_path: Path) -> None:
    """Be `manage.py runworker`, in a session of its own, with its output in a file; the project has been checked."""
    from django.core.management import execute_from_command_line

    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    # Python's fork server leaves pipes open, which `runworker` would take for somebody's, and not fork itself.
    os.closerange(3, MOST_DESCRIPTORS)
    os.chdir(ROOT)
    sys.argv = ["manage.py", "runworker", "--skip-checks", *args]
    execute_from_command_line(sys.argv)


class Loaded:
    """A forked `manage.py runworker`, with as much of a `subprocess.Popen` as tests need."""

    def __init__(self, args: tuple[str, ...], log_path: Path, database_url: str) -> None:
        log_path.touch()
        # The environment of whoever starts the fork server first is that of all its forks.
        with patch.dict(os.environ, {"DATABASE_URL": database_url, "PYTHONUNBUFFERED": "1"}):
            forkserver.ensure_running()
        self.process = context.Process(target=run_worker, args=(args, log_path))
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("runworker", seconds)
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()
