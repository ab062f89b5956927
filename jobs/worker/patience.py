"""Ends a wait for the database that lasts too long: a connection may fall silent and never end.

Not by `statement_timeout` alone: a server that has vanished enforces nothing, and behind a pooler a session's settings
would reach other people's statements.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

log = logging.getLogger("jobs")

NEVER = float("inf")


class Patience:
    """How long one loop waits for its connection.

    Threads: `waiting` and `again` belong to the loop, `look` to a watcher that needs no database.
    Units: monotonic seconds.
    """

    def __init__(self, loop: str, seconds: float) -> None:
        self.loop, self.seconds = loop, seconds
        self.began_at = NEVER
        self.connection: Any = None

    @contextmanager
    def waiting(self, alias: str) -> Iterator[None]:
        """Surround what asks the database, all of which may take so long."""
        self.connection = connections[alias]
        self.began_at = time.monotonic()
        try:
            yield
        finally:
            self.began_at = NEVER

    def again(self) -> None:
        """Begin to count anew, between two statements of which each may take so long."""
        if self.began_at != NEVER:
            self.began_at = time.monotonic()

    def look(self, now: float) -> None:
        """End the connection when the loop has waited for too long: what waits gets an error and tries again."""
        if now - self.began_at > self.seconds:
            log.warning("connection given up", extra={"loop": self.loop, "seconds": round(now - self.began_at, 1)})
            self.began_at = now
            hang_up(self.connection)


def hang_up(connection: Any) -> None:
    """Shut a PostgreSQL connection's socket, as its peer's end would, whichever thread waits on it.

    Closing it is left to its own thread. Other databases' drivers know no such wait: SQLite has its busy time-out.
    """
    pgconn = getattr(connection.connection, "pgconn", None)
    if pgconn is None:
        return
    try:
        with socket.socket(fileno=os.dup(pgconn.socket)) as end:
            end.shutdown(socket.SHUT_RDWR)
    except Exception:  # it has gone in this very moment
        log.debug("nothing to hang up", exc_info=True)
