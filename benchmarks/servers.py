"""The database servers that are measured: a durable PostgreSQL started for this, or yours; SQLite needs a directory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgresql import temporary_postgresql

# Statements are counted in the log, by database and client.
LOG_LINE_PREFIX = "%m [%p] %d/%a "
# Otherwise as shipped, durable: every commit waits for the disk.
CONFIGURATION = f"""
max_connections = 200
logging_collector = off
log_line_prefix = '{LOG_LINE_PREFIX}'
"""


@contextmanager
def postgresql() -> Iterator[str]:
    """Give the URL of BENCH_DATABASE_URL, or of a server that is started for as long as this lasts."""
    if url := os.environ.get("BENCH_DATABASE_URL"):
        yield url
        return
    with temporary_postgresql(CONFIGURATION) as url:
        yield url


@contextmanager
def directory() -> Iterator[Path]:
    """Give a new directory for SQLite files, on the disk of the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="jobs-benchmark-") as path:
        yield Path(path)
