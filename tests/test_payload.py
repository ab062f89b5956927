"""Rule 10: bad input is refused at enqueue, before any SQL, with an error that names the argument."""

import dataclasses
import datetime
import decimal
import json
import uuid

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from jobs import enqueue_many, payload
from jobs.exceptions import InvalidPayload
from jobs.models import Job
from jobs.validation import problems
from tests import tasks, validated


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


# What is given, and what the error must name.
REFUSED = {
    "NaN": ({"a": float("nan")}, "a is nan"),
    "infinity": ({"a": float("inf")}, "a is inf"),
    "minus infinity": ({"a": 1, "b": float("-inf")}, "b is -inf"),
    "a NUL character": ({"a": "x\x00y"}, "a contains a NUL"),
    "a NUL character deep inside": ({"a": {"to": ["x\x00"]}}, "a['to'][0] contains a NUL"),
    "a NUL character in a key": ({"a": {"x\x00": 1}}, "contains a NUL"),
    "half a surrogate pair": ({"a": "\ud800"}, "a contains half a surrogate"),
    "half a surrogate pair in a key": ({"a": {"\udfff": 1}}, "contains half a surrogate"),
    "a key that is a number": ({"a": {1: "one"}}, "a has the key 1"),
    "a key that is nothing": ({"a": [{None: "x"}]}, "a[0] has the key None"),
    "a set": ({"a": {1}}, "a is a builtins.set"),
    "bytes": ({"a": b"x"}, "a is a builtins.bytes"),
    "a date": ({"a": datetime.date(2026, 1, 1)}, "a is a datetime.date"),
    "a decimal number": ({"a": decimal.Decimal("1.1")}, "a is a decimal.Decimal"),
    "a UUID in a list": ({"a": [uuid.UUID(int=1)]}, "a[0] is a uuid.UUID"),
    "an object": ({"a": object()}, "a is a builtins.object"),
    "too deep": ({"a": nested(100)}, "a[0][0]"),
    "too large": ({"a": "x" * 100_000, "b": 1}, "'a'"),
    "too large in bytes though not in characters": ({"a": "€" * 30_000}, "max_payload=65536"),
    "an integer longer than Python prints": ({"a": 10**5000}, "a"),
    "an unknown argument": ({"a": 1, "c": 2}, "'c'"),
    "a missing argument": ({"b": 1}, "'a'"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_any_sql_naming_the_argument(name, django_assert_num_queries):
    kwargs, named = REFUSED[name]

    with django_assert_num_queries(0), pytest.raises(InvalidPayload) as refused:
        tasks.add.enqueue(**kwargs)

    assert named in str(refused.value)
    assert "add" in str(refused.value)
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_bad_positional_argument_is_named_by_its_place(django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(InvalidPayload, match=r"args\[1\] is a builtins\.set"):
        tasks.add.enqueue(1, {2})


@pytest.mark.django_db
def test_too_many_positional_arguments_are_refused():
    with pytest.raises(InvalidPayload, match="too many positional"):
        tasks.add.enqueue(1, 2, 3)


@pytest.mark.django_db
def test_the_context_is_not_an_argument_that_callers_may_give():
    with pytest.raises(InvalidPayload, match="'context'"):
        tasks.tell.enqueue(context=1, name="x")


@pytest.mark.django_db
def test_a_misspelt_argument_is_told_beside_the_one_that_is_missing():
    with pytest.raises(InvalidPayload, match="add: missing a required argument: 'a'; there is no 'aa'"):
        tasks.add.enqueue(aa=1)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("task", "payloads", "said"),
    [
        (len, [{}], "enqueue_many takes a task, made by @task, not <built-in function len>"),
        (tasks.add, None, "add: enqueue_many takes dicts of keyword arguments, not None"),
    ],
)
def test_what_many_jobs_cannot_be_made_of_is_named(task, payloads, said):
    with pytest.raises(TypeError, match=said):
        enqueue_many(task, payloads)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["a\x00b", "\ud800"])
def test_a_name_that_the_database_cannot_hold_is_refused(name, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(InvalidPayload, match="the name"):
        tasks.anything.enqueue(**{name: 1})


@pytest.mark.django_db
def test_a_name_need_not_be_one_of_python(vendor):
    assert tasks.anything.enqueue(**{"to whom": 1}).kwargs == {"to whom": 1}


@pytest.mark.django_db
def test_one_bad_payload_among_many_refuses_them_all_before_any_sql(django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(InvalidPayload, match="a is nan"):
        enqueue_many(tasks.add, [{"a": 1}, {"a": float("nan")}])

    assert not Job.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("task", "kwargs", "said"),
    [
        (tasks.charge, {"order": "x" * 300}, "idempotency_key is longer than 255"),
        (tasks.add.using(idempotency_key="{a[0]}"), {"a": 1}, "idempotency_key cannot be made"),
        (tasks.add.using(idempotency_key=lambda a, b: ""), {"a": 1}, "idempotency_key must be text"),
        (tasks.add.using(idempotency_key=lambda a, b: 7), {"a": 1}, "idempotency_key must be text"),
        (tasks.add.using(idempotency_key=lambda a, b: "\x00"), {"a": 1}, "idempotency_key contains a NUL"),
    ],
)
def test_key_that_cannot_be_made_is_refused_before_any_sql(task, kwargs, said, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(InvalidPayload, match=said):
        task.enqueue(**kwargs)

    assert not Job.objects.exists()


@pytest.mark.django_db
def test_key_is_made_of_defaults_too():
    tasks.add.using(idempotency_key="{a}-{b}").enqueue(5)

    assert Job.objects.get().idempotency_key == "5-0"


@pytest.mark.django_db
@pytest.mark.parametrize("priority", [-101, 101, 1.5, "high", True])
def test_priority_out_of_range_is_refused_and_leaves_no_row(priority):
    with pytest.raises(Exception, match="priority"):
        tasks.add.using(priority=priority).enqueue(1)

    assert not Job.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("value", [True, None, 0, -1, 1.5, 10**30, "ü€😀", "", [], {}, {"a": [{"b": None}]}])
def test_json_comes_back_as_it_went_in(value):
    tasks.add.enqueue(value)

    assert Job.objects.get().args == [value]


def test_payload_just_small_enough_is_taken():
    args, kwargs = payload.encoded("t", ["x" * 10], {}, max_payload=16)

    assert len(args) + len(kwargs) == 16
    with pytest.raises(InvalidPayload, match="17 bytes"):
        payload.encoded("t", ["x" * 11], {}, max_payload=16)


def test_a_list_of_the_deepest_level_is_taken():
    payload.check(nested(payload.MAX_DEPTH - 1), "t", "a")

    with pytest.raises(InvalidPayload, match="nested deeper"):
        payload.check(nested(payload.MAX_DEPTH), "t", "a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(JSON)
def test_what_is_let_through_is_strict_json_that_utf8_can_write(value):
    try:
        [text, _] = payload.encoded("t", [value], {}, max_payload=1 << 20)
    except InvalidPayload as refused:
        assert "args[0]" in str(refused)  # noqa: PT017
        return

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(text.encode(), parse_constant=refuse) == [value]
    assert "\\u0000" not in text


@pytest.mark.parametrize("template", ["{", "}{", "{a!z}"])
def test_text_that_is_no_format_string_has_no_fields(template):
    with pytest.raises(ValueError, match=r"."):
        payload.fields_of(template).union({template.format(a=1)})


def test_fields_of_a_key_are_the_arguments_it_names():
    assert payload.fields_of("{user.id}-{items[0]}-{plain:>5}-{{text}}") == {"user", "items", "plain"}


def test_return_value_of_none_is_stored_as_nothing():
    assert payload.encoded_value(None, "t", 10) is None


def test_return_value_too_large_is_refused():
    with pytest.raises(InvalidPayload, match="return value"):
        payload.encoded_value("x" * 100, "t", 10)


# A quick yes


def takes(a, b=1, *, c, d=2):
    pass


@pytest.mark.parametrize("args", [[], [1], [1, 2], [1, 2, 3]])
@pytest.mark.parametrize("names", [(), ("c",), ("a", "c"), ("a", "b", "c", "d"), ("b", "c"), ("c", "e"), ("a",)])
def test_a_quick_yes_is_what_binding_would_say(args, names):
    kwargs = dict.fromkeys(names, 0)
    try:
        payload.bound(takes, False, args, kwargs)
    except InvalidPayload:
        fits = False
    else:
        fits = True

    assert payload.fit(takes, False)(args, kwargs) is fits


@pytest.mark.parametrize("function", [lambda a, /: None, lambda *rest: None, lambda **more: None])
def test_a_signature_that_is_not_plain_is_left_to_binding(function):
    assert not payload.fit(function, False)([1], {})


def test_the_context_is_no_argument_of_the_payload():
    assert payload.fit(takes, True)([], {"b": 1, "c": 2})
    assert not payload.fit(takes, True)([], {"a": 1, "c": 2})


@pytest.mark.parametrize("text", ["[]", '{"a": [1, 2.5, null, true, "\\u0041"]}', '  {"a": 1}', "\n[1]", '"text"'])
def test_what_the_database_holds_is_decoded_as_json(text):
    assert payload.decoded(text) == json.loads(text)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("task", "kwargs", "said"),
    [
        (validated.checked, {"to": ""}, "checked: to must name at least one address"),
        (validated.checked, {"to": "a", "days": -1}, "checked: its validator refuses the payload"),
        (validated.checked, {"to": "a", "days": 400}, "checked: days: that is more than a year"),
        (validated.checked, {"to": "a", "days": "x"}, "checked: '>' not supported"),
        (validated.modelled, {"to": "hunter2"}, "modelled: to: Input should be a valid list"),
        (validated.modelled, {"to": ["a", 7]}, "modelled: to[1]: Input should be a valid string"),
        (validated.formed, {"to": "nobody"}, "formed: to: Enter a valid email address."),
        (validated.formed, {"to": "a@example.com", "days": -1}, "formed: days: Ensure this value is greater than"),
        (validated.formed, {"to": "a@example.com", "days": 13}, "formed: not on an unlucky day"),
    ],
)
def test_a_task_s_own_validator_refuses_a_payload_before_any_sql(task, kwargs, said, django_assert_num_queries):
    with django_assert_num_queries(0):
        for act in (lambda: task.enqueue(**kwargs), lambda: enqueue_many(task, [kwargs])):
            with pytest.raises(InvalidPayload) as refused:
                act()

            assert str(refused.value).startswith(said)
            assert "hunter2" not in str(refused.value)


@pytest.mark.django_db
def test_a_validator_lets_through_what_is_right_with_its_defaults():
    validated.checked.enqueue("a")
    validated.modelled.enqueue(to=["a"])
    enqueue_many(validated.formed, [{"to": "a@example.com"}])

    assert Job.objects.count() == 3


def test_a_fault_of_the_validator_itself_is_no_fault_of_the_payload():
    def broken(**arguments):
        return arguments["nothing"]

    with pytest.raises(KeyError):
        problems(broken, {"a": 1})


def test_a_validator_is_something_that_validates():
    with pytest.raises(
        ImproperlyConfigured, match="validate takes a callable, a pydantic model or a form class, not 7"
    ):
        dataclasses.replace(tasks.add, validate=7)
