"""A file that others write, that has no room, or that must not be written."""

import os
import resource
import sqlite3
import threading
import time
from contextlib import suppress

from ..world import BUSY_SECONDS, World
from . import Harm
from .processes import kill

REFUSAL = "readonly database"  # as SQLite words it


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
            yield BUSY_SECONDS + 3.0
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
            for _ in range(12):  # on a busy machine the new processes take longer to begin
                if REFUSAL not in world.said():
                    yield 0.5
        finally:
            os.chmod(os.path.dirname(path), 0o777)
            os.chmod(path, 0o666)
            world.record.restored.append(time.monotonic())
            world.record.bites["writes refused"] = world.said().count(REFUSAL)
        yield 10.0


def path_of(world: World) -> str:
    return world.direct_url.removeprefix("sqlite:///")
