"""The parent of a worker tree: it owns signals, the life and death of its processes, and what their deaths mean."""

import contextlib
import logging
import os
import random
import selectors
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..conf import Options
from ..outcomes import Settlement
from ..storage import Storage
from ..tally import Merged
from .child import Child
from .connections import limit_waits
from .forkserver import Strangers
from .housekeeping import Housekeeping, Presence
from .nursery import START_SECONDS, Nursery
from .plan import DRAIN, EXIT_CONFIGURATION, EXIT_DONE, EXIT_SECOND_SIGNAL, STOP_NOW, Plan
from .slots import LOOPS
from .takeback import Takeback, leaves_suspects, taking_back

log = logging.getLogger("jobs")

LOOK_SECONDS = 0.25
SOON_SECONDS = 0.05
CALM_LOOK_SECONDS = 1.0  # with nothing under way but jobs; signals, reports and deaths are noticed at once
KILL_AFTER_SECONDS = 5.0  # beyond the grace, for a process that does not end by itself
LAST_CHORES_SECONDS = 8.0  # beyond the end of the last process, for taking back what it held
CHORE_SECONDS = 10.0  # the longest pause of housekeeping, and some more
AWAY_SECONDS = 2.0  # between two looks: this process was paused itself
START_AGAIN_SECONDS = 1.0  # after the host allowed no more processes
STABLE_SECONDS = 10.0  # a process that lived so long was no failed start
LONGEST_RESTART_SECONDS = 10.0


@dataclass
class Tree:
    """What `runworker` was asked for."""

    plan: Plan
    processes: int = 1
    drain: bool = False
    max_jobs: int | None = None
    recycle_after: int | None = None


@dataclass
class Seat:
    """A place for one process, with what is known of those that sat there before."""

    quota: int | None = None  # jobs left to run, all processes in this seat together
    child: Child | None = None
    failures: int = 0
    start_at: float = 0.0
    solo: bool = False
    finished: bool = False
    ran: int = field(default=0)


