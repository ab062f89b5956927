"""`manage.py jobs`: what operators see of the queue and do to it from a shell."""

import json
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import OperationalError
from django.utils import timezone

from jobs.console import SUBCOMMANDS
from jobs.models import Job, Queue, Worker
from jobs.states import State
from tests.admin.rows import a_dead_letter, a_job, a_record

from .console import jobs

pytestmark = pytest.mark.django_db

GREET = "tests.commands.tasks.greet"


def a_worker():
    now = timezone.now()
    Worker.objects.create(worker_id="w", tree="t", hostname="h", pid=1, threads=1, started_at=now, last_seen_at=now)


# status


def test_status_shows_every_queue_and_the_workers():
    a_job(ready_at=timezone.now() - timedelta(hours=2))
    a_job(State.DEAD)
    Queue.objects.create(name="email", paused=True, paused_reason="smtp says 535")

    ran = jobs("status")

    assert ran.out.splitlines()[1].split() == ["default", "0", "1", "0", "0", "1", "2", "hours", "no", "-"]
    assert "smtp says 535" in ran.out
    assert "No worker is alive" in ran.out


def test_status_as_json_has_the_same_figures():
    a_job(ready_at=timezone.now() - timedelta(hours=2))
    a_worker()

    found = jobs("status", "--json").json

    [queue] = found["queues"]
    assert (queue["name"], queue["ready"], queue["paused"]) == ("default", 1, False)
    assert queue["oldest_seconds"] >= 7200
    assert found["workers"] == {"alive": 1, "stale": 0}
    assert found["expired_leases"] == 0


def test_status_of_an_empty_queue_says_so():
    assert "No queue has a job." in jobs("status").out


# list


def test_list_shows_the_newest_first():
    first, second = a_job(), a_job(State.SUCCEEDED)

    ran = jobs("list")

    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [str(second.pk), str(first.pk)]


def test_list_is_narrowed_by_state_queue_and_number():
    a_job(queue_name="other")
    a_job(State.DEAD)
    wanted = [a_job() for _ in range(3)]

    found = jobs("list", "--state", "ready", "--queue", "default", "--limit", 2, "--json").json

    assert [row["id"] for row in found] == [job.pk for job in wanted[:2]]
    assert "kwargs" not in found[0]


def test_list_of_nothing_says_so_and_is_an_empty_list_in_json():
    assert jobs("list").out == "No job matches.\n"
    assert jobs("list", "--json").json == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("list", "--state", "finished"), "finished"),
        (("list", "--limit", "0"), "--limit"),
        (("show", "abc"), "abc"),
        (("show", "9" * 30), "ID"),
        (("cancel",), "ID"),
        (("pause",), "QUEUE"),
        (("explode",), "explode"),
        (("dead",), "VERB"),
        (("dead", "replay", "--reason", "bored"), "bored"),
        (("prune", "--older-than", "soon"), "7d"),
    ],
)
def test_a_wrong_word_is_named(words, named):
    assert named in jobs(*words).error


# show


def test_show_prints_payload_attempts_and_dead_letters():
    letter = a_dead_letter()

    ran = jobs("show", letter.job_id)

    for expected in (
        "order-4711",
        "attempt 5: failed",
        "ValueError: boom",
        f"dead letter {letter.pk}: attempts_exhausted",
    ):
        assert expected in ran.out


def test_show_prints_short_times_in_seconds():
    job = a_job(timeout=timedelta(seconds=30))

    assert re.search(r"^timeout +30 s$", jobs("show", job.pk).out, re.MULTILINE)


def test_show_as_json_has_every_column():
    letter = a_dead_letter()

    found = jobs("show", letter.job_id, "--json").json

    assert {field.name for field in Job._meta.concrete_fields} <= set(found)
    assert found["attempt_set"][0]["number"] == 5
    assert found["dead_letters"][0]["id"] == letter.pk


def test_show_names_the_job_that_there_is_not():
    assert jobs("show", 404).error == "There is no job 404."


# cancel


def test_cancel_ends_a_waiting_job():
    job = a_job()

    ran = jobs("cancel", job.pk)

    job.refresh_from_db()
    assert job.state == State.CANCELLED
    assert (ran.out, ran.error) == (f"Cancelled job {job.pk}.\n", "")


def test_cancel_says_that_a_running_job_was_only_asked():
    job = a_job(State.RUNNING)

    out = jobs("cancel", job.pk).out
    assert "was asked to stop" in out
    assert "Cancelled" not in out


def test_cancel_names_what_it_skipped_and_is_no_failure_when_something_was_done():
    waiting, ended = a_job(), a_job(State.SUCCEEDED)

    ran = jobs("cancel", waiting.pk, ended.pk, "--json")

    assert ran.json == {"done": [waiting.pk], "skipped": [{"id": ended.pk, "why": "it has ended already: succeeded"}]}
    assert ran.error == ""


def test_cancel_fails_when_everything_was_skipped():
    ran = jobs("cancel", 404)

    assert ran.err == "Skipped job 404: there is no such job.\n"
    assert ran.error == "Nothing was done; skipped: 1."


# pause, resume


def test_a_queue_is_paused_with_a_reason_and_resumed():
    Queue.objects.create(name="email")

    paused = jobs("pause", "email", "--reason", "maintenance")
    was = Queue.objects.get()
    resumed = jobs("resume", "email", "--json")

    assert (was.paused, was.paused_reason) == (True, "maintenance")
    assert paused.out.startswith("Paused email")
    assert resumed.json == {"queue": "email", "paused": False}
    assert not Queue.objects.get().paused


