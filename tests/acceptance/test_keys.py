"""Keys under two processes that enqueue as fast as they can, and two trees that run what they get."""

import os
import subprocess
import sys

import pytest
from django.conf import settings

from jobs.models import Job
from jobs.states import State
from tests.acceptance.worker_tree import database_url

pytestmark = pytest.mark.django_db(transaction=True)


def enqueued_by_two_processes(ledger: object, jobs: int, option: str) -> int:
    """Let two processes enqueue so many jobs each, at once; return how many they added."""
    command = [sys.executable, "-m", "tests.acceptance.producer", str(ledger), str(jobs), option]
    environment = os.environ | {"DATABASE_URL": database_url()}
    producers = [
        subprocess.Popen(command, cwd=settings.BASE_DIR, env=environment, stdout=subprocess.PIPE) for _ in range(2)
    ]
    added = 0
    for producer in producers:
        output, _ = producer.communicate(timeout=120)
        assert producer.returncode == 0
        added += int(output.split()[-1])
    return added


def all_have_ended() -> bool:
    return not Job.objects.exclude(state=State.SUCCEEDED).exists()


def test_two_processes_that_hammer_one_dedupe_key_never_have_two_jobs_of_it(worker, ledger, eventually):
    for tree in (worker(), worker()):
        tree.wait_ready()

    added = enqueued_by_two_processes(ledger, 150, "dedupe_key=one")
    eventually(all_have_ended, within=30)

    assert 2 <= added == Job.objects.count()
    assert len(ledger.lines()) == 2 * added
    assert_one_at_a_time(ledger.lines())


def test_two_processes_that_hammer_one_concurrency_key_never_have_two_jobs_of_it_at_a_time(worker, ledger, eventually):
    for tree in (worker(), worker()):
        tree.wait_ready()

    added = enqueued_by_two_processes(ledger, 40, "concurrency_key=one")
    eventually(all_have_ended, within=60)

    assert added == Job.objects.count() == 80
    assert len(ledger.lines()) == 160
    assert_one_at_a_time(ledger.lines())


def assert_one_at_a_time(lines: list[str]) -> None:
    """By the order in which they wrote: whoever goes in has come out before the next one does."""
    assert lines[::2] == [line.replace(" out", " in") for line in lines[1::2]]
