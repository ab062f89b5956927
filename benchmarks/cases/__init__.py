"""All cases, in the order of the table."""

from fnmatch import fnmatchcase

from ..bench import Case
from . import backlog, drain, enqueue, growth, idle, latency, orm, overload, sleepers

GROUPS = (enqueue, drain, orm, sleepers, latency, backlog, idle, growth, overload)
ALL: list[Case] = [case for group in GROUPS for case in group.CASES]


def matching(patterns: list[str]) -> list[Case]:
    """Return the cases that a pattern names, or begins the name of: `drain.noop`, `drain.*.1x4`. No pattern: all."""
    return [case for case in ALL if not patterns or any(is_named(case, pattern) for pattern in patterns)]


def is_named(case: Case, pattern: str) -> bool:
    return fnmatchcase(case.name, pattern) or fnmatchcase(case.name, f"{pattern}.*")
