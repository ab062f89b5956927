"""What subcommands print: columns for people, JSON for programs, and what an operation did and skipped."""

import getpass
import json
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError, OutputWrapper
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone
from django.utils.timesince import timesince

from ..lifecycle import Report

MAX_ENUMERATED = 20


class Printer:
    def __init__(self, out: OutputWrapper, err: OutputWrapper, as_json: bool) -> None:
        self.out, self.err, self.as_json = out, err, as_json

    def json(self, value: Any) -> None:
        self.out.write(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2))

    def line(self, text: str = "") -> None:
        self.out.write(text)

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Iterable[str], empty: str) -> None:
        """Print rows as JSON, or the columns of them under headings; `empty` is said when there are none."""
        if self.as_json:
            self.json(rows)
        elif not rows:
            self.line(empty)
        else:
            heads = list(columns)
            cells = [[head.replace("_", " ").upper() for head in heads]]
            cells += [[shown(row[head]) for head in heads] for row in rows]
            widths = [max(len(line[number]) for line in cells) for number in range(len(heads))]
            for line in cells:
                self.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def fields(self, values: Mapping[str, Any]) -> None:
        width = max(map(len, values), default=0)
        for name, value in values.items():
            self.line(f"{name.replace('_', ' ').ljust(width)}  {shown(value)}")

    def report(self, report: Report, *, verb: str, what: str, otherwise: Collection[int] = ()) -> None:
        """Print what was done and skipped. Raises: CommandError when there was work and none of it was done.

        `otherwise`: what was done in another way, of which the caller tells.
        """
        if self.as_json:
            skipped = [{"id": pk, "why": why} for pk, why in report.skipped]
            self.json({"done": report.done, "skipped": skipped})
        else:
            if done := [pk for pk in report.done if pk not in otherwise]:
                self.line(f"{verb} {what} {enumerated(done)}.")
            for pk, why in report.skipped:
                self.err.write(f"Skipped {what} {pk}: {why}.")
            if not report.done and not report.skipped:
                self.line(f"No {what} matches.")
        if report.skipped and not report.done:
            raise CommandError(f"Nothing was done; skipped: {len(report.skipped)}.")


def enumerated(ids: Sequence[int]) -> str:
    """Return `1, 2 and 98 more`: nobody reads ten thousand numbers."""
    shown_ids = ", ".join(map(str, ids[:MAX_ENUMERATED]))
    return shown_ids if len(ids) <= MAX_ENUMERATED else f"{shown_ids} and {len(ids) - MAX_ENUMERATED} more"


def shown(value: Any) -> str:
    """Return a value as people read it in a terminal."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{timezone.localtime(value):%Y-%m-%d %H:%M:%S}"
        case timedelta() if value < timedelta(minutes=2):
            return f"{value.total_seconds():g} s"
        case timedelta():
            now = timezone.now()
            return timesince(now - value, now, depth=1).replace("\xa0", " ")
        case list() | dict():
            return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)
        case _:
            return str(value)


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_djangos_own(parser: ArgumentParser) -> None:
    """Take Django's own options behind a subcommand too: its parser knows them only before it."""
    for option in ("--settings", "--pythonpath"):
        parser.add_argument(option, default=SUPPRESS, help=SUPPRESS)
    for option in ("--traceback", "--no-color", "--force-color"):
        parser.add_argument(option, action="store_true", default=SUPPRESS, help=SUPPRESS)


def positive(text: str) -> int:
    """Read a number from 1 on; argparse says the function's name when it fails."""
    number = int(text)
    if not 0 < number < 2**63:
        raise ValueError(text)
    return number


def operator() -> str:
    """Return who types this, for the history."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError, ImportError):
        # A container may run a user id that no user database knows.
        return "command line"
