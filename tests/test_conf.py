"""The options of TASKS[...]["OPTIONS"]: what they mean, and what is said of wrong ones."""

from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from jobs import conf
from jobs.conf import Options, problems_of
from jobs.retries import fixed


def test_defaults_are_the_documented_ones():
    options = Options.parse({})

    assert options.lease == timedelta(seconds=60)
    assert options.heartbeat_interval == timedelta(seconds=20)
    assert (options.grace, options.timeout_grace) == (timedelta(seconds=25), timedelta(seconds=5))
    assert (options.max_attempts, options.max_crashes, options.max_payload) == (5, 3, 64 * 1024)
    assert options.poll_interval == timedelta(seconds=1)
    assert options.unknown_task_ttl == timedelta(hours=24)
    assert options.retention == {
        "succeeded": timedelta(days=7),
        "cancelled": timedelta(days=7),
        "dead": timedelta(days=90),
    }


@pytest.mark.parametrize("value", [30, 30.0, timedelta(seconds=30)])
def test_length_of_time_is_seconds_or_a_timedelta(value):
    assert Options.parse({"lease": value}).lease == timedelta(seconds=30)


def test_heartbeat_follows_the_lease_unless_it_is_given():
    assert Options.parse({"lease": 30}).heartbeat_interval == timedelta(seconds=10)
    assert Options.parse({"lease": 30, "heartbeat": 5}).heartbeat_interval == timedelta(seconds=5)


def test_retention_that_is_given_in_part_keeps_the_other_defaults():
    retention = Options.parse({"retention": {"dead": 3600}}).retention

    assert retention["dead"] == timedelta(hours=1)
    assert retention["succeeded"] == timedelta(days=7)


def test_grace_may_be_nothing_at_all():
    assert Options.parse({"grace": 0, "timeout_grace": timedelta(0)}).grace == timedelta(0)


def test_backoff_may_be_any_policy():
    policy = fixed(3)

    assert Options.parse({"backoff": policy}).backoff is policy


WRONG = [
    ({"leese": 60}, "'lease'"),
    ({"retries": 5}, "There are:"),
    ({"max_attemps": 5}, "'max_attempts'"),
    ({"lease": "60"}, "OPTIONS['lease']"),
    ({"lease": True}, "OPTIONS['lease']"),
    ({"lease": 0}, "longer than 0"),
    ({"lease": -1}, "longer than 0"),
    ({"lease": float("nan")}, "OPTIONS['lease']"),
    ({"lease": float("inf")}, "OPTIONS['lease']"),
    ({"lease": 1e300}, "OPTIONS['lease']"),
    ({"grace": False}, "OPTIONS['grace']"),
    ({"max_attempts": 0}, "at least 1"),
    ({"max_attempts": 2.0}, "whole number"),
    ({"max_crashes": True}, "whole number"),
    ({"backoff": 30}, "OPTIONS['backoff']"),
    ({"max_payload": "64k"}, "OPTIONS['max_payload']"),
    ({"retention": 7}, "OPTIONS['retention']"),
    ({"retention": {"success": 7}}, "'succeeded'"),
    ({"retention": {"dead": "90d"}}, "OPTIONS['retention']"),
    ({"lease": 30, "heartbeat": 20}, "at most half"),
    ({"heartbeat": 31}, "at most half"),
    ({1: 2}, "has no 1"),
    ([("lease", 60)], "must be a dict"),
    (None, "must be a dict"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_wrong_option_is_named_with_the_nearest_right_one(given, said):
    [problem] = problems_of(given)

    assert said in problem


def test_every_problem_is_told_at_once():
    with pytest.raises(ImproperlyConfigured, match=r"leese.*max_attempts"):
        Options.parse({"leese": 60, "max_attempts": 0})


def test_every_option_has_a_reader_and_takes_its_own_default():
    defaults = vars(Options())

    assert set(conf.READERS) == set(defaults)
    assert problems_of({name: value for name, value in defaults.items() if value is not None}) == []


def test_options_are_those_of_the_backend_that_is_ours(settings):
    settings.TASKS = {
        "other": {"BACKEND": "jobs.testing.DummyBackend"},
        "mine": {"BACKEND": conf.BACKEND, "OPTIONS": {"lease": 33}},
    }

    assert conf.options().lease == timedelta(seconds=33)


def test_changed_settings_are_read_again(settings):
    before = conf.options()
    name = "max_attempts"
    settings.TASKS = {"default": django_settings.TASKS["default"] | {"OPTIONS": {name: before.max_attempts + 1}}}

    assert conf.options().max_attempts == before.max_attempts + 1
