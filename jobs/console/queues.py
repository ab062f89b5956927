"""`jobs pause QUEUE` and `jobs resume QUEUE`."""

import difflib
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from .. import lifecycle, stats
from ..models import Queue
from ..storage import storage
from .printer import Printer, add_json


@dataclass(frozen=True)
class QueueSwitch:
    HELP: str
    paused: bool
    change: Callable[..., None]

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue", metavar="QUEUE")
        if self.paused:
            parser.add_argument("--reason", default="", help="shown to whoever wonders why nothing runs")
        add_json(parser)

    def run(self, given: dict[str, Any], printer: Printer) -> None:
        name = given["queue"]
        must_exist(name)
        self.change(name, **({"reason": given["reason"]} if self.paused else {}))
        if printer.as_json:
            printer.json({"queue": name, "paused": self.paused})
        elif self.paused:
            printer.line(f"Paused {name}: no worker claims from it, running jobs go on.")
        else:
            printer.line(f"Resumed {name}.")


PAUSE = QueueSwitch("stop claims from a queue; running jobs go on", True, lifecycle.pause)
RESUME = QueueSwitch("let workers claim from a queue again", False, lifecycle.resume)


def must_exist(name: str) -> None:
    """Raises: CommandError naming the nearest queue: pausing a misspelt one would look like success."""
    if Queue.objects.filter(name=name).exists():
        return
    known = {queue.name for queue in stats.queues(storage().now())}
    for config in getattr(settings, "TASKS", {}).values():
        known.update(config.get("QUEUES", ["default"]))
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(sorted(known))}."
        raise CommandError(f"There is no queue {name!r}. {hint}")
