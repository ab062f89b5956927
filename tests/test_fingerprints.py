"""Deaths that one person would call the same have the same fingerprint."""

import pytest

from jobs.fingerprints import fingerprint, shape_of

SAME = [
    ("no customer 7", "no customer 4711"),
    ("took 1.5 seconds", "took 20 seconds"),
    ("user 'ada' is unknown", "user 'grace hopper' is unknown"),
    ('column "a" is missing', 'column "b" is missing'),
    ("field `a`", "field `b`"),
    ("<Order object at 0x7f00a1>", "<Order object at 0x10ffbe>"),
    ("cannot reach ada@example.org", "cannot reach grace+tag@mail.example.com"),
    ("no 01890a5d-ac96-774b-bcce-b302099a8057", "no ffffffff-0000-4000-8000-aaaaaaaaaaaa"),
    ("no ffffffff000040008000aaaaaaaaaaaa", "no 01890a5dac96774bbcceb302099a8057"),
    ("GET https://a.example/x?y=1 failed", "GET http://b.example/z failed"),
    ("refused by 10.0.0.1:5432", "refused by 192.168.17.20:80"),
    ("token deadbeef00112233", "token 99aabbccddeeff00"),
    ("two   spaces\nand a line", "two spaces and a line"),
]

DIFFERENT = [
    ("no customer 7", "no order 7"),
    ("connection refused", "connection reset"),
    ("", "no text"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_differs_from_job_to_job_is_left_out(one, other):
    assert shape_of(one) == shape_of(other)
    assert fingerprint("a.b", "ValueError", one) == fingerprint("a.b", "ValueError", other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_errors_have_other_fingerprints(one, other):
    assert fingerprint("a.b", "ValueError", one) != fingerprint("a.b", "ValueError", other)


def test_task_and_exception_class_are_part_of_it():
    prints = {
        fingerprint("a.b", "ValueError", "x"),
        fingerprint("a.c", "ValueError", "x"),
        fingerprint("a.b", "KeyError", "x"),
        # What stands on which side of a border matters.
        fingerprint("a.bV", "alueError", "x"),
    }

    assert len(prints) == 4


def test_it_fits_its_column_whatever_the_message():
    for message in ("", "x" * 100_000, "\ud800 half a pair", "\x00"):
        assert len(fingerprint("a.b", "ValueError", message)) == 64


def test_a_very_long_message_is_compared_by_its_beginning():
    assert fingerprint("a", "b", "x" * 2000 + "one") == fingerprint("a", "b", "x" * 2000 + "other")
