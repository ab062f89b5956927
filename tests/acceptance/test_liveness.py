"""Life is more than a pid: a process that stands still, or takes too much, is replaced."""

import urllib.error
import urllib.request

import pytest

from jobs import enqueue_many
from tests.acceptance import tasks
from tests.acceptance.rows import have_succeeded, outcomes_of, row_of
from tests.acceptance.test_runworker import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def health(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_process_that_stands_still_is_replaced_and_its_jobs_run_alone(worker, ledger, eventually):
    port = free_port()
    tree = worker("--lease", "4", "--threads", "2", "--poll-interval", "0.2", "--metrics-port", str(port)).wait_ready()
    assert health(port) == (200, "alive\n")
    neighbour = tasks.hold.enqueue(ledger=str(ledger), name="neighbour")
    still = tasks.stand_still.enqueue(ledger=str(ledger), name="still", company=["neighbour"])
    (child,) = tree.children()

    eventually(lambda: health(port)[0] == 503, within=10)
    assert f"process {child.pid} has stood still" in health(port)[1]
    ledger.open()

    eventually(lambda: have_succeeded(still, neighbour), within=40)
    assert "process replaced: it stood still" in tree.log()
    # In company nobody is charged, alone it is.
    assert outcomes_of(still) == ["lost", "lost"]
    assert row_of(still).crashes == 1
    assert row_of(neighbour).crashes == 0
    eventually(lambda: health(port) == (200, "alive\n"))


def test_a_process_that_has_taken_its_memory_is_replaced_and_loses_nothing(worker, ledger, eventually):
    tree = worker("--threads", "2", "--poll-interval", "0.2", "--max-memory", "150").wait_ready()
    held = tasks.hold.enqueue(ledger=str(ledger), name="held")
    eventually(lambda: ledger.has("held started"))

    big = tasks.keep_memory.enqueue(mib=150)
    eventually(lambda: "process has taken its memory" in tree.log())
    later = enqueue_many(tasks.keep_memory, [{"mib": 1}] * 3)
    ledger.open()

    eventually(lambda: have_succeeded(held, big, *later), within=15)
    assert outcomes_of(held) == outcomes_of(big) == []
    assert {row_of(result).return_value for result in later} != {row_of(big).return_value}
    assert (row_of(held).attempts, row_of(held).lease_token) == (1, 1)
