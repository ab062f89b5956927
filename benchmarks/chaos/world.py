"""Everything that a scenario acts upon: a database, worker trees, a feeder, and the ledger that watches them."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar
from urllib.parse import urlsplit

import psutil

from ..databases import OBSERVER, Database, PostgresDatabase, SQLiteDatabase
from ..processes import ROOT, environment, reported_by
from . import ledger
from .proxy import Proxy
from .server import Server
from .trees import Footprint, Tree

T = TypeVar("T")

KEEP_SECONDS = 0.5  # after which an ended tree is started again, as an init system does
BUSY_SECONDS = 20.0  # of every SQLite connection: config/databases.py
DISMISSAL_SECONDS = 15.0  # beyond the grace
REPLACED_SECONDS = 10.0  # by then somebody sits in an empty seat again
BEGUN_SECONDS = 3.0  # after which a process has loaded all its code, on a busy machine too
SECOND_SIGNAL = 130  # how a supervisor ends that was told twice
EFFECTS = "CREATE TABLE chaos_effect (n bigint NOT NULL)"


@dataclass
class Kill:
    """Processes that were killed or frozen, and what they were running."""

    moment: float
    pids: set[int]


@dataclass
class Thaw:
    """Processes that were frozen and let go on. Units: monotonic seconds."""

    frozen_at: float
    resumed_at: float
    pids: set[int]


@dataclass
class Record:
    """What was done to the world, for those who judge it afterwards. Units: monotonic seconds."""

    kills: list[Kill] = field(default_factory=list)
    restored: list[float] = field(default_factory=list)  # when a database came back
    thaws: list["Thaw"] = field(default_factory=list)
    bites: dict[str, int] = field(default_factory=dict)  # other evidence that a fault hit something

    def bit(self, what: str, times: int = 1) -> None:
        self.bites[what] = self.bites.get(what, 0) + times


class World:
    """Threads: the scenario's alone; helpers of it run beside only as long as it lets them."""

    def __init__(self, vendor: str, directory: Path, seed: int, server: Server | None) -> None:
        self.vendor, self.directory, self.server = vendor, directory, server
        self.rng = random.Random(seed)  # of the schedule, and of nothing that goes at its own pace
        self.seed = seed
        self.record = Record()
        self.ledger = ledger.Ledger(directory / "ledger")
        self.proxy: Proxy | None = None
        self.arguments: tuple[str, ...] = ()
        self.environ: dict[str, str] = {}
        self.is_humble = False  # workers may not write what permissions forbid, even when root started them
        self.lease_seconds = self.grace_seconds = 0.0
        self.clock_path: Path | None = None
        self.is_over = False
        self.trees: list[Tree] = []
        self.leaving: list[Tree] = []
        self.ended: list[Tree] = []
        self.crashes: list[str] = []  # ends of trees that nobody had told to end
        self.feeder: subprocess.Popen[bytes] | None = None
        self.fed_from = 1
        self.database = self.make_database()

    def make_database(self) -> Database:
        if self.server:
            name = self.server.new_database()
            self.url = self.direct_url = self.server.url(name)
            reported_by("benchmarks.clients", self.url, "prepare")
            database: Database = PostgresDatabase(name, self.url)
        else:
            path = self.directory / "data" / "chaos.sqlite3"
            path.parent.mkdir()
            self.url = self.direct_url = f"sqlite:///{path}"
            reported_by("benchmarks.clients", self.url, "prepare")
            database = SQLiteDatabase(path.name, path)
        database.rows(EFFECTS)
        return database

    def put_proxy_before_the_database(self) -> Proxy:
        assert self.server
        self.proxy = Proxy(self.server.socket_path, random.Random(self.seed))
        self.url = f"postgres://postgres@127.0.0.1:{self.proxy.port}/{self.database.name}?sslmode=disable"
        return self.proxy

    def reconnect(self) -> None:
        """Open this process's own connection again, after a database has been away."""
        self.database.close()
        if self.server:
            self.database = PostgresDatabase(self.database.name, self.direct_url)

    # Trees

    def start_tree(self) -> Tree:
        log = self.directory / f"worker-{len(self.trees) + len(self.leaving) + len(self.ended)}.log"
        full = environment(self.url) | {ledger.VARIABLE: str(self.ledger.path)}
        shim = self.environ.get("PYTHONPATH", "")
        full |= self.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [shim, full["PYTHONPATH"]]))}
        tree = Tree(self.arguments, full, log, self.is_humble)
        self.trees.append(tree)
        return tree

    def keep_trees(self) -> None:
        """Start trees again that have ended, as an init system does, and note which deploys are through."""
        for tree in self.trees.copy():
            if tree.has_ended() and time.monotonic() - tree.started_at > KEEP_SECONDS:
                if not tree.was_told:
                    self.crashes.append(f"with {tree.supervisor.returncode}")
                self.trees.remove(tree)
                self.ended.append(tree)
                self.start_tree()
        for tree in self.leaving.copy():
            if tree.has_ended():
                self.leaving.remove(tree)
                self.ended.append(tree)

    def pick(self, things: Sequence[T]) -> T:
        """Choose by the seed: one draw, however many there are to choose from."""
        return things[int(self.rng.random() * len(things))]

    def dismiss_trees(self) -> list[str]:
        """Have all trees end, and say which did not, or not well: afterwards nothing has an effect any more."""
        problems = [f"a tree ended by itself {how}" for how in self.crashes]
        for tree in self.trees:
            tree.send(signal.SIGTERM)
        until = time.monotonic() + self.grace_seconds + DISMISSAL_SECONDS
        while time.monotonic() < until and not all(tree.has_ended() for tree in self.everybody()):
            time.sleep(0.1)
        for tree in self.everybody():
            if not tree.has_ended():
                problems.append("a tree that was told to end is still there")
            elif tree.supervisor.returncode not in (0, SECOND_SIGNAL):
                problems.append(f"a tree that was told to end did so with {tree.supervisor.returncode}")
        if any(tree.processes() for tree in self.ended):
            problems.append("a process outlives its supervisor")
        for tree in [*self.everybody(), *self.ended]:
            tree.kill()
        return problems

    def everybody(self) -> list[Tree]:
        return [*self.trees, *self.leaving]

    def workers(self) -> list[psutil.Process]:
        return [process for tree in self.trees for process in tree.children()]

    def footprint(self) -> Footprint:
        threads: list[int] = []
        descriptors: list[int] = []
        sizes: list[float] = []
        files: list[int] = []
        until = time.monotonic() + REPLACED_SECONDS
        while not sizes:
            for process in self.workers():
                with suppress(psutil.NoSuchProcess):
                    if time.time() - process.create_time() < BEGUN_SECONDS:
                        continue  # it has not taken yet what it needs
                    threads.append(process.num_threads())
                    files.append(self.database_files_of(process))
                    descriptors.append(process.num_fds() - files[-1])
                    sizes.append(process.memory_info().rss / (1 << 20))
            if time.monotonic() > until:
                raise RuntimeError(f"there are no workers:\n{self.said()}")
            self.pass_time(0.1)
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> %s"
        connections = int(self.database.value(count, OBSERVER)) if self.server else 0
        return Footprint(max(threads), max(descriptors), median(sizes), connections, max(files))

    def database_files_of(self, process: psutil.Process) -> int:
        path = os.path.realpath(urlsplit(self.database.url).path)
        return 0 if self.server else sum(file.path.startswith(path) for file in process.open_files())

    def said(self) -> str:
        """Return all that worker trees have logged."""
        return "\n".join(tree.said() for tree in [*self.everybody(), *self.ended])

    # Time

    def pass_time(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            self.keep_trees()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.1, left))

    def wait_until_ready(self, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while not all(tree.is_ready() for tree in self.trees):
            if time.monotonic() > until:
                raise RuntimeError(f"the workers do not get ready:\n{self.said()}")
            self.pass_time(0.1)

    # Feed

    def feed(self, rate: float, extras: dict[str, int]) -> None:
        given = [f"{kind}:{every}" for kind, every in extras.items()]
        self.feeder = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos.feeder", str(rate), str(self.fed_from), *given],
            cwd=ROOT,
            env=environment(self.direct_url) | {ledger.VARIABLE: str(self.ledger.path)},
            stdin=subprocess.PIPE,
        )

    def stop_feeding(self) -> None:
        if self.feeder:
            self.feeder.communicate(timeout=60)
            code, self.feeder = self.feeder.returncode, None
            if code:
                raise RuntimeError(f"the feeder ended with {code}")

    # End

    def stop(self) -> None:
        """End everything that this world has started."""
        self.is_over = True
        if self.feeder:
            self.feeder.kill()
            self.feeder.wait()
        for tree in [*self.everybody(), *self.ended]:
            for process in tree.processes():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            tree.kill()
        self.ledger.close()
        with suppress(Exception):
            self.database.close()
        if self.proxy:
            self.proxy.stop()
        if self.server:
            self.server.drop(self.database.name)


@contextmanager
def a_world(vendor: str, seed: int, server: Server | None) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="jobs-chaos-") as path:
        Path(path).chmod(0o755)
        world = World(vendor, Path(path), seed, server)
        try:
            yield world
        finally:
            world.stop()
