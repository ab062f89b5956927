"""`manage.py jobs`: look at the queue and act on it from a shell."""

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from jobs.console import SUBCOMMANDS
from jobs.console.printer import Printer, add_djangos_own


class Command(BaseCommand):
    help = "Look at the job queue and act on it."

    def add_arguments(self, parser: CommandParser) -> None:
        subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
        for name, subcommand in SUBCOMMANDS.items():
            own = subcommands.add_parser(name, help=subcommand.HELP, description=subcommand.HELP)
            own.set_defaults(run=subcommand.run)
            add_djangos_own(own)
            subcommand.arguments(own)

    def handle(self, *args: Any, **given: Any) -> None:
        try:
            given["run"](given, Printer(self.stdout, self.stderr, given.get("json", False)))
            self.stdout.flush()
        except BrokenPipeError:
            # Whoever reads has seen enough. Nothing more can be written there, not even when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except Error as error:
            raise CommandError(f"The database did not answer as expected: {str(error).strip()}") from error
