"""`jobs show ID`: everything about one job."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from ..models import Job
from ..secrets import redacted
from .printer import Printer, add_json, positive

HELP = "one job with its payload, attempts and dead letters"
ATTEMPT = ("number", "outcome", "worker_id", "started_at", "finished_at", "exception_class", "message", "traceback")
PAYLOAD = ("args", "kwargs", "return_value")
LETTER = ("id", "reason", "exception_class", "message", "died_at", "replayed_at", "replayed_by")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", type=positive, metavar="ID", help="a job's number")
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    job = Job.objects.filter(pk=given["id"]).first()
    if job is None:
        raise CommandError(f"There is no job {given['id']}.")
    fields = {"id": job.pk} | {field.name: getattr(job, field.name) for field in Job._meta.concrete_fields}
    fields |= {name: redacted(fields[name]) for name in PAYLOAD}
    attempts = list(job.attempt_set.order_by("pk").values(*ATTEMPT))
    letters = list(job.dead_letters.order_by("pk").values(*LETTER))
    if printer.as_json:
        printer.json(fields | {"attempt_set": attempts, "dead_letters": letters})
        return
    printer.fields({name: value for name, value in fields.items() if value not in (None, "")})
    for attempt in attempts:
        printer.line(
            f"\nattempt {attempt['number']}: {attempt['outcome']} at {attempt['finished_at']:%Y-%m-%d %H:%M:%S}"
        )
        printer.line(attempt["traceback"].rstrip() or attempt["message"])
    for letter in letters:
        printer.line(f"\ndead letter {letter['id']}: {letter['reason']}, died {letter['died_at']:%Y-%m-%d %H:%M:%S}")
