"""Forks of a process that has loaded the project's code: both ends of the socket over which they are asked for.

A supervisor has threads and connections, which a fork must not inherit. So it keeps a process that has neither, the
fork server: a new process then takes milliseconds, not the second that Python and Django need, and shares their memory.

It forks twice. The process in between ends at once, and what it leaves behind becomes a child of the supervisor: so the
supervisor learns of its end, and what it died of, whatever becomes of the fork server.
"""

import contextlib
import ctypes
import os
import signal
import socket
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
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Forked:
    """A child of this process, whoever has forked it; as much of a `subprocess.Popen` as a supervisor needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: Any = None  # a number, once it has ended

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
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
    """Say whether a fork of this process would work: it has one thread, and no socket open but its `own` descriptors.

    Other threads would be missing in the fork, with the locks that they hold; a connection would be used by two. The
    standard streams may be sockets: an init system's log is. Anywhere but on Linux the answer is no.
    """
    try:
        threads = os.listdir("/proc/self/task")
        names = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return False
    return len(threads) == 1 and not any(is_socket(name) for name in names if name > 2 and name not in own)


def is_socket(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        return False  # the one by which its number was found


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

    Raises: OSError where it does not answer in time, or cannot.
    """
    with adopting():
        births.settimeout(BIRTH_SECONDS)
        socket.send_fds(births, [b"f"], list(ends))
        answer = births.recv(PID.size)
    if len(answer) < PID.size or not (pid := PID.unpack(answer)[0]):
        raise OSError("the fork server could not fork")
    child = Forked(pid)
    child.poll()
    return child


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Be the parent of those whose parents end meanwhile. Not for longer: what tasks leave behind is init's concern."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this system lets no process adopt others")
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
