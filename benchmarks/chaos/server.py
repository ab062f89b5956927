"""A PostgreSQL that can be stopped without warning and started again."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

from tests.postgresql import temporary_server

from ..databases import OBSERVER

CONFIGURATION = "max_connections = 60\n"


class Server:
    """Durable, as shipped, but for how many connections it takes: a scenario uses them up."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.numbers = itertools.count(1)

    @property
    def socket_path(self) -> str:
        directory = parse_qs(urlsplit(self.server.get_uri()).query)["host"][0]
        return f"{directory}/.s.PGSQL.5432"

    def url(self, database: str) -> str:
        return urlsplit(self.server.get_uri())._replace(path=f"/{database}").geturl()

    def run(self, sql: str) -> None:
        with psycopg.connect(self.server.get_uri(), autocommit=True, application_name=OBSERVER) as connection:
            connection.execute(sql.encode())

    def new_database(self) -> str:
        name = f"jobs_chaos_{next(self.numbers)}"
        self.run(f'CREATE DATABASE "{name}"')
        return name

    def drop(self, name: str) -> None:
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def crash(self) -> None:
        """Stop at once: no goodbyes, and what was not committed is gone."""
        pid = self.server.get_pid()
        os.kill(pid, signal.SIGQUIT)
        while True:
            with suppress(ProcessLookupError):
                os.kill(pid, 0)
                time.sleep(0.02)
                continue
            return

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def terminate_clients(self, database: str) -> int:
        """End all connections of others to a database and return how many there were."""
        with psycopg.connect(self.server.get_uri(), autocommit=True, application_name=OBSERVER) as connection:
            sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name <> %s"
            return len(connection.execute(sql, [database, OBSERVER]).fetchall())


@contextmanager
def running_server() -> Iterator[Server]:
    with temporary_server(CONFIGURATION) as server:
        yield Server(server)
