"""Retry policies are pure: no database, no clock."""

import random

import pytest

from jobs.retries import Backoff, exponential, fixed, linear


def delays(policy: Backoff, attempts: int = 6) -> list[float]:
    return [policy(attempt, None) for attempt in range(1, attempts + 1)]


def test_exponential_doubles_up_to_its_cap():
    assert delays(exponential(base=5, cap=60, jitter=False)) == [5, 10, 20, 40, 60, 60]


def test_exponential_takes_another_factor():
    assert delays(exponential(base=1, cap=100, factor=3, jitter=False), 5) == [1, 3, 9, 27, 81]


def test_linear_grows_by_its_step_up_to_its_cap():
    assert delays(linear(step=10, cap=35, jitter=False), 5) == [10, 20, 30, 35, 35]


def test_fixed_stays_the_same():
    assert delays(fixed(30, jitter=False), 3) == [30, 30, 30]


@pytest.mark.parametrize("policy", [exponential(), linear(), fixed()])
def test_full_jitter_is_the_default_and_spreads_from_zero_to_the_delay(policy):
    random.seed(1)

    found = [policy(3, ValueError()) for _ in range(500)]

    longest = policy.longest(3)
    assert all(0 <= seconds <= longest for seconds in found)
    assert min(found) < 0.1 * longest
    assert max(found) > 0.9 * longest


def test_a_huge_attempt_number_does_not_overflow():
    assert exponential(base=5, cap=600, jitter=False)(10**9, None) == 600


@pytest.mark.parametrize("bad", [-1, float("inf"), float("nan"), "5", None, True])
def test_delay_that_is_no_length_of_time_is_refused(bad):
    with pytest.raises(ValueError, match="backoff"):
        exponential(base=bad)


def test_policies_compare_by_value():
    assert exponential(base=5) == exponential(base=5) != exponential(base=6)
