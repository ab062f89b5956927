"""`jobs cancel ID...`: end waiting jobs, ask running ones to stop."""

from argparse import ArgumentParser
from typing import Any

from .. import lifecycle
from ..models import Job
from .printer import Printer, add_json, positive

HELP = "end waiting jobs at once, ask running ones to stop"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", type=positive, metavar="ID", help="a job's number")
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    running = list(Job.objects.running().filter(pk__in=given["ids"]).values_list("pk", flat=True))
    report = lifecycle.cancel(dict.fromkeys(given["ids"]))
    running = [pk for pk in running if pk in report.done]
    printer.report(report, verb="Cancelled", what="job", otherwise=running)
    for job_id in running if not printer.as_json else ():
        printer.line(f"Job {job_id} is running: it was asked to stop and ends when its task agrees.")
