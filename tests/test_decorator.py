"""`@task`: Django's task with our options, on every supported version."""

import copy
import pickle
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from jobs import registry, task
from jobs.compat import ROOT, Task
from jobs.decorator import JobTask
from jobs.models import Job
from jobs.retries import exponential, fixed
from jobs.states import State
from tests import tasks


def work(a, b=0):
    """Stand for any task's function."""


def test_decorator_works_bare_and_with_options():
    bare, with_options = task(work), task(queue_name="email")(work)

    assert isinstance(bare, JobTask)
    assert isinstance(bare, Task)
    assert (bare.queue_name, with_options.queue_name) == ("default", "email")


def test_every_option_of_ours_is_kept():
    policy = exponential(base=1)

    made = task(
        max_attempts=3,
        max_crashes=2,
        backoff=policy,
        timeout=timedelta(seconds=9),
        permanent_errors=(KeyError,),
        transactional=True,
        idempotency_key="k:{a}",
        schema_version=4,
    )(work)

    assert (made.max_attempts, made.max_crashes, made.backoff, made.timeout_length) == (3, 2, policy, timedelta(0, 9))
    assert (made.permanent_errors, made.transactional) == ((KeyError,), True)
    assert (made.idempotency_key, made.schema_version, made.on_uncertain) == ("k:{a}", 4, "retry")


@pytest.mark.django_db
def test_plain_django_task_works_with_the_backends_defaults():
    from importlib import import_module

    plain = import_module(ROOT).task(queue_name="email")(tasks.add.func)

    plain.enqueue(1, b=2)

    job = Job.objects.get()
    assert (job.queue_name, job.max_attempts, job.max_crashes, job.schema_version) == ("email", 5, 3, 1)
    assert job.task_path == "tests.tasks.add"


def test_unknown_option_names_the_nearest_right_one():
    with pytest.raises(TypeError, match=r"'max_atempts'; did you mean 'max_attempts'"):
        task(max_atempts=3)(work)


def test_unknown_option_of_using_names_all_that_there_are():
    with pytest.raises(TypeError, match=r"there are .*max_attempts.*queue_name, run_after, timeout"):
        tasks.add.using(colour=1)


def test_unknown_option_of_using_names_the_nearest_right_one():
    with pytest.raises(TypeError, match=r"did you mean 'timeout'"):
        tasks.add.using(time_out=3)


@pytest.mark.parametrize("name", ["backoff", "max_crashes", "transactional", "schema_version", "permanent_errors"])
def test_option_that_belongs_to_the_task_is_none_of_one_call(name):
    with pytest.raises(TypeError, match=name):
        tasks.add.using(**{name: 1})


def test_run_after_cannot_be_fixed_at_decoration():
    with pytest.raises(TypeError, match="run_after"):
        task(run_after=timezone.now())(work)


WRONG = [
    ({"max_attempts": 0}, "max_attempts"),
    ({"max_attempts": "3"}, "max_attempts"),
    ({"max_crashes": -1}, "max_crashes"),
    ({"schema_version": 0}, "schema_version"),
    ({"backoff": 30}, "backoff"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": "30s"}, "timeout"),
    ({"timeout": True}, "timeout"),
    ({"permanent_errors": KeyError}, "permanent_errors"),
    ({"permanent_errors": [KeyError]}, "permanent_errors"),
    ({"permanent_errors": ("KeyError",)}, "permanent_errors"),
    ({"on_uncertain": "ignore"}, "on_uncertain"),
    ({"transactional": "yes"}, "transactional must be True or False"),
    ({"allow_secrets": ("tokn",)}, "allow_secrets names 'tokn'"),
    ({"allow_secrets": ("tokn['x']",)}, "allow_secrets names 'tokn'"),
    ({"idempotency_key": "{"}, "idempotency_key"),
    ({"idempotency_key": "{c}"}, "'c'"),
    ({"idempotency_key": 7}, "idempotency_key"),
    ({"schema_version": 2, "upgrades": [dict]}, "upgrades takes a dict of callables"),
    ({"schema_version": 2, "upgrades": {1: "dict"}}, "upgrades takes a dict of callables"),
    ({"upgrades": {1: dict}}, "upgrades must lead to schema_version 1"),
    ({"schema_version": 4, "upgrades": {1: dict, 3: dict}}, "step by step, not from 1, 3"),
    ({"schema_version": 2, "upgrades": {"1": dict}}, "step by step, not from '1'"),
    ({"schema_version": 1, "upgrades": {0: dict}}, "upgrades must lead"),
]


@pytest.mark.parametrize(("options", "named"), WRONG)
def test_value_that_cannot_work_is_refused_where_it_was_written(options, named):
    with pytest.raises(ImproperlyConfigured, match=named) as refused:
        task(**options)(work)

    assert "tests.test_decorator.work" in str(refused.value)


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"timeout": -1}, {"idempotency_key": "{c}"}])
def test_value_that_cannot_work_is_refused_for_one_call_too(options):
    with pytest.raises(ImproperlyConfigured):
        tasks.add.using(**options)


