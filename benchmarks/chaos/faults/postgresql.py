"""A PostgreSQL that crashes, refuses, is locked by others, or cannot be heard."""

import time

import psycopg

from ..world import World
from . import Harm, restored

OUTAGE_SECONDS = 20.0


def crash_server(world: World) -> Harm:
    assert world.server
    while True:
        world.server.crash()
        world.server.start()
        restored(world)
        yield world.rng.uniform(11.0, 13.0)


def outage(world: World) -> Harm:
    assert world.server
    while True:
        world.server.crash()
        try:
            yield OUTAGE_SECONDS
        finally:
            world.server.start()
            restored(world)
        yield 12.0


def terminate(world: World) -> Harm:
    assert world.server
    while True:
        world.server.terminate_clients(world.database.name)
        yield 0.5


def take_all_connections(world: World) -> Harm:
    """Leave none to anybody else, and end those that there are."""
    assert world.server
    while True:
        taken: list[psycopg.Connection] = []
        try:
            until = time.monotonic() + 5.0
            while time.monotonic() < until:
                try:
                    taken.append(psycopg.connect(world.server.server.get_uri(), autocommit=True))
                except psycopg.OperationalError:
                    # Whoever is ended here, workers or this process, finds no place again.
                    world.record.bit("connections ended", len(end_clients(taken[0], world)))
                    yield 0.2
        finally:
            for connection in taken:
                connection.close()
            restored(world)
        yield 8.0


def end_clients(connection: psycopg.Connection, world: World) -> list[bool]:
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    return [bool(row[0]) for row in connection.execute(sql, [world.database.name]).fetchall()]


def read_only(world: World) -> Harm:
    assert world.server
    name = world.database.name
    while True:
        world.server.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        world.server.terminate_clients(name)
        try:
            yield 6.0
        finally:
            world.record.bites["writes refused"] = world.said().count("in a read-only transaction")
            world.server.run(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            world.server.terminate_clients(name)
            restored(world)
        yield 8.0


def deafen(world: World) -> Harm:
    """Let connections fall silent without an end, for longer than a lease."""
    proxy = world.proxy
    assert proxy
    while True:
        before = proxy.held_back
        proxy.deafen()
        try:
            yield world.lease_seconds * 1.5
        finally:
            proxy.hear()
            world.record.bites["connections given up"] = world.said().count("connection given up")
            world.record.bit("messages swallowed", proxy.held_back - before)
            world.record.restored.append(time.monotonic())
        yield 12.0


def slow_down(world: World) -> Harm:
    proxy = world.proxy
    assert proxy
    before = proxy.delayed
    try:
        while True:
            proxy.delay_seconds = world.rng.uniform(0.02, 0.2)
            yield 3.0
    finally:
        proxy.delay_seconds = 0.0
        world.record.bit("messages delayed", proxy.delayed - before)


def lose_replies(world: World) -> Harm:
    proxy = world.proxy
    assert proxy
    before = proxy.cuts
    try:
        while True:
            proxy.cut_share = 0.02
            yield 1.0
    finally:
        proxy.cut_share = 0.0
        world.record.bit("replies lost", proxy.cuts - before)


def hold_transaction(world: World) -> Harm:
    """Keep a transaction open that has seen all rows: nothing can be vacuumed, and nothing else must matter."""
    assert world.server
    with psycopg.connect(world.direct_url, application_name="benchmarks") as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM jobs_job")
        try:
            while True:
                yield 1.0
        finally:
            kept = rows_not_vacuumed(world)
            connection.rollback()
            world.record.bit("dead rows kept from vacuum", max(0, kept - rows_not_vacuumed(world)))


def rows_not_vacuumed(world: World) -> int:
    with psycopg.connect(world.direct_url, autocommit=True, application_name="benchmarks") as connection:
        connection.execute("VACUUM jobs_job")
        sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs_job'"
        return int(connection.execute(sql).fetchone()[0])  # type: ignore[index]


def lock_rows(world: World) -> Harm:
    """Lock a ready row, a running one and the queue's own, one after another, each for longer than a heartbeat."""
    assert world.server
    queries = {
        "ready": "SELECT id FROM jobs_job WHERE state = 'ready' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        "running": "SELECT id FROM jobs_job WHERE state = 'running' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        "queue": "SELECT id FROM jobs_queue LIMIT 1 FOR UPDATE",
    }
    with psycopg.connect(world.direct_url, application_name="benchmarks") as connection:
        while True:
            for what, sql in queries.items():
                until, locked = time.monotonic() + 5.0, connection.execute(sql.encode()).fetchall()
                while not locked and time.monotonic() < until:
                    connection.rollback()
                    yield 0.01
                    locked = connection.execute(sql.encode()).fetchall()
                ended = len(world.ledger.of("ended"))
                yield world.lease_seconds / 2
                connection.rollback()
                if locked and len(world.ledger.of("ended")) > ended:
                    world.record.bit(f"{what} rows locked while others ran")
                yield 0.5
