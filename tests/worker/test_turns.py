"""Groups of a queue take turns, however many there are."""

from collections import Counter

import pytest

from jobs.worker.turns import PAGE, Turns


def turns_of(*names: str) -> Turns:
    """Turns over groups that always have more."""

    def name_groups(after: str | None, limit: int) -> list[str]:
        return [name for name in sorted(names) if after is None or name > after][:limit]

    return Turns(name_groups)


def test_each_group_has_its_turn_before_any_has_another():
    turns = turns_of("a", "b", "c")

    assert [turns.next(2) for _ in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_no_group_is_named_twice_for_one_claim():
    turns = turns_of("a", "b", "c")

    assert [turns.next(500) for _ in range(3)] == [["a", "b", "c"]] * 3


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_more_groups_than_are_named_at_a_time_have_equal_turns(limit):
    names = [f"{n:04}" for n in range(2 * PAGE + 100)]
    turns = turns_of(*names)

    had = Counter(name for _ in range(3 * len(names) // limit) for name in turns.next(limit))

    assert len(had) == len(names)
    assert max(had.values()) - min(had.values()) <= 1


def test_a_group_that_is_new_comes_in_the_next_round():
    names = ["a", "b"]
    turns = Turns(lambda after, limit: [name for name in names if after is None or name > after])
    assert turns.next(1) == ["a"]

    names.append("c")

    assert [turns.next(1)[0] for _ in range(4)] == ["b", "a", "b", "c"]


def test_without_groups_there_is_nothing_to_claim():
    turns = turns_of()

    assert turns.next(5) == []


def test_names_are_fresh_only_where_all_were_just_read():
    turns = turns_of("a", "b", "c")

    turns.next(1)
    assert turns.are_fresh
    turns.next(2)
    assert not turns.are_fresh
    turns.forget()
    turns.next(1)
    assert turns.are_fresh