def test_a_queue_of_the_settings_can_be_paused_before_it_has_a_row():
    jobs("pause", "email")

    assert Queue.objects.get(name="email").paused


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_misspelt_queue_is_an_error_that_names_the_nearest(verb):
    ran = jobs(verb, "emial")

    assert ran.error == "There is no queue 'emial'. Did you mean 'email'?"
    assert not Queue.objects.exists()


# prune


def test_prune_deletes_what_is_old_enough():
    old = a_job(State.SUCCEEDED, enqueued_at=timezone.now() - timedelta(days=3))
    Job.objects.filter(pk=old.pk).update(finished_at=timezone.now() - timedelta(days=3))
    kept = a_job(State.SUCCEEDED)

    ran = jobs("prune", "--older-than", "2d", "--json")

    assert ran.json["jobs"] == 1
    assert list(Job.objects.all()) == [kept]


def test_prune_without_a_time_keeps_to_the_retention():
    a_job(State.SUCCEEDED)

    assert jobs("prune").out == "Deleted 0 jobs, 0 idempotency records.\n"


# enqueue


def test_enqueue_adds_a_job_and_tells_its_number():
    ran = jobs("enqueue", GREET, "--args", '["Ada"]', "--kwargs", '{"times": 2}', "--json")

    job = Job.objects.get()
    assert (job.task_path, job.args, job.kwargs) == (GREET, ["Ada"], {"times": 2})
    assert ran.json == {"id": str(job.pk), "task_path": GREET, "queue_name": "default"}


def test_enqueue_for_people_is_one_line():
    assert jobs("enqueue", GREET, "--args", '["Ada"]').out == f"Enqueued job {Job.objects.get().pk} in queue default.\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("nowhere.to.be.found",), "nowhere.to.be.found"),
        (("tests.commands.tasks",), "tests.commands.tasks"),
        (("json.dumps",), "json.dumps"),
        ((GREET, "--args", "["), "--args"),
        ((GREET, "--args", "{}"), "array"),
        ((GREET, "--kwargs", "[]"), "object"),
        ((GREET,), "'name'"),
        ((GREET, "--args", '["Ada"]', "--kwargs", '{"tmies": 2}'), "'tmies'"),
        ((GREET, "--args", '["Ada"]', "--kwargs", '{"times": NaN}'), "times"),
    ],
)
def test_enqueue_names_what_is_wrong_and_leaves_no_row(words, named):
    ran = jobs("enqueue", *words)

    assert named in ran.error
    assert not Job.objects.exists()


# doctor


def test_doctor_is_content_when_all_is_well():
    a_worker()

    ran = jobs("doctor")

    assert ran.error == ""
    assert all(line.startswith("ok") for line in ran.out.splitlines())


def test_doctor_names_each_finding_and_fails():
    ran = jobs("doctor", "--json")

    by_name = {finding["name"]: finding for finding in ran.json}
    assert not by_name["workers"]["ok"]
    assert "runworker" in by_name["workers"]["message"]
    assert ran.error == "1 of 10 checks failed: workers."


def test_doctor_says_what_the_database_said(monkeypatch):
    class Refusing:
        def cursor(self):
            raise OperationalError("could not translate host name\n\tIs it spelt right?")

    monkeypatch.setattr("jobs.health.connections", {"default": Refusing()})

    lines = jobs("doctor").out.splitlines()

    assert lines[0].startswith("FAIL  database")
    assert [line.strip() for line in lines[1:]] == ["could not translate host name", "Is it spelt right?"]


def test_doctor_says_why_a_queue_is_paused():
    a_worker()
    a_job()
    Queue.objects.create(name="default", paused=True, paused_reason="smtp says 535")

    assert "default (smtp says 535)" in jobs("doctor").out


# all of them


@pytest.mark.parametrize("words", [("doctor",), ("dead", "list"), ("list",)])
def test_djangos_own_options_may_stand_behind_the_subcommand(words):
    a_worker()

    assert jobs(*words, "--settings", "tests.settings", "--no-color", "--traceback").error == ""


def test_an_answer_in_json_is_offered_wherever_something_is_printed():
    a_record()
    letter = a_dead_letter()
    words = {
        "status": (),
        "list": (),
        "show": (letter.job_id,),
        "cancel": (a_job().pk,),
        "pause": ("email",),
        "resume": ("email",),
        "dead": ("list",),
        "prune": (),
        "enqueue": (GREET, "--args", '["Ada"]'),
        "doctor": (),
        "schedules": (),
    }

    answers = {name: jobs(name, *words[name], "--json").out for name in SUBCOMMANDS}

    assert all(json.loads(answer) is not None for answer in answers.values())


def test_a_silent_database_is_an_error_and_not_a_traceback(monkeypatch):
    def broken(now):
        raise OperationalError("connection refused")

    monkeypatch.setattr("jobs.stats.queues", broken)

    assert jobs("status").error == "The database did not answer as expected: connection refused"


def test_the_process_ends_with_a_status_that_a_script_can_use(transactional_db):
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "jobs"]

    asked = [
        subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
        for words in (["--help"], ["show"])
    ]

    assert [ran.returncode for ran in asked] == [0, 2]
    assert all(name in asked[0].stdout for name in SUBCOMMANDS)
