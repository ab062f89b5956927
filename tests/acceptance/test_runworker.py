"""What the options of `manage.py runworker` do to a real tree."""

import os
import socket
import subprocess
import sys
from urllib.request import urlopen

import pytest
from django.conf import settings

from jobs import enqueue_many, lifecycle
from jobs.models import Job
from jobs.states import State
from jobs.worker.process import SWITCH_SECONDS
from tests.acceptance import tasks
from tests.acceptance.rows import have_state, have_succeeded, row_of
from tests.acceptance.worker_tree import database_url
from tests.metrics.scrape import samples

pytestmark = pytest.mark.django_db(transaction=True)

POLL = ("--poll-interval", "0.2")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_drain_runs_what_it_may_and_says_what_it_left(worker, ledger):
    lifecycle.pause("email")
    paused = tasks.work.using(queue_name="email").enqueue(ledger=str(ledger), name="paused")
    unknown = tasks.work.enqueue(ledger=str(ledger), name="unknown")
    Job.objects.filter(pk=unknown.id).update(task_path="nowhere.to_be_found")
    flaky = tasks.flaky.enqueue(ledger=str(ledger), name="flaky")
    works = [tasks.work.enqueue(ledger=str(ledger), name=str(number)) for number in range(10)]

    tree = worker("--drain", *POLL)

    assert tree.exit_code() == 0
    assert have_succeeded(flaky, *works)
    assert "Drained. Left: 1 scheduled for later, 1 ready in paused or other queues." in tree.log()
    assert (row_of(paused).state, row_of(paused).lease_token) == (State.READY, 0)
    assert (row_of(unknown).state, row_of(unknown).attempts) == (State.SCHEDULED, 0)


def test_drain_of_an_empty_queue_ends_at_once(worker):
    tree = worker("--drain")

    assert tree.exit_code(within=10) == 0
    assert "Drained. Left: nothing." in tree.log()


def test_a_thread_that_wakes_up_does_not_wait_long_for_the_interpreter(worker):
    told = tasks.switch_interval.enqueue()

    assert worker("--drain", typed=True).exit_code() == 0
    assert row_of(told).return_value == pytest.approx(SWITCH_SECONDS)


def test_max_jobs_stops_the_tree_after_exactly_so_many(worker, ledger):
    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": str(number)} for number in range(12)])

    tree = worker("--max-jobs", "5", "--processes", "2", "--threads", "4", *POLL)

    assert tree.exit_code() == 0
    assert len(ledger.lines()) == 5
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 5
    assert Job.objects.filter(state=State.READY, attempts=0, crashes=0).count() == 7


def test_recycle_after_replaces_each_process_in_time(worker, ledger, eventually):
    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": str(number)} for number in range(6)])

    tree = worker("--recycle-after", "2", "--threads", "1", "--drain", *POLL)

    assert tree.exit_code() == 0
    assert len(ledger.lines()) == 6
    ids = [worker_id for (worker_id,) in Job.objects.values_list("worker_ids", flat=True)]
    assert sorted(ids.count(worker_id) for worker_id in set(ids)) == [2, 2, 2]


def test_a_worker_serves_the_queues_that_it_is_given(worker, ledger, eventually):
    worker("--queue", "email", *POLL, typed=True).wait_ready()
    other = tasks.work.enqueue(ledger=str(ledger), name="other")

    own = tasks.work.using(queue_name="email").enqueue(ledger=str(ledger), name="own")

    eventually(lambda: have_succeeded(own))
    assert (row_of(other).state, row_of(other).lease_token) == (State.READY, 0)


def test_jobs_worker_is_another_name_of_it(ledger):
    result = tasks.work.enqueue(ledger=str(ledger), name="one")

    run = subprocess.run(
        [sys.executable, "manage.py", "jobs_worker", "--drain"],
        cwd=settings.BASE_DIR,
        env=os.environ | {"DATABASE_URL": database_url()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert run.returncode == 0, run.stderr
    assert "Drained" in run.stdout
    assert have_succeeded(result)


def test_metrics_add_up_all_processes_and_outlive_each(worker, ledger, eventually):
    port = free_port()
    tree = worker("--processes", "2", "--threads", "1", "--metrics-port", str(port), *POLL, typed=True).wait_ready()
    path = tasks.work.module_path

    def scraped() -> dict[tuple[str, ...], float]:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            return samples(response.read().decode())

    def succeeded() -> float:
        return scraped().get(("jobs_finished_total", path, "default", "succeeded"), 0)

    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": str(n), "seconds": 0.05} for n in range(20)])
    eventually(lambda: succeeded() == 20, within=10)
    assert len({worker_id for (worker_id,) in Job.objects.values_list("worker_ids", flat=True)}) == 2

    before = tree.children()
    for child in before:
        child.kill()
    eventually(lambda: len(set(tree.children()) - set(before)) == 2, within=10)

    assert succeeded() == 20
    tasks.work.enqueue(ledger=str(ledger), name="after")
    eventually(lambda: succeeded() == 21, within=10)
    assert scraped()["jobs_run_seconds_count", path] == 21


def test_a_worker_with_debug_runs_the_new_code_when_a_file_changes(worker, ledger, tmp_path, eventually):
    module = tmp_path / "edited_tasks.py"
    source = (
        "from jobs import task\nfrom tests.acceptance.ledger import Ledger\n\n@task\ndef edited(ledger):\n    {body}\n"
    )

    def edit(body: str) -> None:
        module.write_text(source.format(body=body))

    def enqueue() -> int:
        pk = int(tasks.work.enqueue(ledger=str(ledger), name="to be edited").id)
        Job.objects.filter(pk=pk).update(task_path="edited_tasks.edited", kwargs={"ledger": str(ledger)})
        return pk

    edit("Ledger(ledger).note('old')")
    lifecycle.pause("default")
    enqueue()
    lifecycle.resume("default")
    environ = {"DEBUG": "on", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    tree = worker(*POLL, **environ).wait_ready()
    (old,) = tree.children()
    eventually(lambda: ledger.lines() == ["old"])

    def is_replaced() -> bool:
        # The worker compares with its last look: an edit before its first look at the module is none.
        edit("Ledger(ledger).note('new')")
        return old not in tree.children()

    eventually(is_replaced, within=10)
    lifecycle.pause("default")
    enqueue()
    lifecycle.resume("default")
    eventually(lambda: ledger.lines() == ["old", "new"], within=10)
    assert not tree.has_exited()
    eventually(lambda: have_state(State.SUCCEEDED, *Job.objects.all()))