def test_function_that_is_not_at_the_top_of_its_module_is_refused():
    def inner():
        pass

    with pytest.raises(Exception, match="module level"):
        task(inner)


# using()


def test_using_makes_a_copy_and_leaves_the_task_as_it_is():
    changed = tasks.add.using(priority=7, queue_name="email", max_attempts=2, timeout=3, idempotency_key="{a}")

    assert (changed.priority, changed.queue_name, changed.max_attempts) == (7, "email", 2)
    assert (changed.timeout, changed.idempotency_key) == (3, "{a}")
    assert (tasks.add.priority, tasks.add.queue_name, tasks.add.max_attempts) == (0, "default", None)


def test_using_adds_to_what_an_earlier_using_said():
    changed = tasks.add.using(priority=7).using(queue_name="email")

    assert (changed.priority, changed.queue_name) == (7, "email")


@pytest.mark.django_db
def test_run_after_as_a_timedelta_counts_from_the_moment_of_enqueue():
    later = tasks.add.using(run_after=timedelta(hours=1))

    later.enqueue(1)

    job = Job.objects.get()
    assert (job.state, job.run_after - job.enqueued_at) == (State.SCHEDULED, timedelta(hours=1))


@pytest.mark.django_db
def test_the_later_run_after_replaces_the_earlier_one():
    moment = timezone.now() + timedelta(days=3)

    tasks.add.using(run_after=timedelta(hours=1)).using(run_after=moment).enqueue(1)
    tasks.add.using(run_after=moment).using(run_after=timedelta(hours=1)).enqueue(1)

    first, second = Job.objects.order_by("pk")
    assert first.run_after == moment
    assert second.run_after == second.enqueued_at + timedelta(hours=1)


@pytest.mark.django_db
def test_run_after_of_nothing_is_now():
    tasks.add.using(run_after=timedelta(0)).enqueue(1)

    assert Job.objects.get().state == State.READY


@pytest.mark.parametrize("moment", [5, "tomorrow", True])
def test_run_after_that_is_no_moment_is_refused_by_name(moment):
    with pytest.raises(TypeError, match="run_after takes a datetime or a timedelta"):
        tasks.add.using(run_after=moment)


def test_negative_run_after_is_refused():
    with pytest.raises(ImproperlyConfigured, match="run_after must be longer than 0"):
        tasks.add.using(run_after=timedelta(seconds=-1))


@pytest.mark.django_db
def test_options_of_one_call_reach_the_row():
    tasks.add.using(max_attempts=2, timeout=7, idempotency_key="{a}", priority=-3).enqueue(5)

    job = Job.objects.get()
    assert (job.max_attempts, job.timeout, job.idempotency_key, job.priority) == (2, timedelta(seconds=7), "5", -3)


# A task travels


def test_task_pickles_to_the_modules_own():
    assert pickle.loads(pickle.dumps(tasks.detailed)) == tasks.detailed


def test_options_of_one_call_survive_pickling_and_copying():
    changed = tasks.add.using(priority=7, run_after=timedelta(hours=1))

    for twin in (pickle.loads(pickle.dumps(changed)), copy.copy(changed), copy.deepcopy(changed)):
        assert (twin.priority, twin.delay, twin.func) == (7, timedelta(hours=1), tasks.add.func)


def test_task_is_still_the_function_it_was_made_of():
    assert tasks.add.call(1, b=2) == 3


# Which task a path means


def test_registry_finds_a_task_by_its_path():
    assert registry.find("tests.tasks.add") is tasks.add


@pytest.mark.parametrize("path", ["tests.tasks.gone", "gone.add", "tests.tasks.not_a_task", "tests.tasks", "", "a b"])
def test_path_that_is_no_task_is_unknown(path):
    registry.forget()

    assert registry.find(path) is None


def test_unknown_path_is_imported_once_a_minute_only(monkeypatch):
    registry.forget()
    looked = []
    monkeypatch.setattr(registry.pkgutil, "resolve_name", lambda path: looked.append(path) or work)
    now = [1000.0]
    monkeypatch.setattr(registry.time, "monotonic", lambda: now[0])

    for now[0] in (1000.0, 1059.0, 1061.0):
        registry.find("tests.gone.gone")

    registry.forget()
    assert looked == ["tests.gone.gone"] * 2


def test_module_that_breaks_at_import_is_an_unknown_task(monkeypatch):
    def broken(path):
        raise SyntaxError("half a deploy")

    registry.forget()
    monkeypatch.setattr(registry.pkgutil, "resolve_name", broken)

    assert registry.find("tests.tasks.add") is None
    registry.forget()


def test_fixed_policy_of_a_task_is_used_as_given():
    assert tasks.fail.backoff == fixed(0)
