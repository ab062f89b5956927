"""Groups of a queue take turns, however many there are, and whatever others hold."""

from collections import Counter

import pytest

from jobs.storage import Claim
from jobs.worker import turns as module
from jobs.worker.turns import MISSES, PAGE, Turns


@pytest.fixture(autouse=True)
def from_the_first(monkeypatch, request):
    """Begin with the first group, where a test does not want chance."""
    if "chance" not in request.keywords:
        monkeypatch.setattr(module.random, "randrange", lambda _: 0)
        monkeypatch.setattr(module.random, "random", lambda: 1.0)


def turns_of(*names: str) -> Turns:
    """Turns over groups that always have more."""

    def name_groups(after: str | None, limit: int) -> list[str]:
        return [name for name in sorted(names) if after is None or name > after][:limit]

    return Turns(name_groups)


def served(turns: Turns, rounds: int, limit: int, *, locked: str = "") -> Counter[str]:
    """Claim so often from groups that always have more, but for one whose jobs somebody has locked."""
    had: Counter[str] = Counter()
    for _ in range(rounds):
        groups = turns.next(limit)
        if not groups:
            continue
        share, more = Claim("q", limit, groups=groups).shares
        got = {name: 0 if name == locked else share + (place < more) for place, name in enumerate(groups)}
        had.update(got)
        turns.note(groups, limit, sum(got.values()))
    return had


def test_each_group_has_its_turn_before_any_has_another():
    turns = turns_of("a", "b", "c")

    assert [turns.next(2) for _ in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_no_group_is_named_twice_for_one_claim():
    turns = turns_of("a", "b", "c")

    assert [sorted(turns.next(500)) for _ in range(3)] == [["a", "b", "c"]] * 3


@pytest.mark.parametrize(("groups", "limit"), [(300, 500), (7, 15), (4, 6), (3, 500), (2, 3), (5, 1), (600, 7)])
def test_groups_that_always_have_more_are_served_alike(groups, limit):
    rounds = 60 if limit > groups else 3 * groups
    had = served(turns_of(*(f"{n:04}" for n in range(groups))), rounds, limit)

    assert len(had) == groups
    assert max(had.values()) - min(had.values()) <= max(2, max(had.values()) // 20), had


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_more_groups_than_are_named_at_a_time_have_equal_turns(limit):
    names = [f"{n:04}" for n in range(2 * PAGE + 100)]
    turns = turns_of(*names)

    had = Counter(name for _ in range(3 * len(names) // limit) for name in turns.next(limit))

    assert len(had) == len(names)
    assert max(had.values()) - min(had.values()) <= 1


@pytest.mark.parametrize("limit", [1, 2, 4])
@pytest.mark.parametrize("groups", [3, 6, 1000])
@pytest.mark.parametrize("locked", [0, 1, 2])
def test_a_group_whose_jobs_are_locked_keeps_no_other_from_its_turn(groups, limit, locked):
    names = [f"{n:04}" for n in range(groups)]

    had = served(turns_of(*names), 6 * groups, limit, locked=names[locked])

    others = [had[name] for name in names if name != names[locked]]
    assert min(others) > 0
    assert max(others) <= 3 * min(others) + 3


def test_a_group_that_is_new_comes_in_the_next_round():
    names = ["a", "b"]
    turns = Turns(lambda after, limit: [name for name in names if after is None or name > after])
    assert turns.next(1) == ["a"]

    names.append("c")

    assert "c" in [turns.next(1)[0] for _ in range(4)]


def test_without_groups_there_is_nothing_to_claim():
    turns = turns_of()

    assert turns.next(5) == []


def test_claims_that_find_nothing_again_and_again_are_left_for_later():
    turns = turns_of("a", "b", "c")

    assert [turns.note(turns.next(1), 1, 0) for _ in range(2 * MISSES)] == ([False] * (MISSES - 1) + [True]) * 2
    turns.note(turns.next(1), 1, 0)
    turns.note(turns.next(1), 1, 1)
    assert turns.misses == 0


@pytest.mark.chance
@pytest.mark.parametrize("groups", [40, 3 * PAGE])
def test_each_process_begins_somewhere_else(groups):
    names = [f"{n:04}" for n in range(groups)]
    firsts = {turns_of(*names).next(1)[0] for _ in range(60)}

    assert len(firsts) > 15
    assert max(firsts) > names[groups // 2]


def test_looks_that_take_long_are_few(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    looks = []

    def slow(after: str | None, limit: int) -> list[str]:
        now[0] += 0.1
        looks.append(after)
        return ["a", "b"]

    turns = Turns(slow)
    for _ in range(50):
        assert sorted(turns.next(10)) == ["a", "b"]
        now[0] += 0.01

    assert len(looks) <= 3


def test_groups_that_a_limit_left_nothing_for_are_the_next():
    turns = turns_of("a", "b", "c", "d")

    firsts = []
    for _ in range(8):
        groups = turns.next(4)
        turns.note(groups[:1], 1, 1)
        turns.put_back(groups[1:])
        firsts.append(groups[0])

    assert sorted(firsts) == sorted("abcd" * 2)
    groups = turns.next(4)
    turns.put_back(groups)
    assert turns.next(4) == groups
