"""The judge of the fault harness: each way in which the promise can be broken is seen, and nothing else is."""

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from benchmarks.chaos import ledger
from benchmarks.chaos.__main__ import arguments
from benchmarks.chaos.judge import Judge, Verdict, recovery_after_kills, recovery_after_outages, runs_that_went_on
from benchmarks.chaos.ledger import EFFECT, ENDED, FED, RECORDED, STARTED, VARIABLE, Entry, Ledger, note
from benchmarks.chaos.report import table
from benchmarks.chaos.scenarios import ALL, BOTH
from benchmarks.chaos.trees import Footprint
from benchmarks.chaos.world import Kill, Record, Thaw
from jobs.models import Attempt, Job
from tests.admin.rows import a_dead_letter, a_job

pytestmark = pytest.mark.django_db


class Rows:
    """The database as the harness asks it, over the test's own connection."""

    def rows(self, sql: str, *arguments: Any) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return cursor.fetchall()


@pytest.fixture
def world(tmp_path, vendor) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE chaos_effect (n bigint NOT NULL)")
    received = Ledger(tmp_path / "ledger")
    yield SimpleNamespace(vendor=vendor, database=Rows(), ledger=received, record=Record())
    received.close()
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE chaos_effect")


def told(world, event: str, n: int, kind: str = "raw", moment: float = 0.0, pid: int = 7) -> None:
    world.ledger.entries.append(Entry(moment, event, n, kind, pid))


def job(world, n: int, kind: str = "raw", state: str = "succeeded", effects: int = 1, inside: int = 0, **fields) -> Job:
    """Enqueue a job as the feeder does, and let it have had its effects."""
    told(world, FED, n, kind)
    for _ in range(effects):
        told(world, EFFECT, n, kind)
    for _ in range(inside):
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO chaos_effect (n) VALUES (%s)", [n])
    values = {"task_path": f"benchmarks.chaos.tasks.{kind}", "kwargs": {"n": n}, "attempts": state == "succeeded"}
    return a_job(state, **values | fields)


def a_bad_run(job: Job, outcome: str) -> None:
    Attempt.objects.create(
        job=job, number=1, lease_token=1, outcome=outcome, worker_id="w", finished_at=job.enqueued_at
    )


def findings(world, **more) -> list[str]:
    verdict = Verdict(more.pop("scenario", "some"), world.vendor, 1, bites={"runs hit": 1})
    Judge(world, verdict, more.pop("may_wait", False), more.pop("loses", True)).judge()
    assert (verdict.word == "held") == (not verdict.broken)
    return verdict.broken


def test_a_run_in_which_all_is_well_holds(world):
    job(world, 1)
    job(world, 2, "transactional", effects=0, inside=1)
    job(world, 3, "charge")
    flaky = job(world, 4, "flaky", effects=2, attempts=2)
    Attempt.objects.create(
        job=flaky, number=1, lease_token=1, outcome="failed", worker_id="w", finished_at=flaky.enqueued_at
    )

    assert findings(world) == []


def test_a_job_that_is_gone_is_lost(world):
    told(world, FED, 1)

    assert findings(world) == ["a job that was enqueued is gone: raw 1"]


def test_a_job_of_which_the_feeder_was_never_told_may_be_there_or_not(world):
    told(world, "unsure", 1)
    job(world, 2)
    world.ledger.entries = [entry for entry in world.ledger.entries if entry.event != FED]

    assert findings(world) == []


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"state": "running", "leased_by": "w", "effects": 0}, "a job is stuck"),
        ({"state": "ready", "effects": 0}, "a job still waits"),
        ({"effects": 2}, "an effect happened 2 times, and only 0 runs ended badly"),
        ({"effects": 0}, "a job succeeded without its effect"),
        ({"kind": "charge", "effects": 2}, "a guarded outside effect happened 2 times"),
        ({"kind": "charge", "effects": 0}, "a guarded outside effect happened 0 times"),
        ({"kind": "mail", "effects": 2}, "an effect happened 2 times, and only 0 runs ended badly"),
        ({"kind": "transactional", "effects": 0, "inside": 2}, "an effect in the database happened 2 times"),
        ({"kind": "recorded", "effects": 0, "inside": 0}, "an effect in the database happened 0 times"),
        ({"attempts": 2}, "attempts do not add up"),
        ({"crashes": 1}, "crashes do not add up"),
        ({"kind": "loops", "effects": 0}, "a job should have died"),
        ({"kind": "leaves_open", "effects": 0, "inside": 1}, "what a task left open was committed"),
    ],
)
def test_each_way_to_break_the_promise_is_found(world, fields, finding):
    job(world, 1, **fields)

    [found] = findings(world)

    assert found.startswith(finding)


