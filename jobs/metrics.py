"""The queue as Prometheus sees it: gauges of the database for the web, counters and histograms for a worker's port."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from . import limits, stats, webhooks
from .conf import QueueLimits
from .limits import door
from .storage import storage
from .tally import ATTEMPT_OUTCOMES, BUCKETS, JOB_ENDS, OTHER, TURNED_AWAY, Histogram, Merged


@dataclass(frozen=True)
class Described:
    kind: str
    labels: tuple[str, ...]
    help: str


CAPPED = f"{stats.MAX_COUNTED} means that many or more."

# Every metric there is. The web serves the gauges of the database, a worker's port the rest.
METRICS = {
    "jobs_depth": Described(
        "gauge",
        ("queue", "state"),
        f"Jobs by queue and state: scheduled, ready, blocked (for a slot of its key), running, dead. {CAPPED}",
    ),
    "jobs_oldest_claimable_age_seconds": Described(
        "gauge",
        ("queue",),
        "How long the oldest job that a worker may take has waited; 0 when there is none or the queue is paused.",
    ),
    "jobs_queue_paused": Described("gauge", ("queue",), "1 while the queue is paused."),
    "jobs_queue_pause_info": Described(
        "gauge",
        ("queue", "by", "reason"),
        "1 for a paused queue. `by`: the task whose breaker paused it, settings, or person. "
        "`reason`: as the admin shows it.",
    ),
    "jobs_queue_limit": Described(
        "gauge",
        ("queue", "limit"),
        "Limits in force: max_running, max_depth, max_age_seconds, rate_limit, and rate_period_seconds with that.",
    ),
    "jobs_queue_full": Described("gauge", ("queue",), "1 while a queue with max_depth or max_age takes no more."),
    "jobs_running": Described("gauge", (), f"Running jobs. {CAPPED}"),
    "jobs_dead": Described("gauge", (), f"Jobs that wait in the dead-letter queue. {CAPPED}"),
    "jobs_held": Described(
        "gauge", ("queue",), f"Jobs put off because no worker that met them knows their task. {CAPPED}"
    ),
    "jobs_leases_expired": Described(
        "gauge", (), f"Running jobs whose lease has expired and that nobody took back yet. {CAPPED}"
    ),
    "jobs_workers_alive": Described("gauge", (), "Worker processes that gave a sign of life within a minute."),
    "jobs_workers_stale": Described("gauge", (), "Worker processes that are listed but have been silent for longer."),
    "jobs_schedules": Described("gauge", ("state",), "Schedules: enabled, disabled, broken (disabled by itself)."),
    "jobs_schedules_late_seconds": Described(
        "gauge", (), "For how long the schedule that is most overdue has been due; 0 when none is."
    ),
    "jobs_attempts_total": Described(
        "counter",
        ("task", "queue", "outcome"),
        "Attempts by outcome: succeeded, failed, snoozed, cancelled, released, interrupted, lost, other.",
    ),
    "jobs_finished_total": Described(
        "counter", ("task", "queue", "outcome"), "Jobs that ended: succeeded, dead, cancelled."
    ),
    "jobs_retried_total": Described("counter", ("task", "queue"), "Failed attempts after which a retry was scheduled."),
    "jobs_lease_lost_total": Described(
        "counter", ("task", "queue"), "Outcomes that were dropped because another worker may own the job."
    ),
    "jobs_turned_away_total": Described(
        "counter",
        ("queue", "how", "process"),
        "Jobs that a full queue did not take at once: rejected, shed, deferred. Each web process counts for itself.",
    ),
    "jobs_webhooks_total": Described(
        "counter",
        ("source", "status", "process"),
        "Webhooks by the HTTP status they were answered with. Each web process counts for itself.",
    ),
    "jobs_limit_waits_total": Described(
        "counter", ("queue",), "Times that a worker has put off a claim because of max_running or rate_limit."
    ),
    "jobs_breaker_trips_total": Described("counter", ("task", "queue"), "Times that a breaker has paused a queue."),
    "jobs_run_seconds": Described("histogram", ("task",), "How long attempts ran."),
    "jobs_wait_seconds": Described("histogram", ("task",), "How long jobs were ready before an attempt started."),
}

Gauges = Mapping[str, Callable[[], float]]


class DatabaseCollector(Collector):
    """Gauges of the queue as the database has it now. One scrape is a handful of bounded queries."""

    def collect(self) -> Iterator[Metric]:
        now = storage().now()
        queues = stats.queues(now)
        workers = stats.workers(now)
        yield gauge(
            "jobs_depth",
            [((queue.name, state), count) for queue in queues for state, count in queue.depths()],
        )
        yield gauge(
            "jobs_oldest_claimable_age_seconds",
            [((queue.name,), queue.oldest.total_seconds() if queue.oldest else 0) for queue in queues],
        )
        yield gauge("jobs_queue_paused", [((queue.name,), int(queue.paused)) for queue in queues])
        yield gauge(
            "jobs_queue_pause_info",
            [((queue.name, queue.paused_by, queue.paused_reason), 1) for queue in queues if queue.paused],
        )
        in_force = limits.in_force()
        yield gauge("jobs_queue_limit", [((name, limit), value) for name, limit, value in limit_samples(in_force)])
        full = [
            ((queue.name,), int(limits.is_full(queue.name, in_force[queue.name])))
            for queue in queues
            if queue.name in in_force
        ]
        yield gauge("jobs_queue_full", full)
        yield gauge("jobs_running", [((), sum(queue.running for queue in queues))])
        yield gauge("jobs_dead", [((), sum(queue.dead for queue in queues))])
        yield gauge("jobs_held", [((queue.name,), queue.held) for queue in queues])
        yield gauge("jobs_leases_expired", [((), stats.expired_leases(now))])
        yield gauge("jobs_workers_alive", [((), workers.alive)])
        yield gauge("jobs_workers_stale", [((), workers.stale)])
        schedules = stats.schedules(now)
        states = ("enabled", "disabled", "broken")
        yield gauge("jobs_schedules", [((state,), getattr(schedules, state)) for state in states])
        yield gauge("jobs_schedules_late_seconds", [((), schedules.late.total_seconds())])
        yield turned_away(door.counts())
        answers = [
            ((source, str(status), process()), times) for (source, status), times in webhooks.answers.counts().items()
        ]
        yield counter("jobs_webhooks_total", sorted(answers))


class WorkerCollector(Collector):
    """What the children of one supervisor did, and what it says of itself."""

    def __init__(self, merged: Merged, extra_gauges: Gauges) -> None:
        self.merged = merged
        self.extra_gauges = extra_gauges

    def collect(self) -> Iterator[Metric]:
        events, runs, waits = self.merged.snapshot()

        def counted(wanted: Iterable[str], by_outcome: bool) -> list[tuple[tuple[str, ...], float]]:
            return [
                ((task, queue, event) if by_outcome else (task, queue), times)
                for (event, task, queue), times in sorted(events.items())
                if event in wanted
            ]

        yield counter("jobs_attempts_total", counted(ATTEMPT_OUTCOMES | {OTHER}, by_outcome=True))
        yield counter("jobs_finished_total", counted(JOB_ENDS, by_outcome=True))
        yield counter("jobs_retried_total", counted({"retried"}, by_outcome=False))
        yield counter("jobs_lease_lost_total", counted({"lease_lost"}, by_outcome=False))
        yield counter("jobs_breaker_trips_total", counted({"tripped"}, by_outcome=False))
        by_queue = [(event, queue, times) for (event, _, queue), times in sorted(events.items())]
        # The schedules of the supervisor's own housekeeping are refused in this process.
        refused = Counter(door.counts())
        refused.update({(queue, how): times for how, queue, times in by_queue if how in TURNED_AWAY})
        yield turned_away(refused)
        limited = [((queue,), times) for event, queue, times in by_queue if event == "limited"]
        yield counter("jobs_limit_waits_total", limited)
        yield histogram("jobs_run_seconds", runs)
        yield histogram("jobs_wait_seconds", waits)
        for name, read in self.extra_gauges.items():
            yield gauge(name, [((), read())])


def limit_samples(in_force: Mapping[str, QueueLimits]) -> Iterator[tuple[str, str, float]]:
    for name, found in sorted(in_force.items()):
        values: dict[str, float | None] = {
            "max_running": found.max_running,
            "max_depth": found.max_depth,
            "max_age_seconds": found.max_age.total_seconds() if found.max_age else None,
            "rate_limit": found.rate_limit,
            "rate_period_seconds": found.rate_period.total_seconds() if found.rate_limit else None,
        }
        yield from ((name, limit, value) for limit, value in values.items() if value is not None)


def turned_away(jobs: Mapping[tuple[str, str], int]) -> Metric:
    """Count what full queues did not take, as far as this process knows, by queue and how."""
    return counter("jobs_turned_away_total", [((*place, process()), times) for place, times in sorted(jobs.items())])


def process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def gauge(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    described = METRICS.get(name) or Described("gauge", (), name.replace("_", " "))
    family = GaugeMetricFamily(name, described.help, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def counter(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = CounterMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def histogram(name: str, seen: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels)
    bounds = [*map(str, BUCKETS), "+Inf"]
    for task, observed in sorted(seen.items()):
        buckets = list(zip(bounds, accumulate(observed.counts), strict=True))
        family.add_metric([task], buckets=buckets, sum_value=observed.seconds)
    return family


def exposition(collector: Collector, accept: str) -> tuple[bytes, str]:
    """Return the text of a scrape and its content type, in the format that the `Accept` header asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(collector), content_type


