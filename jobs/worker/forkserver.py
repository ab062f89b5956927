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
import select
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


class NoAnswer(OSError):
    """The fork server is gone, or silent."""


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


def why_not_forkable(own: Collection[int] = ()) -> str:
    """Say why a fork of this process would not work; nothing where it would.

    It has to have one thread, as others would be missing in the fork, with the locks that they hold, and nothing open
    that two cannot share. `own` descriptors are looked after, and the standard streams are shared anyway.
    """
    try:
        names = {int(name) for name in os.listdir("/proc/self/fd")}
    except OSError:
        return "this system has no /proc"
    if not has_one_thread():
        return "loading the code has started a thread"
    for name in sorted(names - {0, 1, 2} - set(own)):
        if not can_be_shared(name):
            return f"descriptor {name} is open, which two processes cannot share: {target_of(name)}"
    return ""


def target_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "unknown"


def has_one_thread() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def can_be_shared(descriptor: int) -> bool:
    """Say whether two processes may use what is open here: a log file, a source of random numbers.

    A connection would be used by both, and a file that is read has one place for both; a lock would be held for longer.
    """
    try:
        found = os.fstat(descriptor)
        if stat.S_ISCHR(found.st_mode):
            return os.major(found.st_rdev) == MEMORY_DEVICES
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        only_adds = bool(flags & os.O_APPEND) and flags & os.O_ACCMODE == os.O_WRONLY
        return stat.S_ISREG(found.st_mode) and only_adds and not is_locked(descriptor)
    except OSError:
        return True  # the one by which its number was found


def is_locked(descriptor: int) -> bool:
    return b"lock:" in Path(f"/proc/self/fdinfo/{descriptor}").read_bytes()


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
    number = b""
    read_end, write_end = os.pipe()
    with open(read_end, "rb", 0) as said, open(write_end, "wb", 0) as says:
        try:
            # What the project does at a fork may have started a thread since this process was found to have none.
            if has_one_thread():
                if not (between := os.fork()):
                    if leave_behind(says.fileno()):
                        os._exit(0)
                    return Ends(*descriptors)
                says.close()
                number = told(said.fileno(), between)
        except OSError:
            pass  # the supervisor is told that there is none
    for descriptor in descriptors:
        os.close(descriptor)
    births.sendall(number or PID.pack(0))
    return None


def leave_behind(write_end: int) -> bool:
    """Fork in the process in between; say whether this still is the one in between, which then ends."""
    pid = 0
    try:
        if not has_one_thread() or (pid := os.fork()):
            os.write(write_end, PID.pack(pid))
            return True
    except OSError:
        return True
    return False


def told(read_end: int, between: int) -> bytes:
    """Return what the process in between says, and see it end; nothing where it hangs in what is done at a fork."""
    try:
        if select.select([read_end], [], [], BIRTH_SECONDS / 2)[0]:
            return os.read(read_end, PID.size)
        os.kill(between, signal.SIGKILL)
        return b""
    finally:
        with contextlib.suppress(ChildProcessError):  # where the project's code lets nobody wait for children
            os.waitpid(between, 0)


def ask(births: socket.socket, ends: Ends) -> Forked:
    """Let a fork server fork a process that is a child of this one.

    Raises: CannotFork; NoAnswer where it does not answer in time, or is gone.
    """
    with adopting():
        try:
            births.settimeout(BIRTH_SECONDS)
            socket.send_fds(births, [b"f"], list(ends))
            answer = births.recv(PID.size)
        except OSError as error:
            raise NoAnswer(str(error)) from error
    if len(answer) < PID.size:
        raise NoAnswer("it is gone")
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
        self.since: dict[int, float] = {}

    def collect(self, known: Collection[int], now: float) -> None:
        """Collect those that were dead at earlier calls too. Units: `now` in monotonic seconds."""
        self.since = {pid: self.since.get(pid, now) for pid in dead_children() if pid not in known}
        for pid, since in self.since.items():
            if now - since >= STRANGER_SECONDS:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def dead_children() -> list[int]:
    """Return the children of this process that have ended and were not waited for; none where the system names none."""
    if not is_dead():
        return []
    names: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            names += Path(f"/proc/self/task/{thread}/children").read_text().split()
    return [pid for pid in map(int, names) if is_dead(pid)]


def is_dead(pid: int | None = None) -> bool:
    """Say whether this child has ended and was not waited for yet, or any child."""
    whose = (os.P_ALL, 0) if pid is None else (os.P_PID, pid)
    try:
        return os.waitid(*whose, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
