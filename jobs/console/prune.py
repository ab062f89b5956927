"""`jobs prune`: delete what is past its retention, now."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from .. import lifecycle
from .printer import Printer, add_json

HELP = "delete ended jobs and idempotency records that are past their retention"
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        type=length,
        metavar="TIME",
        help="succeeded and cancelled jobs that ended so long ago (90s, 30m, 12h, 7d) instead of their retention",
    )
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    deleted = lifecycle.prune(older_than=given["older_than"])
    if printer.as_json:
        printer.json(deleted)
        return
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in deleted.items())
    printer.line(f"Deleted {counts}.")


def length(text: str) -> timedelta:
    """Read `90s`, `30m`, `12h` or `7d`."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not found:
        raise ArgumentTypeError(f"{text!r} is no length of time: write 90s, 30m, 12h or 7d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
