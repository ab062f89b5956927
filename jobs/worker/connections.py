"""What a worker does with Django's connections: they outlive a job, and no job inherits another's transaction."""

import logging
import random
import sqlite3
import threading
import time
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from ..storage import storage
from .patience import tell_server

log = logging.getLogger("jobs")

KEPT_SECONDS = 60
LONGEST_PAUSE_SECONDS = 3.0


SHORTEST_CONNECT_SECONDS = 2  # libpq's

# A server that vanished without a word is noticed in half a minute, not after the kernel's two hours.
TCP = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


def limit_waits(lease_seconds: float) -> None:
    """Let no attempt to connect to a PostgreSQL last longer than a sixth of a lease, and none wait for a dead peer."""
    connection_created.connect(tell_server, dispatch_uid="jobs.worker.patience")
    longest = max(SHORTEST_CONNECT_SECONDS, int(lease_seconds / 6))
    connection = storage().connection
    if connection.vendor == "postgresql":
        given = connection.settings_dict["OPTIONS"]
        limit = min(longest, int(given.get("connect_timeout") or longest))
        connection.settings_dict["OPTIONS"] = TCP | given | {"connect_timeout": limit}


def keep_connections(lease_seconds: float) -> None:
    """Keep connections between jobs: with CONN_MAX_AGE=0 each job would connect anew, some 5 ms each time."""
    limit_waits(lease_seconds)
    for alias in connections:
        config = connections[alias].settings_dict
        if config["CONN_MAX_AGE"] == 0:
            config["CONN_MAX_AGE"] = KEPT_SECONDS
        config["CONN_HEALTH_CHECKS"] = True
    connections.close_all()
    connection_created.connect(note_opened, dispatch_uid="jobs.worker.connections")


class Opened(threading.local):
    """The connections that jobs have opened in this thread: most threads have none, and nothing to look after."""

    def __init__(self) -> None:
        self.connections: list[Any] = []
        self.strays: list[Any] = []  # beside Django's own of this thread: copies that a task has made
        by_thread[threading.get_ident()] = self.connections, self.strays


by_thread: dict[int, tuple[list[Any], list[Any]]] = {}
opened = Opened()


def connections_of(thread_id: int) -> list[Any]:
    """Return the connections that jobs have opened in a thread. Threads: any may ask."""
    return [connection for kind in by_thread.get(thread_id, ()) for connection in kind]


def note_opened(connection: Any, **kwargs: Any) -> None:
    is_own = any(connection is own for own in connections.all(initialized_only=True))
    kept = opened.connections if is_own else opened.strays
    if connection not in kept:
        kept.append(connection)


def distrust() -> None:
    """Before a job: let Django check those connections, before their first use, that the server has left.

    A look at what has arrived costs a microsecond, a health check before every job would cost a round trip.
    """
    for connection in opened.connections:
        if has_ended(connection.connection):
            connection.health_check_done = False


def has_ended(driver_connection: Any) -> bool:
    """Say whether a PostgreSQL connection has been told that it is over. Never gives up the interpreter's lock."""
    pgconn = getattr(driver_connection, "pgconn", None)
    if pgconn is None:
        return False
    try:
        pgconn.consume_input()
        # The first look may find the server's last words, and only the one after it the end.
        pgconn.consume_input()
    except Exception:
        return True
    return False


def tidy() -> None:
    """After a job: end what it left open, drop connections that broke or are too old, keep the others."""
    while opened.strays:
        close_stray(opened.strays.pop())
    for connection in opened.connections.copy():
        if connection.connection is None and not connection.in_atomic_block:
            continue
        if connection.in_atomic_block or not connection.autocommit:
            log.warning("transaction left open by a task", extra={"database": connection.alias})
            discard(connection)
        elif is_closed(connection.connection):
            log.warning("connection closed by a task", extra={"database": connection.alias})
            discard(connection)
        elif connection.errors_occurred or is_due(connection):
            try:
                connection.close_if_unusable_or_obsolete()
            except Exception:  # of some database's driver; the outcome of the job must not be lost by it
                log.warning("connection not checked", exc_info=True, extra={"database": connection.alias})
                discard(connection)


def close_stray(connection: Any) -> None:
    """Close what no other job could use, and what a server has only so many of."""
    driver = connection.connection
    if driver is None or is_closed(driver):
        return
    log.warning("connection left open by a task", extra={"database": connection.alias})
    try:
        driver.close()
    except Exception:  # of some database's driver; the outcome of the job must not be lost by it
        log.warning("connection not closed", exc_info=True, extra={"database": connection.alias})


def is_closed(driver_connection: Any) -> bool:
    """Say whether a task has closed the driver's connection beneath Django's, which then would not connect again."""
    if isinstance(driver_connection, sqlite3.Connection):
        try:
            return driver_connection.total_changes < 0
        except sqlite3.ProgrammingError:
            return True
    return bool(getattr(driver_connection, "closed", False))


def discard_all() -> None:
    """After an interrupted job: it may have been cut off between a command and its result."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            discard(connection)


def discard(connection: Any) -> None:
    """Roll back and forget a connection, whatever state it is in: the next job gets a new one."""
    try:
        if connection.connection is not None:
            connection.connection.close()
    except Exception:
        log.warning("connection not closed", exc_info=True, extra={"database": connection.alias})
    del connections[connection.alias]
    if connection in opened.connections:
        opened.connections.remove(connection)


def is_due(connection: Any) -> bool:
    return connection.close_at is not None and time.monotonic() >= connection.close_at


def pause_after(failures: int) -> float:
    """Return the seconds to wait before trying a database again that has failed so often in a row. Full jitter."""
    return random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10)))
