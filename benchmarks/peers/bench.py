"""One system under measurement: its database, its drivers, and its workers while they run."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from .environments import ROOT, environment, variables
from .systems import System

STOP_SECONDS, LONGEST_SECONDS = 60.0, 600.0


class Failed(Exception):
    """A run whose figure does not count."""


class Worker:
    """The processes that a driver's `work` has started."""

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
        self.process = process
        self.log_path = log_path

    def check(self) -> None:
        if (code := self.process.poll()) is not None:
            raise Failed(f"the worker exited with {code}:\n{self.said()}")

    def said(self) -> str:
        return self.log_path.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Stop it as a deploy does; the group goes too when it does not obey."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise Failed(f"the worker did not stop:\n{self.said()}") from None


@dataclass
class Bench:
    """A system with a database of its own on the server that all share."""

    system: System
    python: str
    url: str
    connection: psycopg.Connection[Any]

    def call(self, *arguments: Any) -> Any:
        """Run one command of the driver to its end and return what it answers."""
        command, environ = self.command(*arguments), variables(self.url)
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LONGEST_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.system.name} {arguments}: no end after {LONGEST_SECONDS:.0f} s") from None
        if done.returncode:
            raise Failed(f"{self.system.name} {arguments}: exit code {done.returncode}\n{done.stderr[-4000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def command(self, *arguments: Any) -> list[str]:
        return [self.python, "-m", f"benchmarks.peers.{self.system.module}", *map(str, arguments)]

    @contextmanager
    def working(self, processes: int, threads: int, task: str, stamps: Path | None = None) -> Iterator[Worker]:
        with tempfile.TemporaryDirectory(prefix="jobs-peers-") as directory:
            log_path = Path(directory) / "worker.log"
            environ = variables(self.url, PEERS_STAMPS=str(stamps or os.devnull))
            with open(log_path, "wb") as log:
                process = subprocess.Popen(
                    self.command("work", processes, threads, task),
                    cwd=ROOT,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            worker = Worker(process, log_path)
            try:
                yield worker
            finally:
                if process.poll() is None:
                    worker.stop()

    def empty(self) -> None:
        """Make the tables as new, so that no run pays for the one before it."""
        self.connection.execute(f"TRUNCATE {self.system.tables}, effects_effect RESTART IDENTITY CASCADE")

    def settle_down(self) -> None:
        """Let no work that the server has put off, for anybody, fall into the next run. Needs a superuser."""
        self.connection.execute("CHECKPOINT")

    def analyze(self) -> None:
        """Let the server know its full tables. Empty ones must not be: it would plan never to use an index again."""
        self.connection.execute("VACUUM (ANALYZE)")

    def value(self, sql: str) -> Any:
        row = self.connection.execute(sql).fetchone()
        return row[0] if row else None


@contextmanager
def benched(system: System, server_url: str) -> Iterator[Bench]:
    """Give a system with its tables in a new database. Raises: Unavailable when its environment cannot be had."""
    python = environment(system)
    name = f"peers_{system.module}"
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name}")
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                bench = Bench(system, python, url, connection)
                bench.call("setup")
                yield bench
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
