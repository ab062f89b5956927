"""What a supervisor tells a process at its birth."""

from datetime import timedelta

from jobs.worker.plan import Plan


def test_plan_arrives_as_it_was_sent():
    plan = Plan(worker_id="w", queues=["a", "ü\n"], threads=7, lease_seconds=12.5, max_jobs=3, solo=True)

    line = plan.line()

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert Plan.from_line(line) == plan


def test_slots_are_threads_and_coroutines():
    assert Plan(worker_id="w", threads=4, async_slots=10).slots == 14


def test_lease_is_a_length_of_time():
    assert Plan(worker_id="w", lease_seconds=90).lease == timedelta(seconds=90)
