"""What would go wrong at night is said at deploy."""

import pytest
from django.core.checks import run_checks
from django.db import connections

from jobs import checks, conf
from jobs.backend import JobsBackend
from jobs.compat import ROOT
from jobs.decorator import DECLARED
from jobs.timing import Declaration


def backend_settings(**options):
    return {"default": {"BACKEND": conf.BACKEND, "QUEUES": ["default", "email"], "OPTIONS": options}}


def test_project_as_it_is_has_nothing_to_complain_of():
    assert checks.check_options() == []
    assert checks.check_database() == []


def test_unknown_option_is_an_error_that_names_the_nearest_right_one(settings):
    settings.TASKS = backend_settings(max_attemps=5)

    [error] = checks.check_options()

    assert error.id == "jobs.E001"
    assert "TASKS['default']" in error.msg
    assert "'max_attempts'" in error.msg


def test_value_of_the_wrong_type_is_an_error(settings):
    settings.TASKS = backend_settings(lease="60", max_payload=None)

    assert [error.id for error in checks.check_options()] == ["jobs.E001", "jobs.E001"]


def test_a_schedule_in_the_settings_that_cannot_work_is_said_at_deploy(settings):
    settings.TASKS = backend_settings(
        schedules={
            "right": {"task": "tests.tasks.add", "every": 60, "kwargs": {"a": 1, "b": 2}},
            "gone": {"task": "tests.tasks.gone", "every": 60},
            "wrong": {"task": "tests.tasks.add", "every": 60, "kwargs": {"c": 1}},
        }
    )

    gone, wrong = checks.check_schedules()

    assert (gone.id, wrong.id) == ("jobs.W003", "jobs.W003")
    assert gone.msg == "The schedule 'gone' cannot work: There is no task tests.tasks.gone."
    assert "'wrong' cannot work: add: missing a required argument: 'a'" in wrong.msg


def test_a_schedule_in_code_that_cannot_work_is_said_at_deploy(monkeypatch):
    monkeypatch.setitem(DECLARED, "tests.tasks.add", Declaration.of("tests.tasks.add", "tests.tasks.add", 60))

    [warning] = checks.check_schedules()

    assert "'tests.tasks.add' cannot work: add: missing a required argument: 'a'" in warning.msg


def test_code_whose_schedules_cannot_be_read_is_said_at_deploy(monkeypatch):
    def broken(name):
        raise ImportError("no module named shop")

    monkeypatch.setattr("jobs.schedules.autodiscover_modules", broken)

    [warning] = checks.check_schedules()

    assert warning.id == "jobs.W003"
    assert "no module named shop" in warning.msg


def test_limits_of_a_queue_that_is_misspelt_are_said_at_deploy(settings):
    settings.TASKS = backend_settings(queues={"emial": {"max_depth": 5}, "default": {"max_depth": 5}})

    [warning] = checks.check_limits()

    assert warning.id == "jobs.W004"
    assert "'emial', which no QUEUES name. Did you mean 'email'?" in warning.msg

    settings.TASKS["default"]["QUEUES"] = []
    assert checks.check_limits() == []


@pytest.mark.django_db  # other apps' checks may ask the database what it can
def test_check_finds_wrong_options_before_anything_trips_over_them(settings):
    settings.TASKS = backend_settings(leese=30, retention={"suceeded": 5})

    errors = [error for error in run_checks() if error.id == "jobs.E001"]

    assert [error.msg for error in errors] == [
        "TASKS['default']: OPTIONS has no 'leese'. Did you mean 'lease'?",
        "TASKS['default']: OPTIONS['retention'] has no 'suceeded'. Did you mean 'succeeded'?",
    ]


def test_options_of_other_backends_are_none_of_our_business(settings):
    settings.TASKS = {"default": {"BACKEND": "somewhere.Else", "OPTIONS": {"max_attemps": 5}}}

    assert checks.check_options() == []


def test_queue_name_longer_than_its_column_is_an_error():
    backend = JobsBackend("default", {"QUEUES": ["fine", "q" * 101], "OPTIONS": {}})

    [error] = checks.backend_problems(backend)

    assert error.id == "jobs.E002"
    assert "q" * 101 in error.msg


def test_jobs_routed_to_another_database_are_a_warning(settings, monkeypatch):
    monkeypatch.setattr(checks.router, "db_for_write", lambda model: "elsewhere")
    monkeypatch.setattr(checks, "connections", {"elsewhere": type("Other", (), {"vendor": "postgresql"})})

    [warning] = checks.check_database()

    assert warning.id == "jobs.W001"
    assert "'elsewhere'" in warning.msg


def test_sqlite_without_immediate_transactions_is_a_warning(monkeypatch):
    default = connections["default"]
    monkeypatch.setattr(default, "vendor", "sqlite")
    monkeypatch.setitem(default.settings_dict, "OPTIONS", {"transaction_mode": "DEFERRED"})

    [warning] = checks.check_database()

    assert warning.id == "jobs.W002"
    assert "IMMEDIATE" in warning.hint


@pytest.mark.django_db
def test_checks_run_with_djangos_own(settings):
    settings.TASKS = backend_settings(leese=60)

    assert "jobs.E001" in {message.id for message in run_checks(tags=["jobs"])}


def test_the_frameworks_own_checks_are_registered_too():
    from django.core.checks.registry import registry

    assert any(check.__module__.startswith(ROOT) for check in registry.registered_checks)