def test_a_job_that_ended_in_no_way_a_job_may_end_is_found(world):
    job(world, 1, state="cancelled", effects=0)

    assert findings(world)[0].startswith("a job ended in a way that nobody asked for")


def test_a_row_of_a_job_that_is_gone_is_found(world):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO chaos_effect (n) VALUES (9)")

    assert findings(world) == ["an effect of no job: 9"]


def test_a_run_that_no_attempt_explains_is_found_though_it_had_no_effect(world):
    hit = job(world, 1)
    a_bad_run(hit, "lost")
    for _ in range(2):
        told(world, STARTED, 1)
    assert findings(world) == []

    told(world, STARTED, 1)

    assert findings(world)[0].startswith("a job ran 3 times, and only 1 runs ended badly")


@pytest.mark.parametrize(("restarted_at", "found"), [(0.5, 0), (2.0, 1)])
def test_only_a_run_that_began_when_the_mail_was_on_record_may_not_send_it_again(world, restarted_at, found):
    hit = job(world, 1, "mail", effects=0)
    a_bad_run(hit, "lost")
    told(world, STARTED, 1, "mail", moment=0.0)
    told(world, STARTED, 1, "mail", moment=restarted_at, pid=8)
    told(world, EFFECT, 1, "mail", moment=0.8)
    told(world, RECORDED, 1, "mail", moment=1.0)
    told(world, EFFECT, 1, "mail", moment=2.5, pid=8)

    assert len(findings(world)) == found


def test_a_charge_in_doubt_where_nothing_was_cut_off_is_found(world):
    letter = a_dead_letter(reason="uncertain")
    Job.objects.filter(pk=letter.job_id).update(task_path="benchmarks.chaos.tasks.charge", kwargs={"n": 1}, attempts=0)

    assert not any("a charge is in doubt" in found for found in findings(world))
    assert any("a charge is in doubt" in found for found in findings(world, loses=False))


def test_a_run_that_was_lost_where_nothing_could_lose_it_is_found(world):
    a_bad_run(job(world, 1), "lost")

    assert findings(world) == []
    assert findings(world, loses=False)[0].startswith("a run was lost or interrupted")


def test_a_job_may_wait_only_where_the_clock_can_have_put_it(world):
    job(world, 1, state="scheduled", effects=0, run_after=timezone.now() + timedelta(hours=1))
    assert findings(world, may_wait=True) == []

    job(world, 2, state="ready", effects=0)

    assert findings(world, may_wait=True)[0].startswith("a job still waits: job")


def test_a_rate_that_does_not_come_back_is_told(world):
    for n in range(100):
        told(world, ENDED, n, moment=n / 10)
    world.record.restored.append(12.0)

    assert recovery_after_outages(world, 10.0, until=20.0) == float("inf")
    assert recovery_after_outages(world, 0.0, until=20.0) == 0.0


def test_runs_that_were_frozen_count_when_they_are_heard_of_again(world):
    world.lease_seconds = 6.0
    for n in (1, 2):
        told(world, STARTED, n, moment=1.0)
    world.record.thaws = [Thaw(2.0, 13.0, {7})]
    told(world, EFFECT, 1, moment=13.5)

    assert runs_that_went_on(world) == 1
    world.record.thaws = [Thaw(2.0, 5.0, {7})]
    assert runs_that_went_on(world) == 0


def test_the_ledger_catches_up_with_all_that_was_sent(world, monkeypatch):
    monkeypatch.setattr(ledger, "_socket", None)
    monkeypatch.setenv(VARIABLE, str(world.ledger.path))
    for n in range(500):
        note(EFFECT, n, "raw")

    world.ledger.catch_up()
    ledger._socket.close()

    assert len(world.ledger.of(EFFECT)) == 500


