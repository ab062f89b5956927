"""The jobs that are fed. Each takes its number and tells the ledger when it starts, has its effect, and ends."""

import asyncio
import ctypes
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import connection, connections, transaction

from jobs import once, task
from jobs.retries import exponential

from .kinds import LONG_SECONDS
from .ledger import EFFECT, ENDED, RAISED, RECORDED, STARTED, WALL, note

# Faults last for a while: a job that they hit again and again must not run out of its budgets.
PATIENT: dict[str, Any] = {
    "max_attempts": 1000,
    "max_crashes": 1000,
    "timeout": 30,
    "backoff": exponential(base=0.2, cap=2),
}
NEW_CODE = os.environ.get("CHAOS_CODE") != "old"


def seconds_of_work() -> float:
    return random.uniform(0.01, 0.06)


def some_work() -> None:
    time.sleep(seconds_of_work())


@contextmanager
def told(n: int, kind: str) -> Iterator[None]:
    note(STARTED, n, kind)
    if "CHAOS_CLOCK" in os.environ:
        note(WALL, int(time.time()), kind)
    try:
        yield
    except BaseException:
        note(RAISED, n, kind)
        raise
    note(ENDED, n, kind)


def write_row(n: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO chaos_effect (n) VALUES (%s)", [n])


def tell_effect(n: int, kind: str) -> None:
    some_work()
    note(EFFECT, n, kind)
    some_work()


# What may be repeated where an attempt ended badly


@task(**PATIENT)
def raw(n: int) -> int:
    with told(n, "raw"):
        tell_effect(n, "raw")
    return n


@task(**PATIENT)
async def araw(n: int) -> int:
    with told(n, "araw"):
        await asyncio.sleep(seconds_of_work())
        note(EFFECT, n, "araw")
        await asyncio.sleep(seconds_of_work())
    return n


@task(takes_context=True, **PATIENT)
def flaky(context: Any, n: int) -> None:
    with told(n, "flaky"):
        tell_effect(n, "flaky")
        if context.attempt == 1:
            raise ConnectionError("the other side hung up")


@task(**PATIENT)
def long(n: int) -> None:
    with told(n, "long"):
        note(EFFECT, n, "long")
        time.sleep(LONG_SECONDS)


# What happens once in the database


@task(transactional=True, **PATIENT)
def transactional(n: int) -> None:
    with told(n, "transactional"):
        some_work()
        write_row(n)
        some_work()


@task(**PATIENT)
def recorded(n: int) -> None:
    """Write a row that commits together with its idempotency record."""
    with told(n, "recorded"), transaction.atomic():
        once(f"recorded:{n}", lambda: write_row(n))
        some_work()


# What happens outside, guarded by a record


@task(**PATIENT)
def charge(n: int) -> None:
    with told(n, "charge"):
        once(f"charge:{n}", lambda: tell_effect(n, "charge"), on_uncertain="dead")
        note(RECORDED, n, "charge")


@task(takes_context=True, **PATIENT)
def mail(context: Any, n: int) -> None:
    """Every other one fails at first, when its mail is sent and on record: it must not be sent again."""
    with told(n, "mail"):
        once(f"mail:{n}", lambda: tell_effect(n, "mail"), on_uncertain="retry")
        note(RECORDED, n, "mail")
        if context.attempt == 1 and n % 2:
            raise ConnectionError("something else went wrong")


# Misbehaviour

TROUBLE: dict[str, Any] = {"max_attempts": 1, "max_crashes": 2, "timeout": 1.0}


@task(**TROUBLE)
def exits(n: int) -> None:
    note(STARTED, n, "exits")
    os._exit(1)


@task(**TROUBLE)
def segfaults(n: int) -> None:
    note(STARTED, n, "segfaults")
    ctypes.string_at(0)


@task(max_attempts=1, max_crashes=2)
def allocates(n: int) -> None:
    """Take memory until somebody kills the process: the harness does, as the kernel would."""
    note(STARTED, n, "allocates")
    taken = []
    while True:
        taken.append(bytearray(8 << 20))
        time.sleep(0.005)


@task(**TROUBLE)
def loops(n: int) -> None:
    note(STARTED, n, "loops")
    while True:
        pass


@task(**TROUBLE)
def swallows(n: int) -> None:
    note(STARTED, n, "swallows")
    while True:
        with suppress(BaseException):
            time.sleep(0.01)


@task(**PATIENT)
def leaks(n: int) -> None:
    """Open a connection and forget it."""
    with told(n, "leaks"):
        connections["default"].copy().ensure_connection()


@task(**PATIENT)
def leaves_open(n: int) -> None:
    """Leave a transaction open, with a row in it."""
    with told(n, "leaves_open"):
        transaction.set_autocommit(False)
        write_row(n)


@task(**PATIENT)
def closes(n: int) -> None:
    with told(n, "closes"):
        connection.ensure_connection()
        connection.connection.close()


@task(**TROUBLE)
def leaves(n: int) -> None:
    with told(n, "leaves"):
        sys.exit(3)


@task(**TROUBLE)
def interrupts(n: int) -> None:
    with told(n, "interrupts"):
        raise KeyboardInterrupt


@task(**TROUBLE)
def unprintable(n: int) -> Any:
    with told(n, "unprintable"):
        return object()


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


@task(**TROUBLE)
def speechless(n: int) -> None:
    with told(n, "speechless"):
        raise Speechless


# Code of two versions

if NEW_CODE:

    @task(**PATIENT)
    def brand_new(n: int) -> None:
        with told(n, "brand_new"):
            note(EFFECT, n, "brand_new")


@task(schema_version=2 if NEW_CODE else 1, **PATIENT)
def changed(n: int) -> None:
    with told(n, "changed"):
        note(EFFECT, n, "changed")
