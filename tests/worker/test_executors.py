"""Threads that park when there is nothing to run, and are called as many as the work needs."""

import threading
from types import SimpleNamespace

import pytest

from jobs.outcomes import Succeeded
from jobs.worker.executors import Desk, Threads
from jobs.worker.pace import Pace
from jobs.worker.runner import Finished
from jobs.worker.slots import Slots
from tests.leases import a_lease


class Runs:
    """Stands in for the runner: a job notes its thread and, when it is told to, waits at the gate."""

    def __init__(self):
        self.threads, self.gate, self.blocking = [], threading.Event(), False

    def run(self, lease, mark):
        self.threads.append(threading.current_thread().name)
        if self.blocking:
            assert self.gate.wait(10)
        return Finished(lease, Succeeded(), 0.0, 0.0)


@pytest.fixture
def crew_of():
    slots = Slots.create(4, rings=4)
    made = []

    def build(count):
        runs = Runs()
        desk = Desk(slots, runs, threading.Event())
        threads = Threads(desk, count)
        threads.start()
        made.append(runs)
        return threads, runs, desk

    yield build
    for runs in made:
        runs.gate.set()


def leases(count):
    return [a_lease(id=number) for number in range(count)]


def test_a_crew_of_one_leaves_the_others_asleep(crew_of, eventually):
    threads, runs, desk = crew_of(3)
    eventually(lambda: len(threads.parked) == 3)

    threads.put(leases(50), crew=1)

    eventually(lambda: len(desk.finished) == 50)
    assert len(set(runs.threads)) == 1


def test_the_whole_crew_is_called_to_work_behind_a_job_that_takes_long(crew_of, eventually):
    threads, runs, _desk = crew_of(3)
    runs.blocking = True
    threads.put(leases(3), crew=1)
    eventually(lambda: len(runs.threads) == 1)

    threads.call(crew=3)

    eventually(lambda: len(set(runs.threads)) == 3)


def test_no_more_threads_are_called_than_jobs_wait(crew_of, eventually):
    threads, runs, _desk = crew_of(3)
    eventually(lambda: len(threads.parked) == 3)
    runs.blocking = True

    threads.put(leases(1), crew=3)

    eventually(lambda: runs.threads)
    assert len(threads.parked) == 2


def test_no_job_is_left_behind_however_parking_and_putting_interleave(crew_of, eventually):
    threads, _runs, desk = crew_of(3)

    for number in range(3000):
        threads.put([a_lease(id=number)], crew=1 + number % 3)

    eventually(lambda: len(desk.finished) == 3000, within=20)
    eventually(lambda: len(threads.parked) == 3)


def test_the_engine_is_woken_when_the_last_job_is_done(crew_of):
    threads, _runs, desk = crew_of(2)

    threads.put(leases(2), crew=2)

    assert desk.bell.wait(10)


def test_very_short_jobs_are_worth_one_thread_and_longer_ones_all(monkeypatch):
    monkeypatch.setattr("jobs.worker.pace.HAS_GIL", True)
    pace = Pace()
    assert pace.crew(8) == 8

    pace.observe(seconds=0.001, jobs=100)
    assert pace.crew(8) == 1

    pace.observe(seconds=1.0, jobs=100)
    assert pace.crew(8) == 8


def test_threads_that_run_side_by_side_are_all_worth_waking(monkeypatch):
    monkeypatch.setattr("jobs.worker.pace.HAS_GIL", False)
    pace = Pace()

    pace.observe(seconds=0.001, jobs=100)

    assert pace.crew(8) == 8


def test_a_lease_known_to_be_gone_is_not_started(crew_of, eventually):
    threads, runs, desk = crew_of(1)
    gone = SimpleNamespace(lease=a_lease(id=1))
    desk.lost.add(gone.lease.key)

    threads.put([gone.lease], crew=1)

    eventually(lambda: desk.finished)
    assert runs.threads == []
    assert desk.finished[0].started is None
