"""`jobs status`: the queues and workers at a glance."""

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from .. import limits, stats
from ..conf import QueueLimits
from ..storage import storage
from .printer import Printer, add_json

HELP = "queues by depth and age, and the workers"
COLUMNS = ("queue", "scheduled", "ready", "blocked", "running", "dead", "oldest_waits", "paused", "limits")


def arguments(parser: ArgumentParser) -> None:
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    now, in_force = storage().now(), limits.in_force()
    queues, workers, expired = stats.queues(now), stats.workers(now), stats.expired_leases(now)
    if printer.as_json:
        figures = {"queues": [as_json(queue, in_force.get(queue.name)) for queue in queues], "workers": asdict(workers)}
        printer.json({"now": now} | figures | {"expired_leases": expired})
        return
    rows = [
        {"queue": queue.name, "oldest_waits": queue.oldest, "paused": queue.paused and (queue.paused_reason or "yes")}
        | {state: stats.at_least(count) for state, count in queue.depths()}
        | {"limits": said_of(queue, in_force.get(queue.name))}
        for queue in queues
    ]
    printer.table(rows, COLUMNS, "No queue has a job.")
    printer.line()
    printer.line(f"Workers: {workers.alive} alive, {workers.stale} silent. Expired leases: {expired}.")
    if not workers.alive:
        printer.line("No worker is alive, so nothing runs. Start one: manage.py runworker")


def said_of(queue: stats.QueueFigures, found: QueueLimits | None) -> str:
    return f"{limits.described(found)}{' (full)' if limits.is_full(queue.name, found) else ''}"


def as_json(queue: stats.QueueFigures, found: QueueLimits | None) -> dict[str, Any]:
    oldest = queue.oldest.total_seconds() if queue.oldest is not None else None
    values = asdict(queue)
    del values["oldest"]
    is_full = limits.is_full(queue.name, found)
    return values | {"oldest_seconds": oldest, "limits": limits.described(found), "is_full": is_full}
