"""What children count and the supervisor adds up."""

import json
import threading

from jobs.tally import BUCKETS, MAX_NAMES, OTHER, Merged, Tally


def test_a_delta_survives_the_trip_through_json():
    tally = Tally()
    tally.count("succeeded", "shop.tasks.bill", "default", 3)
    tally.add({}, {"shop.tasks.bill": [0.2]}, {"shop.tasks.bill": [7]})

    merged = Merged()
    merged.add(json.loads(json.dumps(tally.take())))

    events, runs, waits = merged.snapshot()
    assert events == {("succeeded", "shop.tasks.bill", "default"): 3}
    assert runs["shop.tasks.bill"].seconds == 0.2
    assert waits["shop.tasks.bill"].counts[BUCKETS.index(10.0)] == 1


def test_taking_starts_again_from_nothing():
    tally = Tally()
    tally.count("failed", "shop.tasks.bill", "default")
    tally.take()

    assert tally.take() == {}


def test_the_sum_outlives_a_child_and_never_goes_back():
    merged = Merged()
    for _child in range(2):
        tally = Tally()
        tally.count("dead", "shop.tasks.bill", "default")
        tally.add({}, {"shop.tasks.bill": [1]}, {"shop.tasks.bill": [0]})
        merged.add(tally.take())

    events, runs, _waits = merged.snapshot()

    assert events["dead", "shop.tasks.bill", "default"] == 2
    assert sum(runs["shop.tasks.bill"].counts) == 2


def test_an_empty_delta_adds_nothing():
    merged = Merged()

    merged.add(Tally().take())

    assert merged.snapshot() == ({}, {}, {})


def test_task_and_queue_names_beyond_the_limit_are_counted_together():
    merged = Merged()
    for number in range(MAX_NAMES + 50):
        tally = Tally()
        tally.count("succeeded", f"task{number}", f"queue{number}")
        tally.add({}, {f"task{number}": [1]}, {f"task{number}": [0]})
        merged.add(tally.take())

    events, runs, _waits = merged.snapshot()

    assert len(events) == len(runs) == MAX_NAMES + 1
    assert events["succeeded", OTHER, OTHER] == sum(runs[OTHER].counts) == 50


def test_one_child_cannot_send_more_names_than_the_limit():
    tally = Tally()
    for number in range(MAX_NAMES * 2):
        tally.count("succeeded", f"task{number}", "default")

    assert len(tally.take()["events"]) == MAX_NAMES + 1


def test_an_event_that_nobody_knows_is_counted_as_other():
    merged = Merged()
    tally = Tally()
    tally.count("exploded", "shop.tasks.bill", "default")

    merged.add(tally.take())

    assert merged.snapshot()[0] == {(OTHER, "shop.tasks.bill", "default"): 1}


def test_a_negative_time_counts_as_none():
    tally = Tally()
    tally.add({}, {"shop.tasks.bill": [0]}, {"shop.tasks.bill": [-0.3]})

    [[_task, counts, seconds]] = tally.take()["waits"]

    assert (counts[0], seconds) == (1, 0.0)


def test_a_time_on_a_bound_belongs_to_that_bound_and_the_longest_have_their_own_bucket():
    tally = Tally()
    tally.add({}, {"shop.tasks.bill": [BUCKETS[3]]}, {"shop.tasks.bill": [0]})
    tally.add({}, {"shop.tasks.bill": [BUCKETS[-1] + 1]}, {"shop.tasks.bill": [0]})

    [[_task, counts, _seconds]] = tally.take()["runs"]

    assert (counts[3], counts[-1], len(counts)) == (1, 1, len(BUCKETS) + 1)


def test_no_count_is_lost_between_threads_that_count_and_one_that_takes():
    tally, merged = Tally(), Merged()

    def count():
        for _time in range(2000):
            tally.count("succeeded", "t", "q")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        merged.add(tally.take())
    merged.add(tally.take())

    assert merged.snapshot()[0]["succeeded", "t", "q"] == 8000


def test_a_snapshot_does_not_change_afterwards():
    tally, merged = Tally(), Merged()
    tally.add({}, {"t": [1]}, {"t": [0]})
    delta = tally.take()
    merged.add(delta)
    _events, before, _waits = merged.snapshot()

    merged.add(delta)

    assert sum(before["t"].counts) == 1
