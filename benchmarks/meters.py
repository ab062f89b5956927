"""What a run costs the database server: CPU, WAL, commits, statements. On SQLite the worker pays for everything."""

import re
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from .databases import OBSERVER, Database, PostgresDatabase
from .servers import LOG_LINE_PREFIX
from .trees import cpu_of


class Meter:
    """Of an SQLite file nothing can be read."""

    def wal(self) -> float | None:
        return None

    def commits(self) -> float | None:
        return None

    def cpu_seconds(self) -> float | None:
        return None

    def log_size(self) -> int | None:
        return None

    def statements_since(self, log_size: int | None) -> float | None:
        return None


class PostgresMeter(Meter):
    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.directory = directory_of(database)
        self.has_known_log = database.value("SHOW log_line_prefix") == LOG_LINE_PREFIX
        self.own_pid = database.value("SELECT pg_backend_pid()")

    def wal(self) -> float | None:
        return float(self.database.value("SELECT pg_current_wal_lsn() - '0/0'"))

    def commits(self) -> float | None:
        """Count transactions of others, once those others are gone: a backend reports late, and when it ends."""
        # Not this connection's own: each of its statements is one, also this one.
        self.database.rows("SELECT pg_stat_force_next_flush()")
        sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return float(self.database.value(sql) - self.database.asked)

    def cpu_seconds(self) -> float | None:
        """Return what all processes of the server have used, also those that have ended; None for another host's."""
        with suppress(OSError, ValueError, psutil.Error):
            postmaster = psutil.Process(int((self.directory / "postmaster.pid").read_text().split()[0]))
            times = postmaster.cpu_times()
            others = [process for process in postmaster.children() if process.pid != self.own_pid]
            ended = times.children_user + times.children_system
            return float(ended + sum(cpu_of(process) for process in [postmaster, *others]))
        return None

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    def log_size(self) -> int | None:
        """Return how long the log is; None when there is none here that names database and client."""
        with suppress(OSError):
            if self.has_known_log and self.log_path.is_file():
                return self.log_path.stat().st_size
        return None

    def statements_since(self, log_size: int | None) -> float | None:
        """Count the statements of others in this database that the log names, from a place in it on."""
        if log_size is None:
            return None
        with open(self.log_path, errors="replace") as log:
            log.seek(log_size)
            return float(count_statements(log.read(), self.database.name))


def directory_of(database: PostgresDatabase) -> Path:
    """Return the server's data directory; none that exists when this user may not know it."""
    try:
        return Path(database.value("SHOW data_directory"))
    except psycopg.errors.InsufficientPrivilege:
        return Path("not-known")


def count_statements(text: str, database: str) -> int:
    """Shape: lines that begin as servers.LOG_LINE_PREFIX says."""
    pattern = rf"^\S+ \S+ \S+ \[\d+\] {re.escape(database)}/(?!{OBSERVER} )\S* LOG:  (?:statement|execute [^:]*): "
    return len(re.findall(pattern, text, re.MULTILINE))


def meter_of(database: Database) -> Meter:
    return PostgresMeter(database) if isinstance(database, PostgresDatabase) else Meter()