def test_a_death_of_the_wrong_cause_is_found(world):
    letter = a_dead_letter(reason="worker_lost")
    Job.objects.filter(pk=letter.job_id).update(task_path="benchmarks.chaos.tasks.raw", kwargs={"n": 1}, attempts=0)

    assert any("a job died that should not" in found for found in findings(world))


def test_a_bystander_that_was_charged_is_found(world):
    hit = job(world, 1, crashes=1)
    a_bad_run(hit, "lost")

    assert findings(world) == []
    assert "a bystander was charged" in findings(world, scenario="misbehaviour")[0]


def test_a_fault_that_hit_nothing_proves_nothing():
    assert Verdict("some", "sqlite", 1).word == "VACUOUS"
    assert Verdict("some", "sqlite", 1, bites={"runs hit": 0}).word == "VACUOUS"
    assert Verdict("some", "sqlite", 1, bites={"runs hit": 1}).word == "held"


def test_recovery_counts_from_the_kill_to_the_next_start_of_what_ran(world):
    told(world, STARTED, 1, moment=1.0)
    told(world, STARTED, 2, moment=1.0)
    told(world, ENDED, 2, moment=1.5)
    told(world, STARTED, 3, moment=1.0, pid=8)
    world.record.kills.append(Kill(2.0, {7}))
    told(world, STARTED, 1, moment=2.7, pid=9)

    hit, seconds = recovery_after_kills(world)

    assert hit == 1
    assert seconds == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (Footprint(15, 30, 60, 20), ""),
        (Footprint(30, 30, 60, 20), "threads"),
        (Footprint(15, 30, 120, 20), "MiB"),
        (Footprint(15, 40, 60, 20), "open files"),
        (Footprint(15, 30, 60, 60), "connections"),
        (Footprint(15, 30, 60, 20, 19), ""),
        (Footprint(15, 30, 60, 20, 20), "open files of the database"),
    ],
)
def test_what_grows_is_a_leak(later, said):
    assert said in Footprint(14, 28, 58, 18).has_grown_to(later)
    assert bool(Footprint(14, 28, 58, 18).has_grown_to(later)) == bool(said)


def test_names_of_scenarios_are_all_different_and_each_is_for_some_database():
    assert len({scenario.name for scenario in ALL}) == len(ALL)
    assert all(set(scenario.vendors) <= set(BOTH) and scenario.vendors for scenario in ALL)


def test_the_table_adds_seeds_up_and_shows_the_worst_of_them():
    seeds = [
        Verdict("kill-child", "sqlite", 1, fed=10, recovery=0.5, rates=(10, 5, 10), bites={"runs hit": 2}),
        Verdict("kill-child", "sqlite", 2, fed=11, lost=1, recovery=0.7, rates=(20, 5, 10), broken=["gone"]),
        Verdict("freeze", "sqlite", 1, fed=3, bites={"runs hit": 1}),
    ]

    head, _, first, second = table(seeds).splitlines()

    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        *("kill-child", "sqlite", "1, 2", "BROKEN", "2", "21", "0", "0", "0", "0", "0", "0", "0", "1", "0"),
        *("0.7", "-", "15, 5, 10"),
    ]
    assert len({len(line) for line in (head, first, second)}) == 1
    assert "| held " in second


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--seconds", "0"], "above 0, not 0"),
        (["--seconds", "nan"], "above 0, not nan"),
        (["--seconds", "inf"], "above 0, not inf"),
        (["--seconds", "x"], "invalid seconds value"),
        (["--json", "/dev/null/verdicts.json"], "no directory can be made for /dev/null/verdicts.json"),
        (["--json", "/"], "/ is a directory"),
        (["--logs", "/dev/null/logs"], "no directory can be made for /dev/null/logs"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_runs(given, problem, capsys):
    with pytest.raises(SystemExit) as refused:
        arguments(given)

    assert refused.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_rate_that_did_not_come_back_is_none_for_machines():
    verdict = Verdict("database-crash", "postgresql", 1)
    verdict.back = float("inf")

    assert '"back": null' in json.dumps(verdict.for_machines(), allow_nan=False)
