"""What the jobs of the three systems that speak Django's Tasks API do."""

import asyncio
import os
import time
from importlib import import_module
from typing import Any

from .effects.models import Effect
from .protocol import SLEEP_SECONDS
from .protocol import stamp as write_stamp

# Where each system's users import `task` from.
task: Any = import_module(os.environ["PEERS_TASK_MODULE"]).task


@task
def noop(number: int) -> None:
    pass


@task
def value(number: int) -> dict[str, Any]:
    return {"number": number, "state": "done", "urls": ["/orders/1", "/orders/2"]}


@task
def row(number: int) -> None:
    Effect(number=number).save(force_insert=True)


@task
def sleep(number: int) -> None:
    time.sleep(SLEEP_SECONDS)


@task
async def asleep(number: int) -> None:
    await asyncio.sleep(SLEEP_SECONDS)


@task
def stamp(sent: float) -> None:
    write_stamp(sent)
