"""The table that people read, the bars beneath it, and the curve."""

from xml.etree import ElementTree

import pytest

from benchmarks.bars import Bar, judged
from benchmarks.cases import ALL, matching
from benchmarks.curve import curve, rounded_up
from benchmarks.table import COLUMNS, number, table
from tests.benchmarks.rows import a_row

pytestmark = pytest.mark.any_database


def test_a_line_shows_figure_range_limit_and_ratio():
    head, line = table([a_row([900.0, 1000.0, 1200.0], [2000.0, 2000.0, 2000.0])]).splitlines()

    assert head.split("  ")[0] == "case"
    for text in ("drain.noop", "1,000 jobs/s", "900 - 1,200", "2,000 bare SQL", "50%", "0.02", "50.0", "p99 100"):
        assert text in line


def test_what_was_not_measured_is_a_dash():
    line = table([a_row([1.0])]).splitlines()[1]

    assert line.split().count("-") == 1 + len(
        {"limit", "ratio", "server", "stmts/job", "commits/job", "WAL B/job"}
    )  # and one in the range


def test_columns_stand_below_each_other():
    lines = table([a_row([1.0]), a_row([100_000.0], case="a.much.longer.name")]).splitlines()

    at = lines[0].index("database")
    assert [line[at : at + 6] for line in lines[1:]] == ["sqlite", "sqlite"]
    assert len(COLUMNS) == 13


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00"), (0.00123, "0.00123"), (1.5, "1.50"), (15.26, "15.3"), (12345.6, "12,346")],
)
def test_numbers_have_the_digits_that_count(value, text):
    assert number(value) == text


def test_bars_judge_what_was_measured_and_nothing_else():
    bars = [
        Bar("drain.noop", "of the limit", "sqlite", least=0.5),
        Bar("drain.noop", "of the limit", "sqlite", least=0.7),
        Bar("drain.noop", "of the limit", "sqlite"),
        Bar("drain.noop", "of the limit", "postgresql", least=0.9),
    ]

    lines, all_met = judged([a_row([60.0], [100.0])], bars)

    assert [line[:4] for line in lines] == ["pass", "FAIL", "    "]
    assert not all_met


def test_bars_that_are_met_are_met():
    bars = [Bar("idle", "% of a core", "sqlite", lambda row: row.median, most=1.0, percent=False)]

    assert judged([a_row([0.9], case="idle")], bars)[1]
    assert not judged([a_row([1.1], case="idle")], bars)[1]


def test_the_curve_has_a_point_for_each_depth():
    rows = [a_row([rate], [2 * rate], case=f"growth.{depth}") for depth, rate in ((1000, 20e3), (1000000, 10e3))]

    drawn = ElementTree.fromstring(curve([*rows, a_row([1.0])]))

    svg = "{http://www.w3.org/2000/svg}"
    titles = [found.text for found in drawn.iter(f"{svg}title")][1:]
    assert titles == ["SQLite, 1,000 waiting: 20,000 jobs/s", "SQLite, 1,000,000 waiting: 10,000 jobs/s"]
    assert [len(line.get("points").split()) for line in drawn.iter(f"{svg}polyline")] == [2, 2, 2, 2]


def test_without_rows_of_growth_there_is_no_curve():
    with pytest.raises(ValueError, match="growth"):
        curve([a_row([1.0])])


@pytest.mark.parametrize(("value", "axis"), [(17_000, 20_000), (20_000, 20_000), (33_000, 40_000), (90_001, 100_000)])
def test_the_axis_ends_at_a_round_number(value, axis):
    assert rounded_up(value) == axis


def test_names_of_cases_are_all_different_and_found_by_their_parts():
    names = [case.name for case in ALL]

    assert len(set(names)) == len(names)
    assert matching([]) == ALL
    assert [case.name for case in matching(["drain.*.1x1", "enqueue.one"])] == ["enqueue.one", "drain.noop.1x1"]
    assert {case.name.split(".")[0] for case in matching(["growth"])} == {"growth"}
    assert matching(["drain.no"]) == []
