"""The options of `TASKS[alias]["OPTIONS"]`: names, units, defaults, and what is wrong with the ones given."""

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from .retries import exponential
from .timing import Declaration


def default_retention() -> dict[str, timedelta]:
    return {"succeeded": timedelta(days=7), "cancelled": timedelta(days=7), "dead": timedelta(days=90)}


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How much of a queue runs, and what it takes. None: no limit."""

    max_running: int | None = None  # jobs at a time, by all workers together
    rate_limit: int | None = None  # jobs that start within `rate_period`, by all workers together
    rate_period: timedelta = timedelta(seconds=1)
    max_depth: int | None = None  # ready jobs
    max_age: timedelta | None = None  # of the oldest ready job
    on_full: str = "reject"  # or "defer", or "shed": reject what has a lower priority than `shed_below`
    shed_below: int = 0
    paused: bool | None = None  # when a worker tree begins; then a person's word counts

    @property
    def slows(self) -> bool:
        """Say whether workers may claim only so much."""
        return self.max_running is not None or self.rate_limit is not None

    @property
    def bounds(self) -> bool:
        """Say whether producers may find it full."""
        return self.max_depth is not None or self.max_age is not None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Every option with its default. A length of time may be given as a timedelta or as a number of seconds."""

    lease: timedelta = timedelta(seconds=60)
    heartbeat: timedelta | None = None
    grace: timedelta = timedelta(seconds=25)
    timeout_grace: timedelta = timedelta(seconds=5)
    poll_interval: timedelta = timedelta(seconds=1)
    max_attempts: int = 5
    max_crashes: int = 3
    backoff: Callable[..., float] = field(default_factory=exponential)
    max_payload: int = 64 * 1024
    secrets: str = "reject"
    annotations: str = "check"
    priority_ageing: timedelta | None = None
    unknown_task_ttl: timedelta = timedelta(hours=24)
    queues: Mapping[str, QueueLimits] = field(default_factory=dict)
    schedules: Mapping[str, Declaration] = field(default_factory=dict)
    idempotency_ttl: timedelta | None = None
    retention: Mapping[str, timedelta] = field(default_factory=default_retention)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Options":
        """Raises: ImproperlyConfigured with every problem found."""
        if problems := list(problems_of(given)):
            raise ImproperlyConfigured(" ".join(problems))
        return cls(**{name: READERS[name](value) for name, value in given.items()})

    @property
    def heartbeat_interval(self) -> timedelta:
        return self.heartbeat or self.lease / 3


BACKEND = "jobs.backend.JobsBackend"
LONGEST_QUEUE_NAME = 100
LONGEST = timedelta(days=3650)
LARGEST = 32767  # what the smallest column of a count holds everywhere


@functools.cache
def options(alias: str | None = None) -> Options:
    """Return the options of a backend; of the first one that is this queue's when no alias is given."""
    tasks = getattr(settings, "TASKS", {})
    if alias is None:
        own = [name for name, params in tasks.items() if params.get("BACKEND") == BACKEND]
        alias = own[0] if own else "default"
    return Options.parse(tasks.get(alias, {}).get("OPTIONS", {}))


def queues() -> set[str]:
    """Return the names of all queues that may be enqueued into; none when any name may."""
    own = queues_of_backends()
    return set().union(*own) if all(own) else set()


def named_queues() -> set[str]:
    """Return the names of all queues that a backend of ours names."""
    return {name for names in queues_of_backends() for name in names if len(name) <= LONGEST_QUEUE_NAME}


def queues_of_backends() -> list[set[str]]:
    own = [params for params in getattr(settings, "TASKS", {}).values() if params.get("BACKEND") == BACKEND]
    return [set(params.get("QUEUES", ["default"])) for params in own]


@receiver(setting_changed)
def forget_options(*, setting: str, **kwargs: Any) -> None:
    if setting == "TASKS":
        options.cache_clear()


def problems_of(given: Any) -> list[str]:
    """Return one sentence for each option that is unknown or has a wrong value."""
    if not isinstance(given, Mapping):
        return [f"OPTIONS must be a dict, not {given!r}."]
    problems = []
    for name, value in given.items():
        if name not in READERS:
            problems.append(f"OPTIONS has no {name!r}.{nearest(name, READERS)}")
            continue
        try:
            READERS[name](value)
        except (TypeError, ValueError) as error:
            text = str(error)
            problems.append(f"OPTIONS[{name!r}] {text if text.endswith(('.', '?')) else f'{text}.'}")
    if not problems:
        problems.extend(contradictions(given))
    return problems


def contradictions(given: Mapping[str, Any]) -> list[str]:
    lease = length(given.get("lease", 60))
    if given.get("heartbeat") is not None and length(given["heartbeat"]) > lease / 2:
        return ["OPTIONS['heartbeat'] must be at most half of 'lease': one missed beat would lose the lease."]
    return []