class Supervisor:
    """Threads: all of it runs in the main thread, which never touches the database: housekeeping does."""

    def __init__(
        self,
        tree: Tree,
        store: Storage,
        options: Options,
        merged: Merged,
        say: Callable[[str], None] = print,
        nursery: Nursery | None = None,
    ) -> None:
        self.tree, self.options, self.merged, self.say = tree, options, merged, say
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.seats = [Seat(quota=quota) for quota in quotas(tree.max_jobs, tree.processes)]
        self.solos: list[Seat] = []
        self.nursery = nursery or Nursery()
        self.strangers = Strangers()
        self.start_again_at = 0.0
        self.signals = 0
        self.stopping = False
        self.announced = False
        self.exit_code = EXIT_DONE
        self.give_up_at = float("inf")
        self.ticked_at = self.chores_at = time.monotonic()
        self.chores_seen = 0  # how often housekeeping had asked the database, when that last grew
        self.selector = selectors.DefaultSelector()
        self.housekeeping = Housekeeping(
            store,
            options,
            tree=self.name,
            hostname=socket.gethostname(),
            queues=tree.plan.queues,
            heartbeat_seconds=tree.plan.heartbeat_seconds,
            patience_seconds=tree.plan.patience_seconds,
            drain=tree.drain,
            on_settled=self.count,
        )

    # Life

    def run(self) -> int:
        """Work until told to stop, drained, or through with `max_jobs`; return the exit code."""
        limit_waits(self.tree.plan.lease_seconds)
        with self.listening_to_signals():
            self.housekeeping.start()
            while True:
                self.tick()
                if self.stopping and not any(seat.child for seat in self.all_seats()):
                    break
                self.wait()
            self.finish_chores()
        self.say_goodbye()
        return self.exit_code

    def all_seats(self) -> list[Seat]:
        return [*self.seats, *self.solos]

    @contextlib.contextmanager
    def listening_to_signals(self) -> Any:
        """Let signals wake the selector; what they mean is decided in the loop, not in a handler."""
        receiver, sender = socket.socketpair()
        for end in (receiver, sender):
            end.setblocking(False)
        self.selector.register(receiver, selectors.EVENT_READ, None)
        before = {number: signal.signal(number, self.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        self.receiver = receiver
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.selector.close()
            receiver.close()
            sender.close()

    def on_signal(self, number: int, frame: object) -> None:
        self.signals += 1

    def wait(self) -> None:
        for key, _ in self.selector.select(CALM_LOOK_SECONDS if self.is_calm() else LOOK_SECONDS):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while self.receiver.recv(4096):
                        pass

    def all_have_started(self) -> bool:
        """Say whether no process that is to work is still starting, or has yet to."""
        if self.stopping or self.tree.drain or any(solo.child and not solo.child.ready for solo in self.solos):
            return False
        return all(seat.child.ready if seat.child else seat.finished for seat in self.seats)

    def is_calm(self) -> bool:
        """Say whether all seats are taken by processes that work, with none to start, watch closely or end."""
        return not self.solos and self.all_have_started()

    def tick(self) -> None:
        now = time.monotonic()
        # After a pause of this process itself others have had no chance to show that they live.
        was_away = now - self.ticked_at > AWAY_SECONDS
        self.ticked_at = now
        if was_away or self.housekeeping.patience.waits != self.chores_seen:
            self.chores_seen, self.chores_at = self.housekeeping.patience.waits, now
        if not was_away:
            self.housekeeping.patience.look(now)
        for seat in self.all_seats():
            if seat.child:
                self.look_after(seat, seat.child, now, was_away)
        self.obey_signals()
        if self.housekeeping.findings.drained and not self.stopping:
            self.stop("drained")
        if all(seat.finished for seat in self.seats) and not self.stopping:
            self.stop("max-jobs reached")
        if self.stopping:
            self.finish_off()
            return
        self.seat_solos()
        self.fill_seats()
        self.nursery.look_after(may_start=self.all_have_started())
        self.strangers.collect(self.known_pids(), now)

    def known_pids(self) -> set[int]:
        known = [seat.child for seat in self.all_seats()] + [self.nursery.kept]
        return {child.process.pid for child in known if child}

    # Start

    def fill_seats(self) -> None:
        for seat in self.seats:
            is_free = seat.child is None and not seat.finished
            due_at = max(seat.start_at, self.start_again_at)
            if is_free and time.monotonic() >= due_at and not self.suspects_go_first():
                self.start(seat, self.tree.plan)
        if not self.announced and all(seat.child and seat.child.ready for seat in self.seats if not seat.finished):
            self.announced = True
            log.info("worker ready", extra={"tree": self.name, "processes": len(self.seats)})

    def suspects_go_first(self) -> bool:
        """Say whether a seat stays empty until a process for suspects is up, which is sooner so; others work on."""
        starting = any(solo.child and not solo.child.ready for solo in self.solos)
        return starting and any(seat.child and seat.child.ready for seat in self.seats)

    def seat_solos(self) -> None:
        """Start a process of its own for suspects: a job that may kill its worker must not take neighbours along."""
        waiting = self.housekeeping.findings.suspects_wait
        starting = any(seat.child and not seat.child.ready for seat in self.solos)
        is_due = time.monotonic() >= self.start_again_at
        if waiting and is_due and not starting and len(self.solos) < self.tree.processes:
            seat = Seat(solo=True)
            self.start(seat, replace(self.tree.plan, solo=True, threads=1))
            if seat.child:
                self.solos.append(seat)

    def start(self, seat: Seat, plan: Plan) -> None:
        """Take a process for a seat, which stays empty where this host allows no more processes at the moment."""
        limits = [n for n in (seat.quota, self.tree.recycle_after) if n is not None]
        worker_id = f"{self.name}-{uuid.uuid4().hex[:12]}"
        try:
            child = self.nursery.child()
        except OSError as error:
            log.error("no process could be started", extra={"error": str(error)})
            self.start_again_at = time.monotonic() + START_AGAIN_SECONDS
            return
        child.begin(replace(plan, worker_id=worker_id, max_jobs=min(limits) if limits and not seat.solo else None))
        seat.child, seat.ran = child, 0
        self.selector.register(child.reports, selectors.EVENT_READ, child)
        self.housekeeping.present(Presence(child.worker_id, child.process.pid, plan.threads))

    # Look after

    def look_after(self, seat: Seat, child: Child, now: float, was_away: bool) -> None:
        self.hear(seat, child)
        if child.process.poll() is not None:
            self.bury(seat, child)
            return
        overdue = child.slots.overdue(now, self.tree.plan.timeout_grace_seconds)
        silence = child.silence(now, was_away or not child.ready)
        most = self.tree.plan.silence_seconds
        frozen = [loop for loop, seconds in silence.items() if seconds > most and not child.ending]
        if not child.ready and now - child.started_at > START_SECONDS:
            frozen = ["start"]
        if child.killed or not (overdue or frozen):
            return
        if overdue:
            told = {"worker_id": child.worker_id, "jobs": sorted(overdue)}
            log.error("process replaced: jobs ignored their timeout", extra=told)
            child.stuck = overdue
        else:
            running = sorted(child.slots.started())
            told = {"worker_id": child.worker_id, "loops": frozen, "running": running}
            log.error("process replaced: it stood still", extra=told)
            child.frozen = frozen
        child.kill()

    def problem(self) -> str:
        """Return what stands still in this tree, as one sentence, or nothing. Threads: any."""
        now = time.monotonic()
        if now - self.ticked_at > self.tree.plan.silence_seconds:
            return "The supervisor stands still: restart the worker."
        if now - self.chores_at > self.tree.plan.silence_seconds + CHORE_SECONDS:
            return "The housekeeping of this tree stands still: restart the worker."
        for seat in self.all_seats():
            if (child := seat.child) and child.ready and not child.ending:
                for loop, heard_at in zip(LOOPS, child.heard_at, strict=True):
                    if (seconds := now - heard_at) > self.tree.plan.silence_seconds / 2:
                        return f"The {loop} of process {child.process.pid} has stood still for {seconds:.0f} s."
        return ""

    def hear(self, seat: Seat, child: Child) -> None:
        for message in child.read():
            child.ready = child.ready or "ready" in message
            child.ending = child.ending or "ending" in message
            child.said_goodbye = child.said_goodbye or "goodbye" in message
            if tally := message.get("tally"):
                self.merged.add(tally)
                seat.ran += runs_in(tally)

    def bury(self, seat: Seat, child: Child) -> None:
        """Take back what a dead process held, by what it died of, and decide whether its seat is filled again."""
        self.hear(seat, child)
        code = child.process.returncode
        remains = child.slots.remains()
        act = taking_back(child, code, remains, self.options)
        self.housekeeping.chore(Takeback(self.housekeeping, child.worker_id, act))
        if remains.running and leaves_suspects(child):
            # By the time they are taken back, a process for them is nearly there.
            self.housekeeping.findings.suspects_wait = True
        self.selector.unregister(child.reports)
        seat.child = None
        child.close()
        if seat.quota is not None:
            seat.quota = max(0, seat.quota - seat.ran)
            seat.finished = seat.quota == 0
        if seat.solo:
            self.solos.remove(seat)
        elif not self.stopping:
            self.plan_restart(seat, child, code)

    def plan_restart(self, seat: Seat, child: Child, code: int) -> None:
        """Restart at once after a good life, later and later after bad starts."""
        if code == EXIT_CONFIGURATION and not child.ready and not self.announced:
            self.exit_code = EXIT_CONFIGURATION
            self.stop("a process could not start; its error stands above")
            return
        lived = time.monotonic() - child.started_at
        is_good = lived > STABLE_SECONDS or (code == EXIT_DONE and seat.ran > 0)
        seat.failures = 0 if is_good else seat.failures + 1
        # The first restart is immediate: one crash is a job's doing, several in a row are the machine's.
        longest = 0.0 if seat.failures < 2 else min(LONGEST_RESTART_SECONDS, 0.2 * 2 ** min(seat.failures, 10))
        seat.start_at = time.monotonic() + random.uniform(longest / 2, longest)

    def count(self, settlements: list[Settlement]) -> None:
        """Count the outcomes that no child could count."""
        events = []
        for s in settlements:
            if s.attempt:
                events.append([str(s.attempt.outcome), s.lease.task_path, s.lease.queue_name, 1])
            if s.death:
                events.append(["dead", s.lease.task_path, s.lease.queue_name, 1])
        self.merged.add({"events": events})

    # Stop

    def obey_signals(self) -> None:
        if self.signals and not self.stopping:
            self.stop("signal")
        if self.signals > 1 and self.exit_code != EXIT_SECOND_SIGNAL:
            self.exit_code = EXIT_SECOND_SIGNAL
            self.give_up_at = time.monotonic() + KILL_AFTER_SECONDS
            for seat in self.all_seats():
                if seat.child:
                    seat.child.order(STOP_NOW)

    def stop(self, why: str) -> None:
        log.info("worker stopping", extra={"tree": self.name, "why": why})
        self.stopping = True
        self.give_up_at = time.monotonic() + self.tree.plan.grace_seconds + KILL_AFTER_SECONDS
        for seat in self.all_seats():
            if seat.child:
                seat.child.order(DRAIN)
        self.nursery.dismiss()

    def finish_off(self) -> None:
        """Kill what has not ended by itself long after the grace."""
        if time.monotonic() >= self.give_up_at:
            for seat in self.all_seats():
                if seat.child and not seat.child.killed:
                    log.error("process killed after the grace", extra={"worker_id": seat.child.worker_id})
                    seat.child.kill()

    def finish_chores(self) -> None:
        """Let housekeeping come to its end, but wait for no database for long, and at a second signal for none."""
        self.housekeeping.stop()
        before, until = self.signals, time.monotonic() + LAST_CHORES_SECONDS
        while self.housekeeping.thread.is_alive():
            self.housekeeping.thread.join(SOON_SECONDS)
            self.housekeeping.patience.look(time.monotonic())
            self.obey_signals()
            was_told_again = self.signals > max(before, 1)
            if was_told_again or time.monotonic() >= until:
                then = "what it held is taken over when its leases end"
                log.warning("worker stops without the database", extra={"tree": self.name, "then": then})
                return

    def say_goodbye(self) -> None:
        if self.tree.drain and self.housekeeping.findings.drained:
            left = self.housekeeping.findings.left
            text = ", ".join(f"{number} {kind}" for kind, number in left.items()) or "nothing"
            with contextlib.suppress(Exception):  # nobody listens any more, which changes nothing
                self.say(f"Drained. Left: {text}.")
        log.info("worker stopped", extra={"tree": self.name, "exit_code": self.exit_code})


def quotas(max_jobs: int | None, processes: int) -> list[int | None]:
    """Share `max_jobs` out, so that a tree runs exactly so many however its processes race."""
    if max_jobs is None:
        return [None] * processes
    seats = min(processes, max_jobs)
    return [max_jobs // seats + (place < max_jobs % seats) for place in range(seats)]


def runs_in(tally: dict[str, Any]) -> int:
    return sum(sum(counts) for _, counts, _ in tally.get("runs", ()))
