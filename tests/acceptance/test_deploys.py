"""A rolling deploy: jobs of newer code wait for a worker that knows it."""

from pathlib import Path

import pytest

from jobs.models import Job
from jobs.states import State
from jobs.storage import NewJob, storage
from tests.acceptance.ledger import Ledger

pytestmark = pytest.mark.django_db(transaction=True)

POLL = ("--poll-interval", "0.2")
SOURCE = """
from jobs import task
from tests.acceptance.ledger import Ledger


@task(schema_version={version})
def greet(ledger):
    Ledger(ledger).note("version {version}")
"""


def release(directory: Path, version: int) -> str:
    """Write the code of a release and return its directory, for PYTHONPATH."""
    directory.mkdir()
    (directory / "deployed_tasks.py").write_text(SOURCE.format(version=version))
    return str(directory)


def enqueue(ledger: Ledger, version: int) -> int:
    """Enqueue as a web server with that release does."""
    row = NewJob("deployed_tasks.greet", "default", "default", 0, f'["{ledger}"]', "{}", version, 5, 3)
    return storage().insert([row])[0].id


@pytest.mark.parametrize("missing", ["task", "schema version"])
def test_a_job_of_newer_code_waits_for_a_worker_that_knows_it(worker, ledger, tmp_path, eventually, missing):
    old = {"PYTHONPATH": release(tmp_path / "old", 1)} if missing == "schema version" else {}
    before = worker(*POLL, **old).wait_ready()
    job = Job.objects.filter(pk=enqueue(ledger, 2))
    eventually(lambda: job.filter(state=State.SCHEDULED, held_since__isnull=False).exists())

    # As long as both run, either may claim it, and the old one puts it off for ever longer.
    before.terminate()
    assert before.exit_code() == 0
    new = worker(*POLL, PYTHONPATH=release(tmp_path / "new", 2)).wait_ready()

    eventually(lambda: job.filter(state=State.SUCCEEDED).exists(), within=15)
    found = job.get()
    assert ledger.lines() == ["version 2"]
    assert (found.attempts, found.crashes, found.held_since) == (1, 0, None)
    (worker_id,) = found.worker_ids
    assert f"-{new.pid}-" in worker_id


def test_a_newer_worker_runs_the_jobs_of_older_code(worker, ledger, tmp_path, eventually):
    worker(*POLL, PYTHONPATH=release(tmp_path / "new", 2)).wait_ready()

    job = Job.objects.filter(pk=enqueue(ledger, 1))

    eventually(lambda: job.filter(state=State.SUCCEEDED).exists())
    assert ledger.lines() == ["version 2"]
