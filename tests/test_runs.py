"""How the queue interrupts a run: at most once, never inside a shield, and never after its end."""

import gc
import sys
import threading
import time
import weakref

import pytest

from jobs.exceptions import Interruption, LeaseLost, TimedOut
from jobs.models import Job
from jobs.runs import Gate, JobContext, Run, ThreadGate
from tests.admin.rows import a_job
from tests.gates import RecordingGate
from tests.leases import a_lease


class Worker:
    """A real thread that runs a function behind its gate and keeps how that ended."""

    def __init__(self, function):
        self.function, self.began, self.go_on = function, threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.reached_end = False
        self.gate: Gate
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        assert self.began.wait(30)

    def run(self):
        self.gate = ThreadGate()
        try:
            self.function(self)
            self.reached_end = True
        except BaseException as error:
            self.error = error

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive()


def spin(until: threading.Event) -> None:
    """Run bytecode, where an exception can arrive, until the event."""
    deadline = time.monotonic() + 30
    while not until.is_set():
        assert time.monotonic() < deadline


# The rules, without a thread


def test_interruption_is_delivered_by_its_class():
    gate = RecordingGate()

    assert gate.interrupt(TimedOut("too long"))

    assert gate.delivered == [TimedOut]


def test_second_interruption_is_refused():
    gate = RecordingGate()
    gate.interrupt(TimedOut("too long"))

    assert not gate.interrupt(LeaseLost("gone"))
    assert gate.delivered == [TimedOut]


def test_closed_gate_lets_nothing_in():
    gate = RecordingGate()
    gate.close()

    assert not gate.interrupt(TimedOut("too late"))
    assert gate.delivered == []


def test_shield_holds_an_interruption_back_and_raises_it_when_it_falls():
    gate, error = RecordingGate(), TimedOut("too long")

    with pytest.raises(TimedOut) as raised, gate:
        assert gate.interrupt(error)

    assert raised.value is error
    assert gate.delivered == []


def test_nested_shields_fall_together():
    gate = RecordingGate()
    steps = []

    def work():
        with gate:
            with gate:
                gate.interrupt(TimedOut("too long"))
            steps.append("still shielded")
        steps.append("never reached")

    with pytest.raises(TimedOut):
        work()

    assert steps == ["still shielded"]


def test_shield_retracts_what_is_on_its_way():
    gate = RecordingGate()
    gate.interrupt(TimedOut("too long"))

    with pytest.raises(TimedOut), gate:
        assert gate.retracted == 1


def test_error_under_a_shield_is_not_replaced_by_the_interruption():
    gate = RecordingGate()

    def work():
        with gate:
            gate.interrupt(TimedOut("too long"))
            raise ValueError("the database said no")

    with pytest.raises(ValueError, match="said no"):
        work()


def test_gate_closed_under_a_shield_stays_quiet():
    gate = RecordingGate()

    with gate:
        gate.interrupt(TimedOut("too long"))
        gate.close()

    assert gate.delivered == []


# In a real thread


def test_running_thread_is_interrupted():
    def work(worker):
        worker.began.set()
        spin(worker.go_on)

    worker = Worker(work)
    worker.gate.interrupt(TimedOut("too long"))
    worker.join()

    assert isinstance(worker.error, TimedOut)


def test_except_exception_in_a_task_does_not_swallow_an_interruption():
    def work(worker):
        try:
            worker.began.set()
            spin(worker.go_on)
        except Exception:
            worker.reached_end = True

    worker = Worker(work)
    worker.gate.interrupt(TimedOut("too long"))
    worker.join()

    assert isinstance(worker.error, TimedOut)
    assert not worker.reached_end


def test_shielded_thread_finishes_its_write_before_it_is_interrupted():
    written = []

    def work(worker):
        with worker.gate:
            worker.began.set()
            spin(worker.go_on)
            written.append("all of it")
        written.append("never reached")

    worker = Worker(work)
    worker.gate.interrupt(TimedOut("too long"))
    worker.go_on.set()
    worker.join()

    assert written == ["all of it"]
    assert isinstance(worker.error, TimedOut)


@pytest.fixture
def quick_switches():
    """Let threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_no_interruption_leaks_out_of_a_closed_gate(quick_switches):
    """Interrupt runs at any moment of theirs until fifty have felt it: the thread's next job must not."""
    leaked: list[BaseException] = []
    caught = [0]

    def next_job():
        for _ in range(500):
            pass

    def work(worker):
        worker.gate.close()  # only the gates of the runs below are to be interrupted
        worker.began.set()
        deadline = time.monotonic() + 30
        while caught[0] < 50 and time.monotonic() < deadline:
            gate = worker.gate = ThreadGate()
            try:
                try:
                    next_job()
                    gate.close()
                except Interruption:
                    caught[0] += 1
                    gate.close()
            except Interruption:
                gate.close()
            try:
                next_job()
            except Interruption as error:
                leaked.append(error)

    worker = Worker(work)
    while worker.thread.is_alive():
        worker.gate.interrupt(TimedOut("at the end"))
    worker.join()

    assert (leaked, worker.error) == ([], None)
    assert caught[0] == 50


# What a task may ask


def context_of(**fields) -> JobContext:
    return JobContext(None, Run(a_lease(**fields), RecordingGate(), timeout_seconds=30))


def test_context_knows_attempt_and_job():
    context = context_of(id=12, attempts=2)

    assert (context.attempt, context.job_id) == (3, "12")


def test_deadline_is_by_the_databases_clock():
    run = Run(a_lease(), RecordingGate(), timeout_seconds=30)
    run.deadline = run.lease.claimed_monotonic + 30

    passed = JobContext(None, run).deadline - run.lease.claimed_at

    assert passed.total_seconds() == 30


def test_task_without_a_timeout_has_no_deadline():
    assert JobContext(None, Run(a_lease(), RecordingGate())).deadline is None


def test_lost_lease_is_told():
    context = context_of()
    assert context.lease_lost is False

    context.run.lease_lost = True

    assert context.lease_lost is True


@pytest.mark.django_db
def test_cancel_is_asked_of_the_database_at_most_once_a_second(django_assert_num_queries):
    job = a_job()
    Job.objects.update(cancel_requested=True)
    context = context_of(id=job.pk)
    context.run.asked_at = time.monotonic() + 1000

    with django_assert_num_queries(0):
        assert context.cancel_requested is False

    context.run.asked_at = time.monotonic() - 2
    with django_assert_num_queries(1):
        assert [context.cancel_requested, context.cancel_requested] == [True, True]


def test_progress_is_kept_for_the_heartbeat_and_shortened():
    context = context_of()

    context.progress(50, "x" * 500)

    assert context.run.progress == (50, "x" * 200)


@pytest.mark.parametrize("percent", [-1, 101, True])
def test_progress_that_is_no_percentage_is_refused(percent):
    with pytest.raises(ValueError, match="percentage"):
        context_of().progress(percent)


def test_a_run_that_is_over_leaves_nothing_to_the_garbage_collector():
    gc.disable()
    try:
        run = Run(a_lease(), ThreadGate(shut=True))
        lock = weakref.ref(run.gate.lock)
        del run
        assert lock() is None
    finally:
        gc.enable()
