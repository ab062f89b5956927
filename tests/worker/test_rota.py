"""Queues take turns."""

from jobs.storage import ReadyQueue
from jobs.worker.rota import Rota


def ready(name: str, *, plain: bool = True, suspects: bool = False, paused: bool = False) -> ReadyQueue:
    return ReadyQueue(name, plain, suspects, paused, False)


def rota(*queues: ReadyQueue, wanted=(), solo: bool = False) -> Rota:
    made = Rota(frozenset(wanted), solo)
    made.update(list(queues))
    return made


def test_queues_take_turns():
    turns = rota(ready("a"), ready("b"), ready("c"))

    assert [turns.next() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def test_queue_that_comes_later_does_not_jump_the_line():
    turns = rota(ready("m"), ready("z"))
    turns.next()

    turns.update([ready("a"), ready("m"), ready("z")])

    assert [turns.next() for _ in range(3)] == ["z", "m", "a"]


def test_empty_queue_is_forgotten():
    turns = rota(ready("a"), ready("b"))

    turns.drop("a")
    turns.drop("never there")

    assert [turns.next(), turns.next()] == ["b", "b"]


def test_queue_that_is_no_longer_ready_leaves_the_rota():
    turns = rota(ready("a"), ready("b"))

    turns.update([ready("b")])

    assert list(turns.turns) == ["b"]


def test_paused_and_unwanted_queues_have_no_turn():
    assert list(rota(ready("a", paused=True), ready("b")).turns) == ["b"]
    assert list(rota(ready("a"), ready("b"), wanted=["a"]).turns) == ["a"]


def test_solo_process_looks_for_suspects_only_and_others_never():
    queues = ready("plain"), ready("both", suspects=True), ready("suspect", plain=False, suspects=True)

    assert set(rota(*queues).turns) == {"plain", "both"}
    assert set(rota(*queues, solo=True).turns) == {"both", "suspect"}
