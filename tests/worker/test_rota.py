"""Queues take turns."""

from jobs.storage import ReadyQueue
from jobs.worker.rota import Rota


def ready(name: str, *, plain: bool = True, suspects: bool = False, paused: bool = False) -> ReadyQueue:
    return ReadyQueue(name, plain, suspects, paused, False)


def rota(*queues: ReadyQueue, wanted=(), solo: bool = False) -> Rota:
    made = Rota(frozenset(wanted), solo)
    made.update(list(queues))
    return made


def test_empty_queue_is_forgotten():
    turns = rota(ready("a"), ready("b"))

    turns.drop("a")
    turns.drop("never there")

    assert [turns.next(), turns.next()] == ["b", "b"]


def test_queue_that_is_no_longer_ready_leaves_the_rota():
    turns = rota(ready("a"), ready("b"))

    turns.update([ready("b")])

    assert list(turns.turns) == ["b"]
