"""`manage.py jobs_worker`: runworker under a name that Django Channels does not use."""

from .runworker import Command as RunWorker


class Command(RunWorker):
    help = RunWorker.help.replace("Also called jobs_worker", "Also called runworker")
