"""What a task's annotations do to its arguments: they check them, and where it asks for that, carry more than JSON."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured

from jobs import enqueue_many, task
from jobs.compat import task_backends
from jobs.exceptions import InvalidPayload
from jobs.models import DeadLetter, IdempotencyRecord, Job
from jobs.states import Reason, State
from jobs.testing import assert_enqueued, run_jobs, with_backend
from tests import annotated
from tests.annotated import CALLS, Color, Level

ORDER = UUID("0190e9f4-1f0c-7a31-8a4a-0123456789ab")
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


FITTING = [
    {"count": 3},
    {"count": True},
    {"ratio": 1},
    {"ratio": 1.5},
    {"name": "x", "flag": True, "nothing": None},
    {"maybe": None},
    {"maybe": 3},
    {"either": 3},
    {"either": "three"},
    {"users": [1, 2]},
    {"users": (1, 2)},
    {"pairs": [1, "a"]},
    {"many": [1, 2, 3]},
    {"names": ["a"]},
    {"scores": {"a": 1}},
    {"nested": {"a": [1]}},
    {"size": "large"},
    {"noted": 3},
    {"implicit": None},
    {"anything": {"a": [None]}},
    {"order": str(ORDER)},
    {"order": 3},
    {"unheard": 3},
    {"later": 3},
]

MISFITS = [
    ({"count": "3"}, "count takes int, not str"),
    ({"count": 3.0}, "count takes int, not float"),
    ({"count": None}, "count takes int, not NoneType"),
    ({"ratio": "1"}, "ratio takes float, not str"),
    ({"name": 3}, "name takes str, not int"),
    ({"flag": 1}, "flag takes bool, not int"),
    ({"nothing": 0}, "nothing takes None, not int"),
    ({"maybe": "3"}, "maybe takes int, not str"),
    ({"either": 1.5}, "either takes int or str, not float"),
    ({"users": 3}, r"users takes list\[int\], not int"),
    ({"users": "ab"}, r"users takes list\[int\], not str"),
    ({"users": [1, "2"]}, r"users\[1\] takes int, not str"),
    ({"pairs": [1]}, "pairs takes 2 items, not 1"),
    ({"pairs": [1, 2]}, r"pairs\[1\] takes str, not int"),
    ({"many": [1, "2"]}, r"many\[1\] takes int, not str"),
    ({"names": [1]}, r"names\[0\] takes str, not int"),
    ({"scores": [1]}, r"scores takes dict\[str, float\], not list"),
    ({"scores": {"a": "1"}}, r"scores\['a'\] takes float, not str"),
    ({"nested": {"a": [1, None]}}, r"nested\['a'\]\[1\] takes int, not NoneType"),
    ({"size": "huge"}, "size takes one of 'small', 'large'"),
    ({"noted": "x"}, "noted takes int, not str"),
    ({"implicit": "x"}, "implicit takes int, not str"),
    ({"later": "x"}, "later takes int, not str"),
]


@pytest.mark.parametrize("kwargs", FITTING, ids=str)
def test_what_an_annotation_allows_is_enqueued(kwargs):
    result = annotated.checked.enqueue(**kwargs)

    assert Job.objects.get().kwargs == json.loads(json.dumps(kwargs)) == result.kwargs


@pytest.mark.parametrize(("kwargs", "problem"), MISFITS, ids=str)
def test_what_an_annotation_does_not_allow_is_refused_by_name(kwargs, problem):
    with pytest.raises(InvalidPayload, match=f"checked: {problem}$"):
        annotated.checked.enqueue(**kwargs)

    assert not Job.objects.exists()


def test_a_refusal_does_not_quote_the_value():
    with pytest.raises(InvalidPayload) as refusal:
        annotated.checked.enqueue(count="very private")

    assert "private" not in str(refusal.value)


def test_arguments_by_position_and_spread_ones_are_checked_too():
    annotated.spread.enqueue(1, 2, 3, other="x")

    for args, kwargs, problem in [
        (("1",), {}, r"args\[0\] takes int"),
        ((1, 2, "3"), {}, r"args\[2\] takes int"),
        ((1,), {"other": 1}, "other takes str"),
    ]:
        with pytest.raises(InvalidPayload, match=problem):
            annotated.spread.enqueue(*args, **kwargs)


def test_one_misfit_among_many_payloads_refuses_them_all():
    with pytest.raises(InvalidPayload, match="count takes int"):
        enqueue_many(annotated.checked, [{"count": 1}, {"count": "2"}])

    assert not Job.objects.exists()


def test_a_task_may_leave_its_annotations_out_of_it():
    annotated.unchecked.enqueue(count="three")
    run_jobs()

    assert CALLS == ["three"]


def test_a_project_may_leave_annotations_out_of_it(settings):
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": {"annotations": "off"}}}

    annotated.checked.enqueue(count="three")

    assert Job.objects.exists()


VALUES = [
    ("at", datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC), "2026-03-01T12:30:15.000250+00:00"),
    ("at", datetime(2026, 3, 1, 12, 30), "2026-03-01T12:30:00"),
    ("day", date(2026, 3, 1), "2026-03-01"),
    ("clock", time(12, 30), "12:30:00"),
    ("amount", Decimal("12.50"), "12.50"),
    ("color", Color.BLUE, "blue"),
    ("level", Level.HIGH, 2),
    ("orders", [ORDER, ORDER], [str(ORDER), str(ORDER)]),
    ("prices", {"a": Decimal("1.10"), "b": None}, {"a": "1.10", "b": None}),
    ("either", ORDER, str(ORDER)),
    ("either", 3, 3),
    ("plain", str(ORDER), str(ORDER)),
]


@pytest.mark.parametrize(("name", "value", "stored"), VALUES, ids=str)
def test_a_converted_argument_arrives_as_it_was_passed(name, value, stored):
    result = annotated.converted.enqueue(ORDER, **{name: value})
    job = Job.objects.get()
    assert (job.args, job.kwargs) == ([str(ORDER)], {name: stored})
    assert (result.args, result.kwargs) == (job.args, job.kwargs)

    assert run_jobs() == 1

    [call] = CALLS
    assert call["order"] == ORDER
    assert (call[name], type(call[name])) == (value, type(value))


@pytest.mark.parametrize(("name", "value", "stored"), VALUES, ids=str)
def test_what_json_holds_of_it_may_be_passed_as_well(name, value, stored):
    annotated.converted.enqueue(str(ORDER).upper(), **{name: stored})
    run_jobs()

    [call] = CALLS
    assert call[name] == value
    assert Job.objects.get().args == [str(ORDER)]


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        (("no id",), {}, r"args\[0\] takes UUID, and this str is none"),
        ((3,), {}, r"args\[0\] takes UUID, not int"),
        ((ORDER,), {"day": datetime(2026, 3, 1)}, "day takes date, not datetime"),
        ((ORDER,), {"at": date(2026, 3, 1)}, "at takes datetime, not date"),
        ((ORDER,), {"amount": 1.5}, "amount takes Decimal, not float"),
        ((ORDER,), {"amount": True}, "amount takes Decimal, not bool"),
        ((ORDER,), {"amount": "x"}, "amount takes Decimal, and this str is none"),
        ((ORDER,), {"color": "green"}, "color takes Color, one of 'red', 'blue'"),
        ((ORDER,), {"level": "high"}, "level takes Level, one of 1, 2"),
        ((ORDER,), {"orders": [ORDER, "x"]}, r"orders\[1\] takes UUID, and this str is none"),
        ((ORDER,), {"prices": {"a": "x"}}, r"prices\['a'\] takes Decimal, and this str is none"),
        ((ORDER,), {"either": 1.5}, "either takes UUID or int, not float"),
    ],
    ids=str,
)
def test_what_cannot_be_converted_is_refused_by_name(args, kwargs, problem):
    with pytest.raises(InvalidPayload, match=problem):
        annotated.converted.enqueue(*args, **kwargs)


def test_keys_are_made_of_what_json_holds_and_contexts_come_first():
    annotated.keyed.enqueue(order=ORDER, color=Color.RED)
    run_jobs()

    assert CALLS == [(1, ORDER, Color.RED)]
    assert IdempotencyRecord.objects.get().key.endswith(f"order:{ORDER}:red")


def test_a_validator_gets_what_the_task_gets():
    annotated.validated.enqueue(str(ORDER), "red")
    with pytest.raises(InvalidPayload):
        annotated.validated.enqueue(ORDER, Color.BLUE)

    assert run_jobs() == 1


def test_many_payloads_are_converted_each():
    enqueue_many(annotated.converted, [{"order": ORDER, "color": color} for color in Color])
    run_jobs()

    assert [call["color"] for call in CALLS] == list(Color)


def test_a_payload_that_the_annotation_of_newer_code_does_not_allow_is_a_dead_letter():
    annotated.converted.enqueue(ORDER)
    Job.objects.update(args=["not an order"])
    run_jobs()

    letter = DeadLetter.objects.get()
    assert letter.reason == Reason.INVALID_PAYLOAD
    assert "args[0] takes UUID" in letter.group.sample
    assert not CALLS


def test_an_assertion_takes_what_the_task_takes():
    annotated.converted.enqueue(ORDER, color=Color.BLUE)

    assert assert_enqueued(annotated.converted, ORDER, color=Color.BLUE)


def test_a_task_called_here_takes_either_form():
    annotated.converted.call(str(ORDER), color="blue")
    annotated.converted.call(ORDER, color=Color.BLUE)

    assert [(call["order"], call["color"]) for call in CALLS] == [(ORDER, Color.BLUE)] * 2


@pytest.mark.parametrize("call", [{"color": Color.RED}, {"color": "red"}])
def test_the_immediate_backend_converts_too(settings, call):
    settings.TASKS = with_backend(settings.TASKS, "jobs.testing.ImmediateBackend")

    result = annotated.validated.enqueue(ORDER, **call)

    assert CALLS == [(ORDER, Color.RED)]
    assert (result.args, result.kwargs) == ([str(ORDER)], {"color": "red"})


def test_the_dummy_backend_refuses_what_the_real_one_refuses(settings):
    settings.TASKS = with_backend(settings.TASKS, "jobs.testing.DummyBackend")

    with pytest.raises(InvalidPayload, match="count takes int"):
        annotated.checked.enqueue(count="3")
    annotated.converted.enqueue(ORDER)

    assert [result.args for result in task_backends["default"].results] == [[str(ORDER)]]


def test_a_value_that_could_travel_says_how():
    with pytest.raises(InvalidPayload, match=r'annotate the argument as UUID and use @task\(annotations="convert"\)'):
        annotated.checked.enqueue(order=ORDER)


# What people write


def test_a_bare_tuple_takes_anything_and_text_is_a_sequence_of_text():
    annotated.loose.enqueue(pair=[1, "a"], names="abc", items={"a": 1})
    with pytest.raises(InvalidPayload, match="names takes"):
        annotated.loose.enqueue(names=3)


def test_names_that_the_module_defines_further_down_are_converted():
    annotated.early.enqueue(annotated.Late.ONE)
    run_jobs()

    assert CALLS == [annotated.Late.ONE]


def test_a_function_under_another_s_wrapper_is_converted_by_its_own_names():
    annotated.wrapped.enqueue(ORDER)
    run_jobs()

    assert CALLS == [ORDER]


def test_defaults_make_the_same_keys_as_arguments():
    for call in ({}, {"color": Color.RED}, {"color": "red"}):
        annotated.defaulted.enqueue(ORDER, **call)

    assert Job.objects.get().dedupe_key == f"{ORDER}:red:2026-03-01T00:00:00"


def test_an_assertion_compares_what_is_no_value_as_it_is():
    annotated.checked.enqueue(count=3)

    assert assert_enqueued(annotated.checked, count=ANY)


def test_a_job_waits_where_the_code_cannot_convert_its_arguments(settings):
    annotated.ambiguous.enqueue(value="x")
    options = {"OPTIONS": {"annotations": "convert"}}
    settings.TASKS = {"default": settings.TASKS["default"] | options}

    run_jobs()

    job = Job.objects.get()
    assert (job.state, job.held_since is None, job.attempts) == (State.SCHEDULED, False, 0)
    with pytest.raises(ImproperlyConfigured, match="cannot be told apart"):
        annotated.ambiguous.enqueue(value="x")


class Odd(Enum):
    ONE = (1, 2)


def ambiguous_text(value: UUID | str) -> None: ...
def ambiguous_kinds(value: UUID | datetime) -> None: ...
def half_known(value: UUID | bytes) -> None: ...
def odd(value: Odd) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (ambiguous_text, "annotation of value cannot be told apart in JSON: UUID or str"),
        (ambiguous_kinds, "annotation of value cannot be told apart in JSON: UUID or datetime"),
        (half_known, "annotation of value holds a type beside others of which nothing is known"),
        (odd, r"annotation of value Odd has the value \(1, 2\)"),
    ],
)
def test_what_cannot_be_read_back_is_refused_where_the_task_is_written(function: Any, problem: str):
    with pytest.raises(ImproperlyConfigured, match=problem):
        task(annotations="convert")(function)

    task(function)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ImproperlyConfigured, match="annotations must be 'check', 'convert' or 'off', not 'yes'"):
        task(annotations="yes")(ambiguous_text)