def nearest(name: object, names: Mapping[str, Any]) -> str:
    found = difflib.get_close_matches(str(name), names, n=1)
    return f" Did you mean {found[0]!r}?" if found else f" There are: {', '.join(sorted(names))}."


def length(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise TypeError(f"takes seconds or a timedelta, not {value!r}")
    try:
        found = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError(f"is no length of time: {value!r}") from None
    if found > LONGEST:
        raise ValueError(f"must be at most {LONGEST.days} days, not {value!r}")
    if found <= timedelta(0):
        raise ValueError(f"must be longer than 0, not {value!r}")
    return found


def length_or_none(value: Any) -> timedelta | None:
    return None if value is None else length(value)


def length_or_zero(value: Any) -> timedelta:
    return timedelta(0) if value in (0, timedelta(0)) and not isinstance(value, bool) else length(value)


def count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"takes a whole number, not {value!r}")
    if not 1 <= value <= LARGEST:
        raise ValueError(f"must be at least 1 and at most {LARGEST}, not {value!r}")
    return value


def size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"takes a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"must be at least 1, not {value!r}")
    return value


def policy(value: Any) -> Callable[..., float]:
    if not callable(value):
        raise TypeError(f"takes a callable (attempt, exception) -> seconds, not {value!r}")
    return value  # type: ignore[no-any-return]


def retention(value: Any) -> dict[str, timedelta]:
    known = default_retention()
    if not isinstance(value, Mapping):
        raise TypeError(f"takes a dict of {', '.join(sorted(known))}, not {value!r}")
    if unknown := [name for name in value if name not in known]:
        raise ValueError(f"has no {unknown[0]!r}.{nearest(unknown[0], known)}")
    return known | {name: length(given) for name, given in value.items()}


def schedules(value: Any) -> dict[str, Declaration]:
    if not isinstance(value, Mapping):
        raise TypeError(f"takes a dict of schedules by name, not {value!r}")
    found = {}
    for name, given in value.items():
        if not isinstance(given, Mapping) or not isinstance(given.get("task"), str):
            raise TypeError(f"takes for each schedule a dict with the path of its 'task'; {name!r} has {given!r}")
        rest = {key: written for key, written in given.items() if key != "task"}
        try:
            found[name] = Declaration.of(name, given["task"], rest)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot be right for {name!r}: {error}") from None
    return found


def one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be {', '.join(map(repr, words[:-1]))} or {words[-1]!r}, not {value!r}")
        return str(value)

    return read


annotations_mode = one_of("check", "convert", "off")


def queue_limits(value: Any) -> dict[str, QueueLimits]:
    if not isinstance(value, Mapping):
        raise TypeError(f"takes a dict of limits by the name of the queue, not {value!r}")
    found = {}
    for name, given in value.items():
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_QUEUE_NAME or "\0" in name:
            raise ValueError(f"has {name!r:.120}, which no queue can be called: 1 to {LONGEST_QUEUE_NAME} characters")
        if not isinstance(given, Mapping):
            raise TypeError(f"takes a dict of limits for the queue {name!r}, not {given!r}")
        if unknown := [key for key in given if key not in LIMIT_READERS]:
            raise ValueError(f"has for {name!r} no {unknown[0]!r}.{nearest(unknown[0], LIMIT_READERS)}")
        limits: dict[str, Any] = {}
        for key, limit in given.items():
            try:
                limits |= {} if limit is None else {key: LIMIT_READERS[key](limit)}
            except (TypeError, ValueError) as error:
                raise ValueError(f"has for {name!r} {key!r}, which {error}") from None
        found[name] = QueueLimits(**limits)
    return found


def priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -100 <= value <= 100:
        raise ValueError(f"must be a priority from -100 to 100, not {value!r}")
    return value


def yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"takes True or False, not {value!r}")
    return value


LIMIT_READERS: dict[str, Callable[[Any], Any]] = {
    "max_running": size,
    "rate_limit": size,
    "rate_period": length,
    "max_depth": size,
    "max_age": length,
    "on_full": one_of("reject", "defer", "shed"),
    "shed_below": priority,
    "paused": yes_or_no,
}
READERS: dict[str, Callable[[Any], Any]] = {
    "lease": length,
    "heartbeat": length_or_none,
    "grace": length_or_zero,
    "timeout_grace": length_or_zero,
    "poll_interval": length,
    "max_attempts": count,
    "max_crashes": count,
    "backoff": policy,
    "max_payload": size,
    "secrets": one_of("reject", "warn", "off"),
    "annotations": annotations_mode,
    "priority_ageing": length_or_none,
    "unknown_task_ttl": length,
    "queues": queue_limits,
    "schedules": schedules,
    "idempotency_ttl": length_or_none,
    "retention": retention,
}
assert set(READERS) == {f.name for f in fields(Options)}
