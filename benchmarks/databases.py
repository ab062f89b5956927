"""Databases for single runs: each run starts on a copy of a prepared one, byte for byte the same for both of a pair."""

import itertools
import os
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

OBSERVER = "benchmarks"  # the name under which this process connects; its statements are not the queue's


class Database:
    """One database and this process's own connection to it, in autocommit."""

    vendor: str

    def __init__(self, name: str, url: str, connection: Any) -> None:
        self.name, self.url, self.connection = name, url, connection
        self.asked = 0  # statements that this connection has sent

    def rows(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a statement with `%s` placeholders."""
        self.asked += 1
        if self.vendor == "sqlite":
            sql = sql.replace("%%", "\0").replace("%s", "?").replace("\0", "%")
        cursor = self.connection.execute(sql, arguments)
        return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *arguments: Any) -> Any:
        return self.rows(sql, *arguments)[0][0]

    def close(self) -> None:
        self.connection.close()


class PostgresDatabase(Database):
    vendor = "postgresql"

    def __init__(self, name: str, url: str) -> None:
        connection = psycopg.connect(url, autocommit=True, application_name=OBSERVER, prepare_threshold=None)
        super().__init__(name, url, connection)

    def log_statements(self) -> None:
        """Let the server write the statements of connections opened from now on into its log."""
        self.rows(f"ALTER DATABASE \"{self.name}\" SET log_statement = 'all'")


class SQLiteDatabase(Database):
    vendor = "sqlite"

    def __init__(self, name: str, path: Path, options: str = "") -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        connection.execute("PRAGMA journal_mode=WAL")
        super().__init__(name, f"sqlite:///{path}{options}", connection)


class Databases(ABC):
    """Makes, copies and drops databases of one vendor."""

    vendor: str

    def __init__(self) -> None:
        self.numbers = itertools.count(1)

    def new_name(self) -> str:
        return f"jobs_benchmark_{os.getpid()}_{next(self.numbers)}"

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def make(self, template: str | None) -> str:
        """Make a database as a copy of another one, to which nobody is connected, and return its name."""

    @abstractmethod
    def open(self, name: str, options: str = "") -> Database: ...

    @abstractmethod
    def drop(self, name: str) -> None: ...

    @contextmanager
    def kept(self, template: str | None, options: str = "") -> Iterator[Database]:
        """Give a new database, which stays unless something goes wrong."""
        name = self.make(template)
        try:
            database = self.open(name, options)
            try:
                yield database
            finally:
                database.close()
        except BaseException:
            self.drop(name)
            raise

    @contextmanager
    def copied(self, template: str | None, options: str = "") -> Iterator[Database]:
        """Give a copy for one run, and drop it afterwards."""
        with self.kept(template, options) as database:
            yield database
        self.drop(database.name)


class PostgresDatabases(Databases):
    vendor = "postgresql"

    def __init__(self, server_url: str) -> None:
        super().__init__()
        self.server_url = server_url
        self.server = psycopg.connect(server_url, autocommit=True, application_name=OBSERVER)

    def close(self) -> None:
        self.server.close()

    def version(self) -> str:
        row = self.server.execute("SHOW server_version").fetchone()
        return f"PostgreSQL {row[0].split()[0]}" if row else "PostgreSQL"

    def make(self, template: str | None) -> str:
        name = self.new_name()
        # A copy of files, with a checkpoint before and after it: every run starts as far from the next one.
        copying = f'TEMPLATE "{template}" STRATEGY file_copy' if template else ""
        self.server.execute(f'CREATE DATABASE "{name}" {copying}'.encode())
        return name

    def open(self, name: str, options: str = "") -> Database:
        return PostgresDatabase(name, urlsplit(self.server_url)._replace(path=f"/{name}").geturl())

    def drop(self, name: str) -> None:
        self.server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


class SQLiteDatabases(Databases):
    vendor = "sqlite"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.sqlite3"

    def make(self, template: str | None) -> str:
        name = self.new_name()
        if template:
            shutil.copyfile(self.path(template), self.path(name))
            # What the copy left to be written must not be waited for by the first commit of the run.
            os.sync()
        return name

    def open(self, name: str, options: str = "") -> Database:
        return SQLiteDatabase(name, self.path(name), options)

    def drop(self, name: str) -> None:
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path(name)}{ending}")
