"""What a job queue needs from a connection, by database."""

from pathlib import Path
from typing import Any

SQLITE = {
    # IMMEDIATE takes the write lock at BEGIN, where the busy timeout applies; a transaction that reads first and
    # writes later would fail with "database is locked" at once, whatever the timeout.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # With WAL readers and the one writer do not wait for each other. FULL syncs at each commit: an enqueued job
    # survives a power cut. Django itself turns foreign keys on.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
}

POSTGRESQL = {
    "connect_timeout": 10,
    # A server that vanished without a word is noticed in about a minute, not after the kernel's two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def tuned(config: dict[str, Any]) -> dict[str, Any]:
    """Return the database's settings with our options beneath those that DATABASE_URL gives."""
    options = config.get("OPTIONS", {})
    match config["ENGINE"]:
        case "django.db.backends.sqlite3":
            if config["NAME"] != ":memory:":
                Path(config["NAME"]).parent.mkdir(parents=True, exist_ok=True)
            return config | {"OPTIONS": SQLITE | options}
        case "django.db.backends.postgresql":
            return {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True} | config | {"OPTIONS": POSTGRESQL | options}
        case _:
            return config
