"""`jobs enqueue TASK_PATH`: enqueue a task by hand, checked as from code."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from .. import registry
from ..exceptions import DuplicateJob, QueueFull
from .printer import Printer, add_json

HELP = "enqueue one call of a task"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("task_path", metavar="TASK_PATH", help="dotted path of the task's function")
    parser.add_argument(
        "--args", dest="positional", default="[]", metavar="JSON", help="positional arguments: '[\"a\", 1]'"
    )
    parser.add_argument(
        "--kwargs", dest="keywords", default="{}", metavar="JSON", help="keyword arguments: '{\"name\": 1}'"
    )
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    args, kwargs = parsed("--args", given["positional"], list), parsed("--kwargs", given["keywords"], dict)
    task = registry.find(given["task_path"])
    if task is None:
        raise CommandError(
            f"There is no task at {given['task_path']!r}: it needs the dotted path of a decorated function."
        )
    try:
        result = task.enqueue(*args, **kwargs)
    except (TypeError, ValueError, DuplicateJob, QueueFull) as error:
        raise CommandError(str(error)) from error
    if printer.as_json:
        printer.json({"id": result.id, "task_path": given["task_path"], "queue_name": result.task.queue_name})
    elif getattr(result, "is_duplicate", False):
        printer.line(f"Not enqueued: job {result.id} holds its dedupe key.")
    else:
        printer.line(f"Enqueued job {result.id} in queue {result.task.queue_name}.")


def parsed(option: str, text: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} is no JSON: {error}.") from error
    if not isinstance(value, kind):
        raise CommandError(f"{option} must be a JSON {'array' if kind is list else 'object'}, not {text}.")
    return value
