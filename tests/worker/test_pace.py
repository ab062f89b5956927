"""How many jobs are claimed ahead adapts to how fast they finish."""

import pytest

from jobs.worker.pace import Pace
from jobs.worker.plan import MAX_AHEAD


def paced(*batches: tuple[float, int]) -> Pace:
    pace = Pace()
    for seconds, jobs in batches:
        pace.observe(seconds, jobs)
    return pace


@pytest.mark.parametrize(("seconds", "ahead"), [(0.1, 0), (5, 0), (0.05, 8), (0.01, 40), (0.0001, MAX_AHEAD)])
def test_short_jobs_are_claimed_by_the_hundred_and_slow_ones_one_per_free_slot(seconds, ahead):
    assert paced((seconds * 10, 10)).ahead(threads=4) == ahead


def test_jobs_that_take_no_time_at_all_are_bounded():
    assert paced((0, 10)).ahead(threads=4) == MAX_AHEAD


def test_more_threads_want_more_ahead():
    pace = paced((0.1, 10))

    assert pace.ahead(8) == 2 * pace.ahead(4) > 0


def test_newest_batches_count_most_and_one_does_not_decide():
    pace = paced((0.01, 10))
    pace.observe(10, 10)

    assert 0.5 < pace.mean < 0.6
    for _ in range(20):
        pace.observe(0.01, 10)
    assert pace.mean < 0.01


def test_empty_batch_says_nothing():
    assert paced((0, 0)).mean is None


def test_a_hiccup_in_a_small_batch_does_not_stop_claiming_ahead():
    pace = paced(*[(0.001, 500)] * 5)

    pace.observe(0.08, 5)

    assert pace.ahead(threads=4) > MAX_AHEAD // 4


def test_the_longer_a_claim_takes_the_more_attempts_begin_meanwhile():
    pace = paced((1.0, 1000))
    assert pace.soon(threads=4) == 0

    for _ in range(50):
        pace.observe_claim(0.026)

    assert pace.soon(threads=4) == pytest.approx(0.026 / (0.001 / 4 + 0.00001), abs=1)
