"""`manage.py runworker`: parses arguments and starts a worker tree."""

import logging
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections
from django.utils.module_loading import import_string

from jobs import conf, health, lifecycle
from jobs.backend import JobsBackend
from jobs.logs import speak_where_nobody_listens
from jobs.metrics import serve
from jobs.states import ENDED
from jobs.storage import storage
from jobs.tally import Merged
from jobs.worker.nursery import Nursery
from jobs.worker.plan import Plan
from jobs.worker.supervisor import Supervisor, Tree

log = logging.getLogger("jobs")


class Command(BaseCommand):
    help = "Run jobs: a supervisor, its worker processes, and their threads. Also called jobs_worker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        queue_help = "serve these queues, and no others; default: all"
        add("--queue", action="extend", nargs="+", default=[], metavar="NAME", help=queue_help)
        add("--processes", type=count, default=1, metavar="N", help="worker processes; default: 1")
        add("--threads", type=count, default=4, metavar="N", help="threads in each process; default: 4")
        add("--drain", action="store_true", help="exit 0 once nothing that this tree may run is left")
        add("--max-jobs", type=count, metavar="N", help="stop the tree after N jobs")
        add("--recycle-after", type=count, metavar="N", help="replace a process after N jobs")
        add("--max-memory", type=count, metavar="MIB", help="replace a process once it has taken so much memory")
        for name, help_text in LENGTHS.items():
            add(f"--{name.replace('_', '-')}", type=seconds, metavar="SECONDS", help=help_text)
        add("--metrics-port", type=int, metavar="PORT", help="serve Prometheus metrics on this port of 127.0.0.1")
        add("--no-spare", action="store_true", help="load the code in each process anew, and keep none ready to fork")
        add("--no-reload", action="store_true", help="with DEBUG: do not restart processes when code changes")

    def handle(self, *args: Any, **given: Any) -> None:
        options = conf.options()
        lengths = {name: given[name] if given[name] is not None else getattr(options, name) for name in LENGTHS}
        if not lengths["lease"]:
            raise CommandError("--lease must be longer than nothing: nobody could keep such a lease")
        heartbeat = given["heartbeat"] or (lengths["lease"] / 3 if given["lease"] else options.heartbeat_interval)
        if heartbeat > lengths["lease"] / 2:
            raise CommandError("--heartbeat must be at most half of the lease: one missed beat would lose it")
        speak_where_nobody_listens()
        check(given["queue"])
        plan = Plan(
            worker_id="",
            queues=given["queue"],
            threads=given["threads"],
            lease_seconds=lengths["lease"].total_seconds(),
            heartbeat_seconds=heartbeat.total_seconds(),
            grace_seconds=lengths["grace"].total_seconds(),
            timeout_grace_seconds=lengths["timeout_grace"].total_seconds(),
            poll_seconds=lengths["poll_interval"].total_seconds(),
            max_memory=given["max_memory"],
            reload=settings.DEBUG and not given["no_reload"] and not given["drain"],
        )
        lasts = not (given["drain"] or given["max_jobs"] or plan.reload)
        # A process that is to run other code than this one cannot be its fork.
        loads_anew = given["no_spare"] or plan.reload
        nursery = Nursery() if loads_anew else Nursery.beside(renews=lasts)
        tree = Tree(plan, given["processes"], given["drain"], given["max_jobs"], given["recycle_after"])
        merged = Merged()
        supervisor = Supervisor(tree, storage(), options, merged, say=self.stdout.write, nursery=nursery)
        try:
            server = self.metrics_server(given["metrics_port"], merged, supervisor)
            code = supervisor.run()
        finally:
            nursery.dismiss()
        if server:
            server.stop()
        if code:
            raise SystemExit(code)

    def metrics_server(self, port: int | None, merged: Merged, supervisor: Supervisor) -> Any:
        if port is None:
            return None
        try:
            return serve(port, merged, problem=supervisor.problem)
        except (OSError, OverflowError) as error:
            raise CommandError(f"--metrics-port {port} cannot be served: {error}") from error


def check(queues: list[str]) -> None:
    """Raises: CommandError where no jobs can be, the tables of jobs do not exist yet, or for a queue that is none.

    A database that does not answer may come back: the worker waits for it.
    """
    if not has_our_backend():
        raise CommandError(f"No backend in TASKS is {conf.BACKEND}: add it to the settings that this worker runs with.")
    try:
        finding = health.migrations("jobs")
        if not finding.ok:
            raise CommandError(finding.message)
        lifecycle.follow_settings()
        known = conf.queues()
        # What is left in a queue that the settings no longer name can still be run.
        if unknown := [name for name in queues if known and name not in known and not has_jobs(name)]:
            raise CommandError(f"There is no queue {unknown[0]!r}.{conf.nearest(unknown[0], dict.fromkeys(known))}")
    except Error as error:
        log.warning("database does not answer yet", extra={"error": str(error).strip()})
    finally:
        connections.close_all()


def has_our_backend() -> bool:
    """Say whether jobs can come from this project: its backend is ours, or a class made of it."""
    found = [import_string(params["BACKEND"]) for params in getattr(settings, "TASKS", {}).values()]
    return any(issubclass(backend, JobsBackend) for backend in found)


def has_jobs(queue_name: str) -> bool:
    """Say whether a queue has jobs that are not over."""
    return bool(storage().jobs.filter(queue_name=queue_name).exclude(state__in=ENDED).exists())


LENGTHS = {
    "lease": "a job is handed out again when its lease is not renewed for so long; default: OPTIONS",
    "heartbeat": "renew leases so often; default: a third of the lease",
    "grace": "after SIGTERM, wait so long for running jobs; default: OPTIONS",
    "timeout_grace": "replace a process whose job ignores its timeout for so long; default: OPTIONS",
    "poll_interval": "look for jobs so often when no notification comes; default: OPTIONS",
}


def count(text: str) -> int:
    try:
        return conf.count(int(text))
    except ValueError:
        raise ArgumentTypeError(f"takes a whole number from 1, not {text!r}") from None


def seconds(text: str) -> timedelta:
    try:
        return conf.length_or_zero(float(text))
    except ValueError:
        raise ArgumentTypeError(f"takes a number of seconds, not {text!r}") from None
