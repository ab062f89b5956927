"""`jobs doctor`: look at everything that the queue needs, and say what is wrong and what to do."""

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from .. import health
from .printer import Printer, add_json

HELP = "check the database, its clock, migrations, workers, waiting jobs and leases"


def arguments(parser: ArgumentParser) -> None:
    add_json(parser)


def run(given: dict[str, Any], printer: Printer) -> None:
    findings = list(health.findings())
    if printer.as_json:
        printer.json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            printer.line(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name.ljust(10)}  {finding.message}")
            for line in finding.detail.splitlines():
                printer.line(f"{'':18}{line.strip()}")
    if wrong := [finding.name for finding in findings if not finding.ok]:
        raise CommandError(f"{len(wrong)} of {len(findings)} checks failed: {', '.join(wrong)}.")
