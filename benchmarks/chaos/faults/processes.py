"""Workers that are killed, frozen, replaced, badly treated by their jobs, or told a wrong time."""

import itertools
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import psutil

from ..kinds import LONG_SECONDS, UNTIDY
from ..ledger import ENDED, WALL, Entry
from ..trees import Tree
from ..world import Kill, Thaw, World
from . import Harm

CHANGES = (datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 10, 31, 1, tzinfo=UTC))  # in Berlin
WRONG_SECONDS = 1800.0
LOOKS, LOOK_SECONDS = 200, 0.01  # for somebody who runs a job
MEMORY_LIMIT = 300 << 20  # bytes of a worker process, in the scenario that takes memory


def kill(world: World, process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        world.record.kills.append(Kill(time.monotonic(), {process.pid}))


def busy(world: World, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that run jobs at this moment, of several looks the first at which any does; else all."""
    for _ in range(LOOKS):
        if found := [process for process in processes if world.ledger.running({process.pid}, time.monotonic())]:
            return found
        time.sleep(LOOK_SECONDS)
    return processes


def tree_at_work(world: World) -> Tree:
    """Pick one of the trees that run jobs at this moment, or soon."""
    children = {tree: tree.children() for tree in world.trees}
    at_work = {process.pid for process in busy(world, [process for found in children.values() for process in found])}
    trees = [tree for tree, found in children.items() if at_work & {process.pid for process in found}]
    return world.pick(trees or world.trees)


def kill_child(world: World) -> Harm:
    while True:
        if workers := world.workers():
            kill(world, world.pick(busy(world, workers)))
        yield world.rng.uniform(1.5, 3.0)


def kill_often(world: World) -> Harm:
    while True:
        if workers := world.workers():
            kill(world, world.pick(workers))
        yield 0.3


def kill_supervisor(world: World) -> Harm:
    """Its children are orphans then: they finish what they run and go."""
    while True:
        tree = tree_at_work(world)
        pids = {process.pid for process in tree.children()}
        tree.send(signal.SIGKILL)
        world.record.bit("runs orphaned", len(world.ledger.running(pids, time.monotonic())))
        yield world.rng.uniform(3.0, 5.0)


def kill_tree(world: World) -> Harm:
    while True:
        pids = tree_at_work(world).kill()
        world.record.kills.append(Kill(time.monotonic(), pids))
        yield world.rng.uniform(6.0, 9.0)


def freeze(world: World) -> Harm:
    """Stop a whole tree, or a process, for longer than its lease, then let it go on: what it believes is over.

    A process alone does not go on: by then its supervisor has replaced it.
    """
    for takes_all in itertools.cycle([True, False]):
        tree = world.pick(world.trees)
        children = tree.children()
        at_work = busy(world, children)
        # The supervisor first, so that it sees no child stop.
        frozen = [psutil.Process(tree.pid), *children] if takes_all else at_work[:1]
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        frozen_at, pids = time.monotonic(), {process.pid for process in frozen}
        world.record.kills.append(Kill(frozen_at, pids))
        try:
            yield world.lease_seconds * 1.5 + 2
        finally:
            world.record.thaws.append(Thaw(frozen_at, time.monotonic(), pids))
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        yield world.rng.uniform(0.5, 1.0)


def leave(world: World) -> tuple[Tree, set[int]]:
    """Start a new tree in the place of the oldest, and tell that one to go; return it and the pids of its workers."""
    old = world.trees.pop(0)
    world.start_tree()
    children = old.children()
    busy(world, children)
    pids = {process.pid for process in children}
    old.send(signal.SIGTERM)
    world.record.bit("runs under way at a deploy", len(world.ledger.running(pids, time.monotonic())))
    world.leaving.append(old)
    return old, pids


def deploy(world: World) -> Harm:
    """Replace one tree after another, as a rolling deploy does."""
    while True:
        leave(world)
        yield world.rng.uniform(3.0, 5.0)


def deploy_impatiently(world: World) -> Harm:
    """Send the second signal soon after the first."""
    while True:
        old, pids = leave(world)
        yield world.rng.uniform(0.05, 0.3)
        old.send(signal.SIGTERM)
        world.record.kills.append(Kill(time.monotonic(), pids))
        yield world.rng.uniform(3.0, 5.0)


def deploy_over_long_jobs(world: World) -> Harm:
    """Stop trees whose jobs need longer than the grace."""
    while True:
        _, pids = leave(world)
        yield world.grace_seconds
        world.record.kills.append(Kill(time.monotonic(), pids))
        yield LONG_SECONDS + 1.0


def upgrade(world: World) -> Harm:
    """Run old code beside new, then replace it."""
    world.environ.pop("CHAOS_CODE", None)
    held: set[int] = set()
    for _ in range(16):
        yield 0.5
        held |= {row[0] for row in world.database.rows("SELECT id FROM jobs_job WHERE held_since IS NOT NULL")}
    world.record.bit("jobs held for newer code", len(held))
    while True:
        for tree in world.trees.copy():
            if tree.is_old:
                world.trees.remove(tree)
                world.start_tree()
                tree.send(signal.SIGTERM)
                world.leaving.append(tree)
        yield 1e9


def misbehave(world: World) -> Harm:
    """The jobs do that themselves; what takes too much memory is killed, as the kernel does, until all is over."""
    threading.Thread(target=watch_memory, args=(world,), daemon=True).start()
    while True:
        yield 1.0


def untidy(world: World) -> Harm:
    """The jobs do that themselves: they leave connections, transactions and what they closed to others."""
    try:
        while True:
            yield 1.0
    finally:
        world.record.bit("untidy runs", sum(entry.kind in UNTIDY for entry in world.ledger.of(ENDED)))


def watch_memory(world: World) -> None:
    while not world.is_over:
        for process in [found for tree in world.everybody() for found in tree.children()]:
            with suppress(psutil.NoSuchProcess):
                if process.memory_info().rss > MEMORY_LIMIT:
                    process.kill()
                    world.record.bit("processes killed for their memory")
        time.sleep(0.05)


def step_clock(world: World) -> Harm:
    """Move the wall clock of the workers' host by an hour, ahead and back, and over changes to summer time and from it.

    Not as far under SQLite, where it is the only clock there is, and retention would come due.
    """
    path = world.clock_path
    assert path
    changes = [moment.timestamp() - time.time() - 2.0 for moment in CHANGES] if world.server else []
    try:
        while True:
            for offset in (3600.0, -3600.0, *changes, 0.0):
                path.write_text(str(offset))
                yield 4.0
    finally:
        path.write_text("0")
        world.record.bit("runs at a wrong time", sum(is_wrong(entry) for entry in world.ledger.of(WALL)))


def is_wrong(seen: Entry) -> bool:
    """Say whether a run saw another time than this process."""
    return abs(seen.n - (time.time() - (time.monotonic() - seen.moment))) > WRONG_SECONDS
