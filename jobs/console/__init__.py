"""`manage.py jobs`: one module a subcommand, each with `arguments(parser)` and `run(given, printer)`."""

from argparse import ArgumentParser
from typing import Any, Protocol

from . import cancel, dead, doctor, enqueue, listing, prune, queues, schedules, show, status
from .printer import Printer


class Subcommand(Protocol):
    """What each of the modules offers."""

    @property
    def HELP(self) -> str: ...

    def arguments(self, parser: ArgumentParser) -> None: ...

    def run(self, given: dict[str, Any], printer: Printer) -> None: ...


SUBCOMMANDS: dict[str, Subcommand] = {
    "status": status,
    "list": listing,
    "show": show,
    "cancel": cancel,
    "pause": queues.PAUSE,
    "resume": queues.RESUME,
    "dead": dead,
    "schedules": schedules,
    "prune": prune,
    "enqueue": enqueue,
    "doctor": doctor,
}
