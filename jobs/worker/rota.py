"""Whose turn it is: the queues that have ready jobs, one after another, so that none waits for another's backlog."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from ..storage import ReadyQueue


@dataclass
class Rota:
    """The queues to claim from. Priority is not compared across queues: they take turns."""

    wanted: Collection[str]  # empty: all
    solo: bool
    turns: deque[str] = field(default_factory=deque)

    def update(self, ready: list[ReadyQueue]) -> None:
        """Take in which queues have ready jobs now; the order of those already waiting for their turn is kept."""
        names = {queue.name for queue in ready if self.concerns(queue)}
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
        if name in self.turns:
            self.turns.remove(name)
