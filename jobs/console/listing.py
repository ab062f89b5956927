"""`jobs list`: jobs, newest first, or in the order in which their state goes on."""

from argparse import ArgumentParser
from typing import Any

from .. import stats
from ..models import Job
from ..states import State
from .printer import Printer, add_json, positive

HELP = "jobs of a state or a queue"
COLUMNS = ("id", "state", "task_path", "queue_name", "priority", "attempts", "max_attempts", "enqueued_at")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--state", choices=[*State.values, stats.BLOCKED])
    parser.add_argument("--queue", metavar="NAME")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (default 20)")
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    jobs = Job.objects.order_by(*stats.LISTED_BY.get(given["state"], ("-pk",)))
    if given["state"]:
        jobs = stats.listed(jobs, given["state"])
    if given["queue"]:
        jobs = jobs.in_queue(given["queue"])
    rows = list(jobs.values("id", *COLUMNS[1:], "run_after", "finished_at")[: given["limit"]])
    printer.table(rows, COLUMNS, "No job matches.")
