"""The tasks that are run: each takes the number of its job, as real ones take the key of a row."""

import asyncio
import time

from django.contrib.auth.models import Group

from jobs import task

SLEEP_SECONDS = 0.010


@task
def noop(n: int) -> None:
    pass


@task
def answer(n: int) -> int:
    return n


@task(transactional=True)
def noop_transactional(n: int) -> None:
    pass


@task
def write_row(n: int) -> None:
    """Write one row through the ORM. Names are unique, so a job that ran twice would fail."""
    Group.objects.create(name=f"job {n}")


@task
def sleep(n: int) -> None:
    time.sleep(SLEEP_SECONDS)


@task
async def asleep(n: int) -> None:
    await asyncio.sleep(SLEEP_SECONDS)


ALL = [noop, answer, noop_transactional, write_row, sleep, asleep]
