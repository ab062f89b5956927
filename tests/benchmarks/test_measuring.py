"""Medians, ratios pair by pair, percentiles and costs."""

import pytest

from benchmarks.measuring import Costs, Row, Sample, difference, paired, percentile, typical
from tests.benchmarks.rows import a_row

pytestmark = pytest.mark.any_database


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_sides():
    # The machine was slow during the second pair: on both sides.
    assert paired([80, 20, 90], [100, 40, 100]) == 0.8


def test_pairs_must_be_complete():
    with pytest.raises(ValueError, match="zip"):
        paired([1, 2], [1])


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (95, 95), (99, 99), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent, expected):
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_percentile_of_few_values_errs_to_the_slow_side():
    assert percentile([1.0, 2.0, 3.0], 95) == 3.0


def test_a_row_without_a_limit_has_no_ratio():
    assert a_row([1.0]).ratio is None
    assert a_row([1.0], [4.0]).ratio == 0.25


def test_costs_are_of_a_thousand_jobs():
    costs = [Costs(500, worker_cpu=1.0), Costs(2000, worker_cpu=6.0), Costs(1000, worker_cpu=4.0)]
    row = Row("case", "title", "sqlite", "jobs/s", samples=[Sample(1.0, each) for each in costs])

    assert row.per_thousand("worker_cpu") == 3.0
    assert row.per_thousand("wal") is None


def test_what_could_not_be_measured_is_left_out():
    assert typical([None, 3.0, None, 1.0, 2.0]) == 2.0
    assert typical([None]) is None
    assert difference(5.0, None) is None
    assert difference(5.0, 2.0) == 3.0


def test_further_figures_have_medians_too():
    assert a_row([10.0, 30.0, 20.0]).extra("p99") == 2.0
    assert a_row([10.0]).extra("p95") is None
