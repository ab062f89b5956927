"""Forks of a process that has loaded the project's code: both ends of the socket over which they are asked for.

A supervisor has threads and connections, which a fork must not inherit. So it keeps a process that has neither, the
fork server: a new process then takes milliseconds, not the second that Python and Django need, and shares their memory.

It forks twice. The process in between ends at once, and what it leaves behind becomes a child of the supervisor: so the
supervisor learns of its end, and what it died of, whatever becomes of the fork server.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .plan import Ends

PID = struct.Struct("=i")
BIRTH_SECONDS = 2.0  # until a fork server has answered; it needs a few milliseconds
LOOK_SECONDS = 0.01
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h
MEMORY_DEVICES = 1  # the major number of /dev/null, /dev/urandom and their like
STRANGER_SECONDS = 5.0  # a process that has been dead for so long is waited for by nobody


class CannotFork(OSError):
    """The fork server is well, but this system, or its limits, let it fork nobody."""


class Forked:
    """A child of this process, whoever has forked it; as much of a `subprocess.Popen` as a supervisor needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: Any = None  # a number, once it has ended

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0  # somebody else has asked for its end, and knows what it died of
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        # As long as nobody has asked for its end its number is not given to another.
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        """Raises: subprocess.TimeoutExpired."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", seconds)
            time.sleep(LOOK_SECONDS)
        return code


def is_forkable(own: Collection[int] = ()) -> bool:
    """Say whether a fork of this process would work: it has one thread, and opened nothing that two cannot share.

    Other threads would be missing in the fork, with the locks that they hold. `own` descriptors are looked after, and
    the standard streams are shared anyway. Anywhere but on Linux the answer is no.
    """
    try:
        threads = os.listdir("/proc/self/task")
        names = {int(name) for name in os.listdir("/proc/self/fd")}
    except OSError:
        return False
    return len(threads) == 1 and all(can_be_shared(name) for name in names - {0, 1, 2} - set(own))


def can_be_shared(descriptor: int) -> bool:
    """Say whether two processes may use what is open here: a log file, a source of random numbers.

    A connection would be used by both, and a file that is read has one place for both; a lock would be held for longer.
    """
    try:
        found = os.fstat(descriptor)
        if stat.S_ISCHR(found.st_mode):
            return os.major(found.st_rdev) == MEMORY_DEVICES
        return stat.S_ISREG(found.st_mode) and bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)
    except OSError:
        return True  # the one by which its number was found


def call_itself(name: str) -> None:
    """Give this process a name of up to 15 letters, which `ps` and `top` show."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def bear(births: socket.socket) -> Ends | None:
    """Fork, as the supervisor asks; return in the new process what it hangs on, and in this one nothing.

    Raises: EOFError where nobody asks any more.
    """
    asked, descriptors, _, _ = socket.recv_fds(births, 1, len(Ends._fields))
    if not asked:
        raise EOFError
    number = PID.pack(0)
    read_end, write_end = os.pipe()
    try:
        if not (between := os.fork()):
            if leave_behind(write_end):
                os._exit(0)
            os.close(read_end)
            os.close(write_end)
            return Ends(*descriptors)
        os.close(write_end)
        os.waitpid(between, 0)
        number = os.read(read_end, PID.size) or number
        os.close(read_end)
    except OSError:
        pass  # the supervisor is told that there is none
    for descriptor in descriptors:
        os.close(descriptor)
    births.sendall(number)
    return None


def leave_behind(write_end: int) -> bool:
    """Fork in the process in between; say whether this still is the one in between, which then ends."""
    try:
        if pid := os.fork():
            os.write(write_end, PID.pack(pid))
        return bool(pid)
    except OSError:
        return True


def ask(births: socket.socket, ends: Ends) -> Forked:
    """Let a fork server fork a process that is a child of this one.

    Raises: CannotFork; another OSError where it does not answer in time, or is gone.
    """
    with adopting():
        births.settimeout(BIRTH_SECONDS)
        socket.send_fds(births, [b"f"], list(ends))
        answer = births.recv(PID.size)
    if len(answer) < PID.size:
        raise ConnectionError("the fork server is gone")
    pid = PID.unpack(answer)[0]
    if not pid:
        raise CannotFork("the fork server could not fork")
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        raise CannotFork("this system gave the new process another parent") from None
    return Forked(pid)


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Be the parent of those whose parents end meanwhile. Not for longer: what tasks leave behind is init's concern."""
    libc, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    if libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) or libc.prctl(
        PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0
    ):
        raise CannotFork(ctypes.get_errno(), "this system lets no process adopt others")
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


class Strangers:
    """Dead children that nobody here knows: of a fork server that was killed while it forked, or left by tasks.

    Threads: one. Another may wait for a child of its own, so nobody is collected at once.
    """

    def __init__(self) -> None:
        self.pid, self.since = 0, 0.0

    def collect(self, known: Collection[int], now: float) -> None:
        """Collect one that was dead at earlier calls too. Units: `now` in monotonic seconds."""
        with contextlib.suppress(ChildProcessError):
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if not found or found.si_pid in known:
                self.pid = 0
            elif found.si_pid != self.pid:
                self.pid, self.since = found.si_pid, now
            elif now - self.since >= STRANGER_SECONDS:
                os.waitpid(self.pid, os.WNOHANG)
