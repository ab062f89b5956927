"""`jobs schedules`: list, run, enable, disable."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from .. import conf, schedules
from ..models import Schedule
from ..timing import timing_of
from .printer import Printer, add_json, shown

HELP = "look at what the clock enqueues, and switch it"
COLUMNS = ("name", "task", "when", "next", "last", "state")
ACTS = {"run": schedules.run_now, "enable": schedules.enable, "disable": schedules.disable}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="list", choices=("list", *ACTS))
    parser.add_argument("name", nargs="?", metavar="SCHEDULE")
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    if given["what"] == "list":
        show(printer)
    else:
        act(given["what"], given["name"], printer)


def show(printer: Printer) -> None:
    rows = [row_of(schedule) for schedule in Schedule.objects.order_by("name")]
    printer.table(rows, COLUMNS, "There are no schedules.")
    for row in rows:
        if row["problem"] and not printer.as_json:
            printer.line(f"{row['name']} has disabled itself: {row['problem']}")


def row_of(schedule: Schedule) -> dict[str, Any]:
    try:
        when = str(timing_of(schedule))
    except ValueError:
        when = schedule.cron
    state = "broken" if schedule.problem else "enabled" if schedule.enabled else "disabled"
    return {
        "name": schedule.name,
        "task": schedule.task_path,
        "when": when,
        "next": schedule.next_at,
        "last": schedule.last_at,
        "state": state,
        "problem": schedule.problem,
    }


def act(what: str, name: str | None, printer: Printer) -> None:
    if not name:
        raise CommandError(f"Which schedule? manage.py jobs schedules {what} SCHEDULE")
    schedule = Schedule.objects.filter(name=name).first()
    if schedule is None:
        known = dict.fromkeys(Schedule.objects.values_list("name", flat=True))
        raise CommandError(f"There is no schedule {name!r}.{conf.nearest(name, known) if known else ''}")
    try:
        found = ACTS[what](schedule)
    except (LookupError, ValueError) as error:
        raise CommandError(f"{name}: {error}") from error
    if printer.as_json:
        printer.json(row_of(schedule) | ({"job": found} if found else {}))
    elif found:
        printer.line(f"Enqueued job {found}.")
    else:
        printer.line(f"{name} is {row_of(schedule)['state']}. Next: {shown(schedule.next_at)}.")
