"""When schedules are due: cron in a time zone, whatever the clocks do, and every so often from an instant."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from jobs.timing import EPOCH, Cron, Declaration, Every, between, coming, newest

pytestmark = pytest.mark.any_database

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def times(timing, since: str, count: int) -> list[str]:
    return [f"{moment:%d %H:%M}" for moment in coming(timing, at(since), count)]


def test_a_cron_expression_is_read_in_its_own_time_zone():
    assert Cron("30 9 * * MON-FRI", BERLIN).after(at("2026-11-27T08:31")) == at("2026-11-30T09:30", BERLIN)
    assert Cron("30 9 * * MON-FRI", NEW_YORK).after(at("2026-11-27T08:31")) == at("2026-11-27T09:30", NEW_YORK)


# Clocks: Berlin 2026-03-29 2:00 -> 3:00 and 2026-10-25 3:00 -> 2:00; New York 2026-03-08 and 2026-11-01.


@pytest.mark.parametrize(
    ("zone", "day", "before"), [(BERLIN, "2026-03-29", "01:00"), (NEW_YORK, "2026-03-08", "07:00")]
)
def test_a_time_that_the_clocks_skip_comes_right_after_the_gap(zone, day, before):
    gap = at(f"{day}T03:00", zone)
    assert gap == at(f"{day}T{before}")

    daily = coming(Cron("30 2 * * *", zone), at(f"{day}T00:00", zone), 2)

    assert daily[0] == gap
    assert daily[1] == at(f"{day}T02:30", zone).replace(day=int(day[-2:]) + 1) - timedelta(hours=1)


@pytest.mark.parametrize(("zone", "day", "offset"), [(BERLIN, "2026-10-25", 2), (NEW_YORK, "2026-11-01", -4)])
def test_a_time_that_the_clocks_show_twice_comes_once(zone, day, offset):
    hour = 2 if zone == BERLIN else 1
    first = datetime.fromisoformat(f"{day}T{hour:02}:30+00:00") - timedelta(hours=offset)

    daily = coming(Cron(f"30 {hour} * * *", zone), first - timedelta(hours=3), 2)

    assert daily == [first, first + timedelta(hours=25)]


@pytest.mark.parametrize(("zone", "day"), [(BERLIN, "2026-10-25"), (NEW_YORK, "2026-11-01"), (BERLIN, "2026-03-29")])
def test_what_comes_every_half_hour_follows_the_time_that_passes(zone, day):
    found = coming(Cron("*/30 * * * *", zone), at(f"{day}T00:00", zone), 10)

    assert {later - earlier for earlier, later in itertools.pairwise(found)} == {timedelta(minutes=30)}


CHANGES = {
    BERLIN: [(2026, 3, 29), (2026, 10, 25)],
    NEW_YORK: [(2026, 3, 8), (2026, 11, 1)],
    "Pacific/Auckland": [(2026, 4, 4), (2026, 9, 26)],
    "UTC": [(2026, 3, 29)],
}


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize("expression", ["30 2 * * *", "15 1 * * SUN", "*/20 * * * *", "0 */3 * * *"])
def test_a_year_goes_forward_and_comes_out_the_same_wherever_it_is_entered(zone, expression):
    timing = Cron(expression, zone)
    year = between(timing, at("2026-01-01T00:00"), at("2026-12-01T00:00"))
    assert year == sorted(set(year))

    for change in CHANGES[zone]:
        noon = datetime(*change, 12, tzinfo=UTC)
        near = [found for found in year if abs(found - noon) < timedelta(hours=30)]
        for minutes in range(-24 * 60, 24 * 60, 17):
            entered = noon + timedelta(minutes=minutes)
            expected = next((found for found in near if found > entered), None)
            if expected:
                assert timing.after(entered) == expected, entered


def test_every_so_often_counts_from_its_instant_whatever_the_clocks_show():
    timing = Every(timedelta(hours=6), at("2026-03-28T03:00", BERLIN))

    assert times(timing, "2026-03-28T00:00", 5) == ["28 02:00", "28 08:00", "28 14:00", "28 20:00", "29 02:00"]
    assert timing.after(at("2020-01-01T00:00")) == at("2026-03-28T03:00", BERLIN)
    assert timing.after(at("2026-03-28T02:00")) == at("2026-03-28T08:00")


def test_without_an_instant_it_counts_from_midnight():
    assert Every(timedelta(minutes=10)).after(at("2026-01-01T00:01")) == at("2026-01-01T00:10")
    assert EPOCH.hour == 0


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("timing", [Cron("*/7 * * * *", BERLIN), Every(timedelta(minutes=7))])
def test_the_newest_times_are_those_that_counting_all_would_leave(timing, count):
    since, until = at("2026-10-20T00:00"), at("2026-10-26T12:00")
    everything = [moment for moment in coming(timing, since - timedelta(seconds=1), 2_000) if moment <= until]

    assert newest(timing, since, until, count) == everything[-count:]


def test_the_newest_time_of_a_year_of_seconds_is_found_at_once():
    since, until = at("2025-01-01T00:00"), at("2026-01-01T00:00")

    assert newest(Every(timedelta(seconds=1)), since, until, 2) == [until - timedelta(seconds=1), until]
    assert newest(Cron("0 0 1 2 *", "UTC"), since, until, 3) == [at("2025-02-01T00:00")]
    assert newest(Cron("0 0 1 2 *", "UTC"), at("2025-03-01T00:00"), until, 3) == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("* * *", "no cron expression: it needs five fields"),
        ("*/20 * * * * *", "for seconds use every"),
        ("61 * * * *", "bad minute"),
        ("0 0 30 2 *", "bad day"),
        ({"cron": "0 0 * * *", "time_zone": "Europe/Berln"}, "Did you mean 'Europe/Berlin'"),
        ({"cron": "0 0 * * *", "time_zone": "/etc/passwd"}, "no time zone"),
        ({"cron": "0 0 * * *", "every": 5}, "either cron or every"),
        ({}, "either cron or every"),
        (0, "every must be longer than 0, not 0"),
        (-5, "every must be longer than 0, not -5"),
        (float("inf"), "no length of time"),
        (1e20, "no length of time"),
        ({"tz": "UTC"}, "has no 'tz'"),
        ({"cron": "0 0 * * *", "kwarg": {}}, "no 'kwarg'"),
        ({"cron": "0 0 * * *", "missed": "both"}, "skip, one, all"),
        ({"cron": "0 0 * * *", "kwargs": [1]}, "dict of keyword arguments"),
        ({"cron": "0 0 * * *", "kwargs": {"a": object()}}, "JSON"),
        ({"every": 60, "starts_at": datetime(2026, 1, 1)}, "time zone"),
        (0.5, "at least a second"),
        (True, "seconds or a timedelta"),
        (None, "seconds or a timedelta"),
    ],
)
def test_what_cannot_work_is_refused_and_named(given, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        Declaration.of("nightly", "app.tasks.report", given)


def test_a_length_of_time_is_every_and_a_text_is_cron(settings):
    settings.TIME_ZONE = BERLIN

    assert Declaration.of("a", "p", 90).every == timedelta(seconds=90)
    assert Declaration.of("a", "p", timedelta(hours=1)).every == timedelta(hours=1)
    assert Declaration.of("a", "p", "0 3 * * *").cron == "0 3 * * *"
