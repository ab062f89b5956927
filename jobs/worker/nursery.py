"""Where the processes of a tree come from: forked, from the spare that waits, or started anew."""

import gc
import logging
import select
import time

from .child import Child
from .forkserver import BIRTH_SECONDS, CannotFork, NoAnswer, why_not_forkable
from .process import fork_here, load

log = logging.getLogger("jobs")

START_SECONDS = 120.0  # until a process has loaded the code
AGAIN_SECONDS = 60.0  # after one that was kept and ended by itself, soon after another had
CALM_SECONDS = 300.0


class Nursery:
    """Keeps one process that has loaded the code and waits, so that whoever dies is replaced at once.

    It is the fork server; or, where loading the code starts threads or opens connections, which no fork may inherit, a
    spare, which takes the next seat itself. Threads: the supervisor's main one.
    """

    def __init__(self, kept: Child | None = None, *, renews: bool = False) -> None:
        self.kept = kept
        self.renews = renews  # start another when the one that was kept is used up, or gone
        self.again_at = self.calm_at = 0.0  # monotonic moments

    @classmethod
    def beside(cls, *, renews: bool) -> "Nursery":
        """Fork the fork server from this process, which has loaded the project's code and is to become a supervisor."""
        load()
        # What is collected now need not be in each fork, whose memory then stays the same and shared.
        gc.collect()
        gc.freeze()
        if why := why_not_forkable():
            log.info("each process loads the code anew, as none can be forked", extra={"why": why})
            return cls(renews=renews)
        try:
            kept = Child(fork_here)
        except OSError as error:
            log.warning("no fork server could be started", extra={"error": str(error)})
            return cls(renews=renews)
        # Until it has said that it may be forked, in some milliseconds.
        select.select([kept.reports], [], [], BIRTH_SECONDS)
        return cls(kept, renews=renews)

    def child(self) -> Child:
        """Return a process that waits for its plan. Raises: OSError where none can be started."""
        kept = self.kept
        # One that is still loading is no sooner ready than a new one.
        if not kept or kept.process.poll() is not None or not kept.has_loaded():
            return Child()
        if not kept.forks:
            self.kept = None
            return kept
        try:
            return Child(kept.bear)
        except CannotFork as error:
            # It needs no other to work itself.
            log.warning("fork server takes a seat", extra={"pid": kept.process.pid, "error": str(error)})
            self.kept = None
            return kept
        except NoAnswer as error:
            log.warning("fork server replaced", extra={"pid": kept.process.pid, "error": str(error)})
            self.lose()
            return Child()

    def look_after(self, may_start: bool) -> None:
        """Give up a process that ended, and keep another where no process that is to work has yet to start."""
        now = time.monotonic()
        if (kept := self.kept) and (
            (code := kept.process.poll()) is not None or (not kept.has_loaded() and now - kept.born_at > START_SECONDS)
        ):
            # Whatever ails it, the next process in a seat has it too.
            what = "fork server" if kept.forks else "spare process"
            log.warning(f"{what} lost", extra={"pid": kept.process.pid, "exit_code": code})
            self.lose()
        if self.renews and not self.kept and may_start and now >= self.again_at:
            try:
                self.kept = Child()
            except OSError as error:
                log.warning("no spare process could be started", extra={"error": str(error)})
                self.again_at = now + AGAIN_SECONDS

    def lose(self) -> None:
        """End the one that is kept. The first that is lost may have been unlucky, several in a row are not."""
        now = time.monotonic()
        self.again_at = now + AGAIN_SECONDS if now < self.calm_at else 0.0
        self.calm_at = now + CALM_SECONDS
        self.dismiss()

    def dismiss(self) -> None:
        if self.kept:
            self.kept.dismiss()
            self.kept = None
