"""Whose turn it is within a queue: the groups that have ready jobs, one after another, so that none waits for another's
backlog."""

from collections import deque
from collections.abc import Callable

PAGE = 500  # groups that are named at a time


class Turns:
    """The groups of one queue. Threads: the engine's alone.

    `name_groups(after, limit)` names the next groups that have jobs; after None, the first ones.
    """

    def __init__(self, name_groups: Callable[[str | None, int], list[str]]) -> None:
        self.name_groups = name_groups
        self.names: deque[str] = deque()
        self.after: str | None = None
        self.are_fresh = False  # named for the last call of `next`, so that they had jobs a moment ago

    def next(self, limit: int) -> list[str]:
        """Return the groups whose turn it is, at most `limit`; none when no group has a ready job."""
        taken = dict.fromkeys(self.names.popleft() for _ in range(min(limit, len(self.names))))
        self.are_fresh = not taken
        if len(taken) < limit:
            self.look()
            had_theirs = []
            while self.names and len(taken) < limit:
                name = self.names.popleft()
                if name in taken:
                    had_theirs.append(name)
                taken[name] = None
            self.names.extend(had_theirs)
        return list(taken)

    def look(self) -> None:
        """Name the groups behind those that have had their turn, and from the beginning when there are no more."""
        found = self.name_groups(self.after, PAGE)
        if not found and self.after is not None:
            found = self.name_groups(None, PAGE)
        self.after = found[-1] if len(found) == PAGE else None
        self.names.extend(found)

    def forget(self) -> None:
        """Name the groups anew before the next turn: those known have nothing left."""
        self.names.clear()
