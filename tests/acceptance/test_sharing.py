"""Workers that share a queue: every job is run by one of them, and ends as it should."""

from collections import Counter

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone

from jobs import enqueue_many, lifecycle
from jobs.models import Attempt, DeadLetter, Job
from jobs.states import Reason, State
from tests.acceptance import tasks

pytestmark = pytest.mark.django_db(transaction=True)


def test_two_workers_share_three_kinds_of_job_and_all_are_settled(worker, ledger, eventually):
    trees = [worker("--threads", "2"), worker("--threads", "2")]
    for tree in trees:
        tree.wait_ready()
    names = [f"job {number}" for number in range(40)]

    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": name, "seconds": 0.05} for name in names])
    enqueue_many(tasks.awork, [{"ledger": str(ledger), "name": f"async {name}"} for name in names])
    enqueue_many(tasks.write, [{"name": name} for name in names])

    eventually(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == 120, within=15)
    assert Counter(ledger.lines()) == Counter(f"{kind}{name} done" for kind in ("", "async ") for name in names)
    assert sorted(Group.objects.values_list("name", flat=True)) == sorted(names)
    ids = [worker_id for (worker_id,) in Job.objects.values_list("worker_ids", flat=True)]
    assert all(any(f"-{tree.pid}-" in worker_id for worker_id in ids) for tree in trees)


def test_a_normal_and_a_flaky_job_succeed_and_a_poison_one_dies_with_its_error(worker, ledger, eventually):
    worker("--poll-interval", "0.2").wait_ready()

    normal = tasks.work.enqueue(ledger=str(ledger), name="normal")
    flaky = tasks.flaky.enqueue(ledger=str(ledger), name="flaky")
    poison = tasks.poison.enqueue(customer=42)

    eventually(lambda: not Job.objects.exclude(state__in=[State.SUCCEEDED, State.DEAD]).exists(), within=15)
    found = {str(job.pk): (job.state, job.attempts) for job in Job.objects.all()}
    assert found == {
        normal.id: (State.SUCCEEDED, 1),
        flaky.id: (State.SUCCEEDED, 2),
        poison.id: (State.DEAD, 3),
    }
    letter = DeadLetter.objects.get()
    assert (str(letter.job_id), letter.reason) == (poison.id, Reason.ATTEMPTS_EXHAUSTED)
    assert (letter.exception_class, letter.message) == ("builtins.LookupError", "there is no customer 42")
    tracebacks = Attempt.objects.filter(job=poison.id).values_list("number", "traceback")
    assert [number for number, _ in tracebacks] == [1, 2, 3]
    assert all("in poison" in traceback for _, traceback in tracebacks)


def test_an_expired_lease_makes_a_job_ready_again_and_it_runs(worker, ledger, eventually):
    job = Job.objects.get(pk=tasks.work.enqueue(ledger=str(ledger), name="orphan").id)
    now = timezone.now()
    held = {"state": State.RUNNING, "leased_by": "a worker long gone", "lease_token": 1, "lease_expires_at": now}
    Job.objects.filter(pk=job.pk).update(**held)

    worker("--lease", "3").wait_ready()

    eventually(lambda: ledger.count("orphan done") == 1, within=8)
    eventually(lambda: Job.objects.filter(pk=job.pk, state=State.SUCCEEDED, lease_token=2, crashes=0).exists())
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.lease_token, attempt.worker_id) == ("lost", 1, "a worker long gone")


def test_each_of_2000_jobs_that_threads_and_processes_race_for_runs_once(worker, ledger, eventually):
    names = [str(number) for number in range(2000)]
    enqueue_many(tasks.work, [{"ledger": str(ledger), "name": name, "seconds": 0.005} for name in names])
    lifecycle.pause("default")
    worker("--processes", "2", "--threads", "8", "--poll-interval", "0.2").wait_ready()

    lifecycle.resume("default")

    eventually(lambda: not Job.objects.exclude(state=State.SUCCEEDED).exists(), within=60)
    assert Counter(ledger.lines()) == Counter(f"{name} done" for name in names)
    assert Job.objects.filter(state=State.SUCCEEDED, attempts=1, lease_token__gte=1).count() == 2000
    assert len(set(Job.objects.values_list("worker_ids__0", flat=True))) == 2
    assert not Attempt.objects.exists()


def test_a_tenant_with_few_jobs_waits_for_no_backlog_of_another(worker, ledger, eventually):
    many, few = tasks.work.using(group_key="many"), tasks.work.using(group_key="few")
    enqueue_many(many, [{"ledger": str(ledger), "name": f"many {n}", "seconds": 0.05} for n in range(200)])
    worker("--threads", "2").wait_ready()
    eventually(lambda: len(ledger.lines()) > 10)

    enqueue_many(few, [{"ledger": str(ledger), "name": f"few {n}", "seconds": 0.05} for n in range(5)])

    eventually(lambda: Job.objects.filter(group_key="few", state=State.SUCCEEDED).count() == 5)
    assert Job.objects.filter(group_key="many", finished_at=None).count() > 100
    eventually(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == 205, within=15)
