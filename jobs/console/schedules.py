"""`jobs schedules`: list, show, run, enable, disable."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from .. import conf, schedules
from ..exceptions import DuplicateJob, QueueFull
from ..models import Schedule
from ..timing import coming, timing_of
from .printer import Printer, add_json, shown

HELP = "look at what the clock enqueues, and switch it"
SHOWN = 5  # of the times to come, and of those that came
COLUMNS = ("name", "task", "when", "next", "last", "state")
ACTS = {"run": schedules.run_now, "enable": schedules.enable, "disable": schedules.disable}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="list", choices=("list", "show", *ACTS))
    parser.add_argument("name", nargs="?", metavar="SCHEDULE")
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    if given["what"] == "list":
        show(printer)
    elif given["what"] == "show":
        show_one(named(given["what"], given["name"]), printer)
    else:
        act(given["what"], named(given["what"], given["name"]), printer)


def show(printer: Printer) -> None:
    rows = [row_of(schedule) for schedule in Schedule.objects.order_by("name")]
    printer.table(rows, COLUMNS, "There are no schedules.")
    for row in rows:
        if row["problem"] and not printer.as_json:
            what = "has disabled itself" if row["state"] == "broken" else "is off"
            printer.line(f"{row['name']} {what}: {row['problem']}")


def row_of(schedule: Schedule) -> dict[str, Any]:
    try:
        when = str(timing_of(schedule))
    except ValueError:
        when = schedule.cron
    return {
        "name": schedule.name,
        "task": schedule.task_path,
        "when": when,
        "next": schedule.next_at,
        "last": schedule.last_at,
        "state": schedule.state,
        "problem": schedule.problem,
    }


def show_one(schedule: Schedule, printer: Printer) -> None:
    """Print when it comes next, and what came of it."""
    try:
        moments = coming(timing_of(schedule), timezone.now(), SHOWN) if schedule.state == "enabled" else []
    except ValueError:
        moments = []
    ticks = schedule.ticks.select_related("job").only("at", "schedule", "job__state").order_by("-at")[:SHOWN]
    results = [{"at": tick.at, "job": tick.job_id, "state": tick.job.state if tick.job else None} for tick in ticks]
    if printer.as_json:
        printer.json(row_of(schedule) | {"coming": moments, "results": results})
        return
    printer.fields(row_of(schedule) | {f"then {number}": moment for number, moment in enumerate(moments[1:], 1)})
    printer.line()
    printer.table(results, ("at", "job", "state"), "It has not enqueued anything yet.")


def named(what: str, name: str | None) -> Schedule:
    """Raises: CommandError naming the nearest."""
    if not name:
        raise CommandError(f"Which schedule? manage.py jobs schedules {what} SCHEDULE")
    schedule = Schedule.objects.filter(name=name).first()
    if schedule is None:
        known = dict.fromkeys(Schedule.objects.values_list("name", flat=True))
        raise CommandError(f"There is no schedule {name!r}.{conf.nearest(name, known) if known else ''}")
    return schedule


def act(what: str, schedule: Schedule, printer: Printer) -> None:
    try:
        found = ACTS[what](schedule)
    except (LookupError, ValueError, DuplicateJob, QueueFull) as error:
        raise CommandError(f"{schedule.name}: {error}") from error
    if printer.as_json:
        printer.json(row_of(schedule) | ({"job": found} if found else {}))
    elif found:
        printer.line(f"Enqueued job {found}.")
    else:
        printer.line(f"{schedule.name} is {row_of(schedule)['state']}. Next: {shown(schedule.next_at)}.")
