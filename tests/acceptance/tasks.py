"""Tasks for workers under test: good ones, and each of the ways in which a task can make trouble.

`ledger` is the path of a `Ledger`; `name` is how a job signs there.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from typing import Any

from django.contrib.auth.models import Group
from django.dispatch import receiver

from jobs import task
from jobs.breakers import Breaker
from jobs.compat import task_started
from jobs.retries import fixed
from tests.acceptance.ledger import Ledger

LOOK_SECONDS = 0.01


def wait_at(ledger: str, gate: str) -> None:
    while not Ledger(ledger).is_open(gate):
        time.sleep(LOOK_SECONDS)


# Good ones


@task
def work(ledger: str, name: str, seconds: float = 0.0) -> str:
    if seconds:
        time.sleep(seconds)
    Ledger(ledger).note(f"{name} done")
    return name


@task
def pass_through(ledger: str, name: str) -> None:
    Ledger(ledger).note(f"{name} in")
    time.sleep(0.01)
    Ledger(ledger).note(f"{name} out")


class LineDown(Exception):
    """What no job is to blame for."""


@task(breaker=Breaker(errors=(LineDown,), after=2, probe=0.5))
def call_out(ledger: str, name: str) -> None:
    Ledger(ledger).note(f"{name} calls")
    if not Ledger(ledger).is_open("line"):
        raise LineDown("the line is down")


@task
def switch_interval() -> float:
    return sys.getswitchinterval()


@task
async def awork(ledger: str, name: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    Ledger(ledger).note(f"{name} done")
    return name


@task(transactional=True)
def write(name: str) -> int:
    return int(Group.objects.create(name=name).pk)


@task
def hold(ledger: str, name: str, gate: str = "gate") -> None:
    """Run until the test opens the gate."""
    Ledger(ledger).note(f"{name} started")
    wait_at(ledger, gate)
    Ledger(ledger).note(f"{name} done")


@task(takes_context=True)
async def ahold(context: Any, ledger: str, name: str, gate: str = "gate") -> None:
    """Do as `hold` does, in the event loop, and say how far it is."""
    context.progress(40, "waiting")
    Ledger(ledger).note(f"{name} started")
    try:
        while not Ledger(ledger).is_open(gate):
            await asyncio.sleep(LOOK_SECONDS)
    except asyncio.CancelledError:
        Ledger(ledger).note(f"{name} cancelled")
        raise
    Ledger(ledger).note(f"{name} done")


# Errors


@task(max_attempts=3, backoff=fixed(0), takes_context=True)
def flaky(context: Any, ledger: str, name: str) -> None:
    if context.attempt == 1:
        raise ConnectionError("the other side hung up")
    Ledger(ledger).note(f"{name} done")


@task(max_attempts=3, backoff=fixed(0))
def poison(customer: int) -> None:
    raise LookupError(f"there is no customer {customer}")


# Death


@task(max_crashes=2)
def die(ledger: str, name: str, how: str, company: list[str]) -> None:
    """Kill the worker, the first time only once `company` has started beside it."""
    book = Ledger(ledger)
    book.note(f"{name} started")
    while not book.has(*(f"{other} started" for other in company)):
        time.sleep(LOOK_SECONDS)
    if how.startswith("exit"):
        os._exit(9 if how == "exit" else 0)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def die_once(ledger: str, name: str, company: list[str]) -> None:
    """Kill the worker when `company` has started too; run well the next time."""
    book = Ledger(ledger)
    book.note(f"{name} started")
    if book.count(f"{name} started") > 1:
        return
    while not book.has(*(f"{other} started" for other in company)):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


# Time


@task(timeout=0.5, max_attempts=1)
def overrun(ledger: str, name: str) -> None:
    """Run for ever, in Python, where an exception can reach it."""
    try:
        while True:
            time.sleep(LOOK_SECONDS)
    finally:
        Ledger(ledger).note(f"{name} cleaned up")


@task(timeout=0.5, max_attempts=1)
async def aoverrun(ledger: str, name: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        Ledger(ledger).note(f"{name} cleaned up")


@task(timeout=0.5, max_attempts=1)
def sleep(ledger: str, name: str) -> None:
    """Sleep in C, where no exception can reach it."""
    Ledger(ledger).note(f"{name} started")
    time.sleep(60)


@task(timeout=0.5, max_attempts=1)
def swallow(ledger: str, name: str) -> None:
    """Swallow whatever is raised in it."""
    Ledger(ledger).note(f"{name} started")
    while True:
        try:
            time.sleep(LOOK_SECONDS)
        except BaseException:
            Ledger(ledger).note(f"{name} swallowed")


@task(timeout=0.5, max_attempts=2, backoff=fixed(0))
def announced(ledger: str, name: str) -> None:
    """Run at once, after a receiver of `task_started` that waits at the gate."""
    Ledger(ledger).note(f"{name} done")


@receiver(task_started)
def wait_while_announced(task_result: Any, **kwargs: Any) -> None:
    if task_result.task.func is announced.func:
        wait_at(task_result.kwargs["ledger"], "gate")


@task
def stand_still(ledger: str, name: str, company: list[str]) -> None:
    """Hold the interpreter as a bad extension does: no thread of this process goes on. Run well the third time."""
    book = Ledger(ledger)
    book.note(f"{name} started")
    while not book.has(*(f"{other} started" for other in company)):
        time.sleep(LOOK_SECONDS)
    if book.count(f"{name} started") < 3:
        ctypes.PyDLL(None).sleep(60)


KEPT = []


@task
def keep_memory(mib: int) -> int:
    """Take memory and never give it back; return who did."""
    KEPT.append(bytearray(mib << 20))
    return os.getpid()


# Stubbornness: an interruption is taken for a sign to go on


@task(transactional=True)
def stubborn(ledger: str, before: str = "", inside: str = "") -> None:
    """Write a group named after this process; wait at a gate before the transaction begins or inside it."""
    Group.objects.create(name=f"written by {os.getpid()}")
    if inside:
        wait_stubbornly(ledger, inside)


@receiver(task_started)
def wait_before_the_transaction(task_result: Any, **kwargs: Any) -> None:
    """Hold a stubborn job that has begun and has no transaction yet: SQLite has one writer, which must not be held."""
    given = task_result.kwargs
    if task_result.task.func is stubborn.func and given.get("before"):
        wait_stubbornly(given["ledger"], given["before"])


def wait_stubbornly(ledger: str, gate: str) -> None:
    Ledger(ledger).note(f"{os.getpid()} waits")
    try:
        wait_at(ledger, gate)
    except BaseException:
        Ledger(ledger).note(f"{os.getpid()} goes on")