class MetricsServer:
    """A worker's metrics port. Calling it, or `stop()`, ends it."""

    def __init__(self, address: str, port: int, collector: Collector, problem: Callable[[], str]) -> None:
        self.collector, self.problem = collector, problem
        server_class = IPv6Server if ":" in address else Server
        self.server = make_server(address, port, self.answer, server_class, QuietHandler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, name="jobs-metrics", daemon=True)
        self.thread.start()

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                body, content_type = exposition(self.collector, environ.get("HTTP_ACCEPT", ""))
                status = "200 OK"
            case "/healthz":
                problem = self.problem()
                body, content_type = f"{problem or 'alive'}\n".encode(), "text/plain; charset=utf-8"
                status = "503 Service Unavailable" if problem else "200 OK"
            case _:
                body, content_type = b"There are /metrics and /healthz.\n", "text/plain; charset=utf-8"
                status = "404 Not Found"
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [body]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    __call__ = stop


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class IPv6Server(Server):
    address_family = socket.AF_INET6


class QuietHandler(WSGIRequestHandler):
    # A client that connects and says nothing must not keep a thread for ever.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no news."""


def no_problem() -> str:
    return ""


def serve(
    port: int,
    merged: Merged,
    extra_gauges: Gauges | None = None,
    address: str = "127.0.0.1",
    problem: Callable[[], str] = no_problem,
) -> MetricsServer:
    """Answer `/metrics` and `/healthz` on a thread until the returned server is called.

    `problem`: says in one sentence why the tree should be restarted, or nothing.
    `extra_gauges`: functions by metric name, asked at each scrape on the server's thread.
    Raises: OSError when the port is taken. Port 0 takes a free one; the server's `port` says which.
    """
    return MetricsServer(address, port, WorkerCollector(merged, extra_gauges or {}), problem)
