"""Whose turn it is: the queues that have ready jobs, one after another, so that none waits for another's backlog."""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ..storage import ANY_QUEUE, ReadyQueue


@dataclass
class Rota:
    """The queues to claim from. Priority is not compared across queues: they take turns."""

    wanted: Collection[str]  # empty: all
    solo: bool
    turns: deque[str] = field(default_factory=deque)
    grouped: set[str] = field(default_factory=set)  # queues in which groups take turns
    tripped: set[str] = field(default_factory=set)  # queues that a breaker has paused
    called: dict[str, float] = field(default_factory=dict)  # until when to look into a queue told of
    doubted: dict[str, float] = field(default_factory=dict)  # when to look into a queue once more

    def call(self, names: Iterable[str], until: float) -> None:
        """Look into these queues until then, and at least once. A process for suspects has to ask which have any."""
        for name in names:
            if self.solo or name == ANY_QUEUE:
                self.called[ANY_QUEUE] = until
            elif not self.wanted or name in self.wanted:
                self.called[name] = until

    def doubt(self, name: str, at: float) -> None:
        """Look into a queue then: it may have jobs that the last claim did not see."""
        self.doubted[name] = at

    def take_called(self, now: float) -> bool:
        """Give the queues that are due a turn; return whether the database is to be asked for others."""
        due = [name for name, at in self.doubted.items() if now >= at]
        for name in due:
            del self.doubted[name]
        names = self.called.keys() | due
        self.turns.extend(name for name in sorted(names) if name != ANY_QUEUE and name not in self.turns)
        self.called = {name: until for name, until in self.called.items() if now < until}
        return ANY_QUEUE in names

    def next_doubt(self) -> float:
        return min(self.doubted.values(), default=float("inf"))

    def update(self, ready: list[ReadyQueue]) -> None:
        """Take in which queues have ready jobs now; the order of those already waiting for their turn is kept."""
        names = {queue.name for queue in ready if self.concerns(queue)}
        self.grouped = {queue.name for queue in ready if queue.has_groups}
        wanted = [queue.name for queue in ready if queue.is_tripped and (not self.wanted or queue.name in self.wanted)]
        self.tripped = set() if self.solo else set(wanted)
        kept = [name for name in self.turns if name in names]
        self.turns = deque(kept + sorted(names.difference(kept)))

    def concerns(self, queue: ReadyQueue) -> bool:
        if queue.paused or (self.wanted and queue.name not in self.wanted):
            return False
        return queue.has_suspects if self.solo else queue.has_plain

    def next(self) -> str:
        """Return the queue whose turn it is and put it last."""
        self.turns.rotate(-1)
        return self.turns[-1]

    def drop(self, name: str) -> None:
        """Forget a queue that has nothing left."""
        self.doubted.pop(name, None)
        if name in self.turns:
            self.turns.remove(name)
