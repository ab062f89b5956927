"""What goes wrong. Each fault is a generator: it does harm, yields how many seconds to let pass, and does more.

Closed in the middle, it repairs in a `finally` what must not stay broken.
"""

import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import UTC, datetime

import psutil
import psycopg

from .kinds import LONG_SECONDS
from .world import Kill, World

Harm = Generator[float, None, None]
Fault = Callable[[World], Harm]

OUTAGE_SECONDS = 20.0
CHANGES = (datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 10, 31, 1, tzinfo=UTC))  # in Berlin
MEMORY_LIMIT = 300 << 20  # bytes of a worker process, in the scenario that takes memory


# Death


def kill(world: World, process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        world.record.kills.append(Kill(time.monotonic(), {process.pid}))


def kill_child(world: World) -> Harm:
    while True:
        if workers := world.workers():
            kill(world, world.rng.choice(workers))
        yield world.rng.uniform(1.5, 3.0)


def kill_often(world: World) -> Harm:
    while True:
        if workers := world.workers():
            kill(world, world.rng.choice(workers))
        yield 0.3


def kill_supervisor(world: World) -> Harm:
    """Its children are orphans then: they finish what they run and go."""
    while True:
        tree = world.rng.choice(world.trees)
        tree.send(signal.SIGKILL)
        world.record.bit("supervisors killed")
        yield world.rng.uniform(3.0, 5.0)


def kill_tree(world: World) -> Harm:
    while True:
        tree = world.rng.choice(world.trees)
        pids = tree.kill()
        world.record.kills.append(Kill(time.monotonic(), pids))
        yield world.rng.uniform(6.0, 9.0)


def freeze(world: World) -> Harm:
    """Stop a process, or a whole tree, for longer than its lease, then let it go on: what it believes is over."""
    while True:
        tree = world.rng.choice(world.trees)
        children = tree.children()
        # The supervisor first, so that it sees no child stop.
        frozen = [psutil.Process(tree.pid), *children] if world.rng.random() < 0.5 else children[:1]
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        world.record.kills.append(Kill(time.monotonic(), {process.pid for process in frozen}))
        try:
            yield world.lease_seconds * 1.5 + 2
        finally:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        yield world.rng.uniform(0.5, 1.0)


# The database


def crash_server(world: World) -> Harm:
    assert world.server
    while True:
        world.server.crash()
        world.server.start()
        restored(world)
        yield world.rng.uniform(11.0, 13.0)


def outage(world: World) -> Harm:
    assert world.server
    while True:
        world.server.crash()
        try:
            yield OUTAGE_SECONDS
        finally:
            world.server.start()
            restored(world)
        yield 12.0


def terminate(world: World) -> Harm:
    assert world.server
    while True:
        world.record.bit("connections terminated", world.server.terminate_clients(world.database.name))
        yield 0.5


def take_all_connections(world: World) -> Harm:
    """Leave none to anybody else, and end those that there are."""
    assert world.server
    while True:
        taken: list[psycopg.Connection] = []
        try:
            until = time.monotonic() + 5.0
            while time.monotonic() < until:
                try:
                    taken.append(psycopg.connect(world.server.server.get_uri(), autocommit=True))
                except psycopg.OperationalError:
                    # Whoever is ended here, workers or this process, finds no place again.
                    world.record.bit("connections ended", len(end_clients(taken[0], world)))
                    yield 0.2
        finally:
            for connection in taken:
                connection.close()
            restored(world)
        yield 8.0


def end_clients(connection: psycopg.Connection, world: World) -> list[bool]:
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    return [bool(row[0]) for row in connection.execute(sql, [world.database.name]).fetchall()]


def read_only(world: World) -> Harm:
    assert world.server
    name = world.database.name
    while True:
        world.server.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        world.record.bit("connections terminated", world.server.terminate_clients(name))
        try:
            yield 6.0
        finally:
            world.server.run(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            world.server.terminate_clients(name)
            restored(world)
        yield 8.0


def restored(world: World) -> None:
    world.reconnect()
    world.record.restored.append(time.monotonic())


# The network


def deafen(world: World) -> Harm:
    """Let connections fall silent without an end, for longer than a lease."""
    proxy = world.proxy
    assert proxy
    while True:
        before = proxy.held_back
        proxy.deafen()
        try:
            yield world.lease_seconds * 1.5
        finally:
            proxy.hear()
            world.record.bit("messages swallowed", proxy.held_back - before)
            world.record.restored.append(time.monotonic())
        yield 12.0


def slow_down(world: World) -> Harm:
    proxy = world.proxy
    assert proxy
    before = proxy.delayed
    try:
        while True:
            proxy.delay_seconds = world.rng.uniform(0.02, 0.2)
            yield 3.0
    finally:
        proxy.delay_seconds = 0.0
        world.record.bit("messages delayed", proxy.delayed - before)


def lose_replies(world: World) -> Harm:
    proxy = world.proxy
    assert proxy
    before = proxy.cuts
    try:
        while True:
            proxy.cut_share = 0.02
            yield 1.0
    finally:
        proxy.cut_share = 0.0
        world.record.bit("replies lost", proxy.cuts - before)


# Locks


def hold_transaction(world: World) -> Harm:
    """Keep a transaction open that has seen all rows: nothing can be vacuumed, and nothing else must matter."""
    assert world.server
    with psycopg.connect(world.direct_url, application_name="benchmarks") as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM jobs_job")
        world.record.bit("transactions held open")
        while True:
            yield 1.0


def lock_rows(world: World) -> Harm:
    """Lock a ready row, a running one and the queue's own, one after another, each for longer than a heartbeat."""
    assert world.server
    queries = {
        "ready": "SELECT id FROM jobs_job WHERE state = 'ready' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        "running": "SELECT id FROM jobs_job WHERE state = 'running' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        "queue": "SELECT id FROM jobs_queue LIMIT 1 FOR UPDATE",
    }
    with psycopg.connect(world.direct_url, application_name="benchmarks") as connection:
        while True:
            for what, sql in queries.items():
                until = time.monotonic() + 5.0
                while not connection.execute(sql.encode()).fetchall() and time.monotonic() < until:
                    connection.rollback()
                    yield 0.01
                ended = len(world.ledger.of("ended"))
                yield world.lease_seconds / 2
                connection.rollback()
                if len(world.ledger.of("ended")) > ended:
                    world.record.bit(f"{what} rows locked while others ran")
                yield 0.5


# Deploys


def deploy(world: World) -> Harm:
    """Replace one tree after another, the new one first, as a rolling deploy does."""
    while True:
        old = world.trees.pop(0)
        world.start_tree()
        old.send(signal.SIGTERM)
        world.leaving.append(old)
        world.record.bit("deploys")
        yield world.rng.uniform(3.0, 5.0)


def deploy_impatiently(world: World) -> Harm:
    """Send the second signal soon after the first."""
    while True:
        old = world.trees.pop(0)
        world.start_tree()
        pids = {process.pid for process in old.children()}
        old.send(signal.SIGTERM)
        world.leaving.append(old)
        yield world.rng.uniform(0.05, 0.3)
        old.send(signal.SIGTERM)
        world.record.kills.append(Kill(time.monotonic(), pids))
        yield world.rng.uniform(3.0, 5.0)


def deploy_over_long_jobs(world: World) -> Harm:
    """Stop trees whose jobs need longer than the grace."""
    while True:
        old = world.trees.pop(0)
        world.start_tree()
        pids = {process.pid for process in old.children()}
        old.send(signal.SIGTERM)
        world.leaving.append(old)
        yield world.grace_seconds
        world.record.kills.append(Kill(time.monotonic(), pids))
        yield LONG_SECONDS + 1.0


def upgrade(world: World) -> Harm:
    """Run old code beside new, then replace it."""
    world.environ.pop("CHAOS_CODE", None)
    yield 8.0
    while True:
        for tree in world.trees.copy():
            if tree.is_old:
                world.trees.remove(tree)
                world.start_tree()
                tree.send(signal.SIGTERM)
                world.leaving.append(tree)
        held = "SELECT count(*) FROM jobs_job WHERE held_since IS NOT NULL"
        world.record.bit("jobs held for newer code", int(world.database.value(held)))
        yield 1e9


# Misbehaviour


def misbehave(world: World) -> Harm:
    """The jobs do that themselves; what takes too much memory is killed, as the kernel does, until all is over."""
    threading.Thread(target=watch_memory, args=(world,), daemon=True).start()
    while True:
        yield 1.0


def watch_memory(world: World) -> None:
    while not world.is_over:
        for process in [found for tree in world.everybody() for found in tree.children()]:
            with suppress(psutil.NoSuchProcess):
                if process.memory_info().rss > MEMORY_LIMIT:
                    process.kill()
                    world.record.bit("processes killed for their memory")
        time.sleep(0.05)


# The clock


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
                world.record.bit("steps of the clock")
                yield 4.0
    finally:
        path.write_text("0")


# SQLite


def write_beside(world: World) -> Harm:
    """Let other writers have the file all the time."""
    stopped = threading.Event()

    def write() -> None:
        connection = sqlite3.connect(path_of(world), timeout=60, isolation_level=None)
        while not stopped.is_set():
            connection.execute("INSERT INTO chaos_noise VALUES (1)")
            world.record.bit("rows written beside")
            time.sleep(0.005)
        connection.close()

    world.database.rows("CREATE TABLE IF NOT EXISTS chaos_noise (n bigint)")
    writers = [threading.Thread(target=write, daemon=True) for _ in range(6)]
    for writer in writers:
        writer.start()
    try:
        while True:
            yield 1.0
    finally:
        stopped.set()
        for writer in writers:
            writer.join()


def hold_the_writer(world: World) -> Harm:
    """Write for longer than everybody's busy time-out."""
    while True:
        connection = sqlite3.connect(path_of(world), timeout=60, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield world.busy_seconds + 3.0
        finally:
            connection.execute("ROLLBACK")
            connection.close()
            world.record.restored.append(time.monotonic())
        yield 10.0


def fill_the_disk(world: World) -> Harm:
    """Let no worker write beyond the first half mebibyte of any file: what an exhausted quota looks like."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    while True:
        limited = [process.pid for tree in world.everybody() for process in tree.processes()]
        for pid in limited:
            limit_files(pid, 1 << 19, hard)
        try:
            yield 6.0
        finally:
            for tree in world.everybody():
                for process in tree.processes():
                    limit_files(process.pid, hard, hard)
            world.record.restored.append(time.monotonic())
        yield 10.0


def limit_files(pid: int, soft: int, hard: int) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def forbid_writing(world: World) -> Harm:
    """Make the file read-only for whoever opens it, and have workers open it anew."""
    path = path_of(world)
    while True:
        os.chmod(path, 0o444)
        os.chmod(os.path.dirname(path), 0o555)
        for process in world.workers():
            kill(world, process)
        try:
            yield 6.0
        finally:
            os.chmod(os.path.dirname(path), 0o777)
            os.chmod(path, 0o666)
            world.record.restored.append(time.monotonic())
        yield 10.0


def path_of(world: World) -> str:
    return world.direct_url.removeprefix("sqlite:///")
