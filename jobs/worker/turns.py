"""Whose turn it is within a queue: the groups that have ready jobs, one after another, so that none waits for another's
backlog."""

import random
import time
from collections import deque
from collections.abc import Callable

from .horizon import Rest

PAGE = 500  # groups that are named at a time
PAGES_AT_FIRST = 20  # among which a new process chooses where to begin: else the first groups would be served most
CHEAP_SECONDS = 0.05  # a rest that is shorter is none
MISSES = 5  # claims in a row that found nothing: the rest is left for a later look


class Turns:
    """The groups of one queue. Threads: the engine's alone.

    `name_groups(after, limit)` names the next groups that have jobs, in order; after None, the first ones.
    """

    def __init__(self, name_groups: Callable[[str | None, int], list[str]]) -> None:
        self.name_groups = name_groups
        self.names: deque[str] = deque()
        self.after: str | None = None
        self.has_begun = False
        self.misses = 0
        self.rest, self.look_at = Rest(), 0.0

    def next(self, limit: int) -> list[str]:
        """Return the groups whose turn it is, at most `limit`; none when no group has a ready job.

        Where jobs are left over after an equal share for each, the first of them have one more: who they are changes.
        """
        taken = dict.fromkeys(self.names.popleft() for _ in range(min(limit, len(self.names))))
        if len(taken) < limit and (not taken or time.monotonic() >= self.look_at):
            self.look()
        had_theirs = []
        while self.names and len(taken) < limit:
            name = self.names.popleft()
            if name in taken:
                had_theirs.append(name)
            taken[name] = None
        if len(taken) < limit:
            again = deque(taken)
            again.rotate(-(limit % len(taken)) if taken else 0)
            self.names.extend(again)
        else:
            self.names.extend(had_theirs)
        return list(taken)

    def look(self) -> None:
        """Name the groups behind those that have had their turn, and from the beginning when there are no more."""
        began = time.monotonic()
        found = self.page() or self.page()
        if not self.has_begun and found:
            self.has_begun = True
            found = self.somewhere(found)
        self.names.extend(found)
        ended = time.monotonic()
        self.rest.note(ended - began)
        self.look_at = ended + (self.rest.seconds if self.rest.seconds > CHEAP_SECONDS else 0.0)

    def page(self) -> list[str]:
        found = self.name_groups(self.after, PAGE)
        self.after = found[-1] if len(found) == PAGE else None
        return found

    def somewhere(self, first: list[str]) -> list[str]:
        """Return a page to begin with, and begin anywhere in it."""
        chosen, chosen_after, pages = first, self.after, 1
        while self.after is not None and pages < PAGES_AT_FIRST and (found := self.page()):
            pages += 1
            if random.random() < 1 / pages:
                chosen, chosen_after = found, self.after
        self.after = chosen_after
        start = random.randrange(len(chosen))
        return chosen[start:] + ([] if chosen_after else chosen[:start])

    def put_back(self, groups: list[str]) -> None:
        """Let these be the next: a limit left nothing for them."""
        self.names = deque([*groups, *(name for name in self.names if name not in groups)])

    def note(self, groups: list[str], wanted: int, found: int) -> bool:
        """Learn what a claim found; return whether there is no use in another one now.

        Groups that had less than their share are named anew, from behind those that have had their turn: what a job is
        locked for, or another process takes, must not bring the first ones to the front again.
        """
        self.misses = 0 if found else self.misses + 1
        if found < wanted:
            self.names.clear()
            self.after, self.look_at = groups[-1], 0.0
        if self.misses < MISSES:
            return False
        self.misses = 0
        return True
