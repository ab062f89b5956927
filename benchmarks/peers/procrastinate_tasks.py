"""What Procrastinate's jobs do."""

import asyncio
import time
from typing import Any

from .protocol import SLEEP_SECONDS, stamp


async def noop(number: int) -> None:
    pass


def row(number: int) -> None:
    from .effects.models import Effect

    Effect(number=number).save(force_insert=True)


def sleep(number: int) -> None:
    time.sleep(SLEEP_SECONDS)


async def asleep(number: int) -> None:
    await asyncio.sleep(SLEEP_SECONDS)


async def stamped(sent: float) -> None:
    stamp(sent)


def register(app: Any) -> None:
    """Give an app its tasks: the Django integration's, or a plain one."""
    for name, function in {"noop": noop, "row": row, "sleep": sleep, "asleep": asleep, "stamp": stamped}.items():
        app.task(name=name)(function)
