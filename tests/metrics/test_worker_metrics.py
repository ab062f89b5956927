"""A worker's metrics port tells what all of its children did."""

import subprocess
import urllib.error
import urllib.request

import pytest

from jobs.metrics import METRICS, WorkerCollector, exposition, serve
from jobs.tally import EVENTS, Merged, Tally

from .scrape import families, samples


@pytest.fixture
def merged():
    """Two children: one billed twice and failed once, the other failed for good."""
    total = Merged()
    for events in (("succeeded", "succeeded", "failed", "retried"), ("failed", "dead", "lease_lost")):
        tally = Tally()
        for event in events:
            tally.count(event, "shop.tasks.bill", "default")
        tally.add({}, {"shop.tasks.bill": [0.3]}, {"shop.tasks.bill": [4000]})
        total.add(tally.take())
    return total


def text_of(merged, extra_gauges=None):
    body, _content_type = exposition(WorkerCollector(merged, extra_gauges or {}), "")
    return body.decode()


def test_attempts_and_ended_jobs_are_counted_by_task_queue_and_outcome(merged):
    found = samples(text_of(merged))

    assert found["jobs_attempts_total", "shop.tasks.bill", "default", "succeeded"] == 2
    assert found["jobs_attempts_total", "shop.tasks.bill", "default", "failed"] == 2
    assert found["jobs_finished_total", "shop.tasks.bill", "default", "succeeded"] == 2
    assert found["jobs_finished_total", "shop.tasks.bill", "default", "dead"] == 1
    assert found["jobs_retried_total", "shop.tasks.bill", "default"] == 1
    assert found["jobs_lease_lost_total", "shop.tasks.bill", "default"] == 1


def test_every_event_reaches_some_counter():
    merged, tally = Merged(), Tally()
    for event in EVENTS:
        tally.count(event, "t", f"queue-{event}")
    merged.add(tally.take())

    labels = {label for key in samples(text_of(merged)) for label in key[1:]}

    assert {label for label in labels if label.startswith("queue-")} == {f"queue-{event}" for event in EVENTS}


def test_histograms_are_cumulative_and_hold_what_is_beyond_the_last_bound(merged):
    found = samples(text_of(merged))

    assert found["jobs_run_seconds_bucket", "shop.tasks.bill", "0.25"] == 0
    assert found["jobs_run_seconds_bucket", "shop.tasks.bill", "0.5"] == 2
    assert found["jobs_run_seconds_sum", "shop.tasks.bill"] == pytest.approx(0.6)
    assert found["jobs_wait_seconds_bucket", "shop.tasks.bill", "3600.0"] == 0
    assert found["jobs_wait_seconds_bucket", "shop.tasks.bill", "+Inf"] == 2
    assert found["jobs_wait_seconds_count", "shop.tasks.bill"] == 2


def test_the_supervisor_may_add_gauges_of_its_own(merged):
    found = samples(text_of(merged, {"jobs_worker_processes": lambda: 4}))

    assert found["jobs_worker_processes",] == 4


def test_only_described_metrics_are_served(merged):
    assert families(text_of(merged)) <= {name.removesuffix("_total") for name in METRICS}


def test_promtool_finds_nothing_wrong_with_a_workers_metrics(merged, executable):
    checked = subprocess.run(
        [executable("promtool"), "check", "metrics"], input=text_of(merged), capture_output=True, text=True, timeout=30
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.fixture
def port(merged):
    stop = serve(0, merged)
    yield stop.port
    stop()


def get(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.headers["Content-Type"], response.read().decode()


def test_the_port_serves_the_metrics(port):
    content_type, body = get(port, "/metrics")

    assert content_type.startswith("text/plain")
    assert samples(body)["jobs_retried_total", "shop.tasks.bill", "default"] == 1


def test_the_port_speaks_openmetrics_to_who_asks_for_it(port):
    content_type, body = get(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_the_port_answers_a_probe(port):
    assert get(port, "/healthz")[1] == "alive\n"


def test_the_port_knows_no_other_page(port):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/admin/")


def test_a_stopped_server_frees_its_port(merged):
    first = serve(0, merged)
    first()

    second = serve(first.port, merged)
    body = get(second.port, "/healthz")[1]
    second()

    assert body == "alive\n"


def test_a_taken_port_is_an_error(merged, port):
    with pytest.raises(OSError, match="in use"):
        serve(port, merged)
