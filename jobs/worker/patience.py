"""Ends a wait for the database that lasts too long: a connection may fall silent and never end.

The server is told the same limits, for the day on which it is this host that vanishes. Not those alone: a server that
has vanished enforces nothing, and behind a pooler a session's settings would reach other people's statements.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from ..storage import storage

log = logging.getLogger("jobs")

NEVER = float("inf")
CANCEL_SECONDS = 2.0
SQLITE_BUSY_SECONDS = 5.0  # Python's default
LOCKS_IN_A_ROW = 3


class Own(threading.local):
    """Whose connection it is that this thread opens, if it is a loop's."""

    patience: "Patience | None" = None


own = Own()


def tell_server(connection: Any, **kwargs: Any) -> None:
    """Tell the server of a loop's new connection how long that loop would wait. For `connection_created`."""
    if (patience := own.patience) and connection.alias == storage().alias:
        patience.again()  # to connect took some messages
        storage().limit_statements(patience.seconds)
        patience.again()


class Patience:
    """How long one loop waits for its connection.

    Threads: `waiting` and `again` belong to the loop, the rest to a watcher that needs no database.
    Units: monotonic seconds.
    """

    def __init__(self, loop: str, seconds: float) -> None:
        self.loop, self.seconds = loop, seconds
        self.lock = threading.Lock()
        self.began_at = NEVER
        self.waits = 0  # tells one wait from the next; it grows as long as the loop goes on
        self.connection: Any = None

    @contextmanager
    def waiting(self, alias: str) -> Iterator[None]:
        """Surround what asks the database, all of which may take so long."""
        self.connection = connections[alias]
        with self.lock:
            self.began_at = time.monotonic()
            self.waits += 1
        own.patience = self
        try:
            yield
        finally:
            own.patience = None
            with self.lock:
                self.began_at = NEVER

    def again(self) -> None:
        """Begin to count anew, between two statements of a wait of which each may take so long."""
        with self.lock:
            if self.began_at != NEVER:
                self.began_at = time.monotonic()
                self.waits += 1

    def is_excused(self, now: float) -> bool:
        """Say whether the loop waits for what ends by itself: a connection, once names are looked up, or SQLite's lock.

        SQLite's writers take no turns: under load one may wait for its whole busy time-out, and then for the next.
        """
        began_at, connection = self.began_at, self.connection
        if began_at == NEVER:
            return False
        if connection.vendor == "sqlite":
            busy_seconds = connection.settings_dict["OPTIONS"].get("timeout", SQLITE_BUSY_SECONDS)
            return bool(now - began_at < LOCKS_IN_A_ROW * busy_seconds)
        return connection.connection is None

    def look(self, now: float) -> None:
        """End the wait when it lasts too long: what waits gets an error and tries again."""
        with self.lock:
            waited = now - self.began_at
            if waited <= self.seconds or self.connection.vendor != "postgresql":
                return
            self.began_at = now
            wait = self.waits
        log.warning("connection given up", extra={"loop": self.loop, "seconds": round(waited, 1)})
        # The server may be slow to take a cancellation, or gone: whoever watches must not wait for it.
        threading.Thread(target=self.end, args=(wait,), name="hang-up", daemon=True).start()

    def end(self, wait: int) -> None:
        connection = self.connection
        cancel(connection)
        with self.lock:
            # While this lock is held the loop cannot leave its wait, so the socket is still its own.
            if self.waits == wait and self.began_at != NEVER:
                hang_up(connection)


def end_soon(connection: Any) -> None:
    """Cancel what a connection waits for and hang up, without waiting for either."""

    def end() -> None:
        cancel(connection)
        hang_up(connection)

    threading.Thread(target=end, name="hang-up", daemon=True).start()


def cancel(connection: Any) -> None:
    """Ask a PostgreSQL server, which may not notice that its client has gone, to stop waiting for a lock."""
    driver = connection.connection
    try:
        if hasattr(driver, "cancel_safe"):
            driver.cancel_safe(timeout=CANCEL_SECONDS)
    except Exception:
        log.debug("not cancelled", exc_info=True)


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
