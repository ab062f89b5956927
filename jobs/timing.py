"""When a schedule is due: at the times of a cron expression in a time zone, or every so often from a fixed instant."""

import difflib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from django.conf import settings
from django.utils import timezone

from .states import Missed

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
FIRST_WINDOW = timedelta(hours=1)
SHORTEST = timedelta(seconds=1)


class Timing(Protocol):
    def after(self, moment: datetime) -> datetime | None:
        """Return the first time after a moment, in UTC; None when there is none."""


@dataclass(frozen=True)
class Cron:
    """Five fields as in Debian's cron. What is to run every few seconds is an `Every`.

    A time that the clocks skip comes right after the gap, one that they show twice comes once; what runs every hour or
    more often follows the time that passes. Source: the rules of Debian's cron, as the library cronsim has them.
    Raises: ValueError with what is wrong.
    """

    expression: str
    time_zone: str

    def __post_init__(self) -> None:
        zone_of(self.time_zone)
        # With a sixth, of seconds, the library does not follow the change of clocks.
        if len(self.expression.split()) != 5:
            raise ValueError(f"{self.expression!r} is no cron expression: it needs five fields; for seconds use every")
        try:
            CronSim(self.expression, EPOCH)
        except CronSimError as error:
            raise ValueError(f"{self.expression!r} is no cron expression: {str(error).lower()}") from None
        if self.after(EPOCH) is None:
            raise ValueError(f"{self.expression!r} never comes")

    def after(self, moment: datetime) -> datetime | None:
        for found in CronSim(self.expression, moment.astimezone(zone_of(self.time_zone))):
            # Two times of one zone would be compared by what its clocks show.
            if (instant := found.astimezone(UTC)) > moment:
                return instant
        return None

    def __str__(self) -> str:
        return f"{self.expression} ({self.time_zone})"


@dataclass(frozen=True)
class Every:
    """Every so often from a fixed instant, whatever the clocks show. Raises: ValueError with what is wrong."""

    length: timedelta
    starts_at: datetime = EPOCH

    def __post_init__(self) -> None:
        if self.length < SHORTEST:
            raise ValueError(f"every must be at least a second, not {self.length}")

    def after(self, moment: datetime) -> datetime | None:
        rounds = (moment - self.starts_at) // self.length + 1
        try:
            return self.starts_at + max(0, rounds) * self.length
        except OverflowError:  # beyond the end of the calendar
            return None

    def __str__(self) -> str:
        return f"every {self.length}"


def zone_of(name: str) -> ZoneInfo:
    """Raises: ValueError naming the nearest zone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no time zone {name!r}.{hint}") from None


def coming(timing: Timing, moment: datetime, count: int) -> list[datetime]:
    """Return the next times after a moment."""
    found: list[datetime] = []
    while len(found) < count and (next_at := timing.after(found[-1] if found else moment)):
        found.append(next_at)
    return found


def newest(timing: Timing, since: datetime, until: datetime, count: int) -> list[datetime]:
    """Return the last `count` times from `since` to `until`, both included, oldest first.

    It looks back further and further, so that a year of minutes is not counted from its beginning.
    """
    window = FIRST_WINDOW
    while True:
        start = max(since, until - window)
        found = deque(between(timing, start, until), count)
        if len(found) == count or start == since:
            return list(found)
        window *= 8


def between(timing: Timing, since: datetime, until: datetime) -> list[datetime]:
    found = []
    moment = timing.after(since - timedelta(microseconds=1))
    while moment is not None and moment <= until:
        found.append(moment)
        moment = timing.after(moment)
    return found


LONGEST = {"name": 255, "task_path": 255, "cron": 100, "time_zone": 64}
WRITTEN = ("cron", "time_zone", "every", "starts_at", "missed", "kwargs")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A schedule as code or settings write it. Raises: ValueError or TypeError with what is wrong."""

    name: str
    task_path: str
    cron: str = ""
    time_zone: str = ""
    every: timedelta | None = None
    starts_at: datetime | None = None
    missed: str = Missed.ONE
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, most in LONGEST.items():
            if not isinstance(getattr(self, name), str) or len(getattr(self, name)) > most:
                raise ValueError(f"{name} must be text of at most {most} characters")
        timing_of(self)
        if self.missed not in Missed.values:
            raise ValueError(f"missed must be one of {', '.join(Missed.values)}, not {self.missed!r}")
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(f"kwargs takes a dict of keyword arguments, not {self.kwargs!r}")
        if self.starts_at is not None and not isinstance(self.starts_at, datetime):
            raise TypeError(f"starts_at takes a datetime, not {self.starts_at!r}")
        if self.starts_at and timezone.is_naive(self.starts_at):
            raise ValueError("starts_at must have a time zone")
        text = json.dumps(dict(self.kwargs), allow_nan=False)
        if "\\u0000" in text:
            raise ValueError("kwargs hold a character that no database can: NUL")
        # As the row will hold them.
        object.__setattr__(self, "kwargs", json.loads(text))

    @classmethod
    def of(cls, name: str, task_path: str, given: Any) -> "Declaration":
        """Read what `@task(schedule=...)` takes: a cron expression, a length of time, or a dict with either."""
        if isinstance(given, str):
            return cls(name=name, task_path=task_path, cron=given)
        if not isinstance(given, Mapping):
            return cls(name=name, task_path=task_path, every=length(given))
        if unknown := [key for key in given if key not in WRITTEN]:
            raise ValueError(f"has no {unknown[0]!r}; there are {', '.join(WRITTEN)}")
        every = given.get("every")
        return cls(name=name, task_path=task_path, **dict(given) | {"every": None if every is None else length(every)})


def timing_of(schedule: Any) -> Timing:
    """Return when a schedule, or what declares one, is due. Raises: ValueError with what is wrong."""
    if bool(schedule.cron) == bool(schedule.every):
        raise ValueError("needs either cron or every, and not both")
    if schedule.every:
        starts_at = {"starts_at": schedule.starts_at} if schedule.starts_at else {}
        return Every(schedule.every, **starts_at)
    return Cron(schedule.cron, schedule.time_zone or settings.TIME_ZONE)


def length(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise TypeError(f"takes a cron expression, seconds or a timedelta, not {value!r}")
    try:
        found = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError(f"is no length of time: {value!r}") from None
    if found <= timedelta(0):
        raise ValueError(f"every must be longer than 0, not {value!r}")
    return found
