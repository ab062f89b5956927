"""What may happen to a job besides its own run."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F, QuerySet

from jobs import lifecycle
from jobs.backend import JobsBackend
from jobs.conf import Options
from jobs.leases import Remains
from jobs.models import Attempt, DeadLetter, IdempotencyRecord, Job, Queue
from jobs.signals import job_replayed
from jobs.states import Reason, RecordState, State
from jobs.storage import storage
from jobs.testing import run_jobs
from tests import tasks
from tests.admin.rows import a_dead_letter, a_job, a_record, an_uncertain_letter

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)


def job_of(letter: DeadLetter) -> Job:
    return Job.objects.get(pk=letter.job_id)


def a_death(**payload) -> DeadLetter:
    """A letter of a job that has really died."""
    tasks.fail.enqueue(**payload)
    run_jobs(advance=True)
    return DeadLetter.objects.latest()


def claim(limit: int = 10, worker: str = "w1"):
    leases = storage().claim(worker, "default", limit, LEASE)
    return leases + storage().claim(worker, "default", limit, LEASE, suspects=True)


def let_leases_expire() -> None:
    Job.objects.running().update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))


# Replay


def test_replay_makes_a_dead_job_ready_and_keeps_id_history_and_idempotency_key():
    letter = a_dead_letter()
    Job.objects.update(idempotency_key="order:7", lease_token=5)

    report = lifecycle.replay([letter], by="ada")

    job = job_of(letter)
    assert (report.done, report.skipped) == ([letter.pk], [])
    assert (job.state, job.finished_at, job.idempotency_key, job.attempts) == (State.READY, None, "order:7", 5)
    assert job.ready_at > job.enqueued_at
    assert Attempt.objects.filter(job=job).count() == 1
    letter.refresh_from_db()
    assert letter.replayed_at is not None
    assert letter.replayed_by == "ada"


def test_replay_never_resets_the_token():
    letter = a_dead_letter()
    Job.objects.update(lease_token=41)

    lifecycle.replay([letter], by="ada")

    [lease] = claim()
    assert lease.token == 42


def test_replayed_job_has_all_of_its_attempts_again():
    letter = a_death()
    tasks.done.clear()

    lifecycle.replay([letter], by="ada")
    run_jobs(advance=True)

    assert len(tasks.done) == 3
    job = job_of(letter)
    assert (job.state, job.attempts, job.dead_letters.count()) == (State.DEAD, 6, 2)


def test_replayed_job_has_its_crash_budget_again():
    letter = a_dead_letter(Reason.WORKER_LOST)
    Job.objects.update(crashes=3)

    lifecycle.replay([letter], by="ada")

    assert job_of(letter).crashes == 0


def test_replay_forgets_an_old_request_to_cancel():
    letter = a_dead_letter()
    Job.objects.update(cancel_requested=True)

    lifecycle.replay([letter], by="ada")

    assert job_of(letter).cancel_requested is False


def test_only_the_latest_dead_letter_of_a_job_can_be_replayed():
    first = a_death()
    lifecycle.replay([first], by="ada")
    run_jobs(advance=True)
    latest = DeadLetter.objects.latest()

    report = lifecycle.replay([first], by="ada")

    assert report.done == []
    assert str(latest.pk) in report.skipped[0][1]
    assert job_of(first).state == State.DEAD
    assert lifecycle.replay([latest], by="ada").done == [latest.pk]


def test_a_letter_is_replayed_only_once():
    letter = a_dead_letter()
    lifecycle.replay([letter], by="ada")

    report = lifecycle.replay([letter], by="bob")

    assert "no longer dead" in report.skipped[0][1]
    letter.refresh_from_db()
    assert letter.replayed_by == "ada"


def test_letter_whose_job_is_gone_is_skipped():
    letter = a_dead_letter()
    gone = DeadLetter(pk=letter.pk, job_id=letter.job_id, reason=letter.reason)
    storage().delete_jobs([letter.job_id])

    assert "no longer exists" in lifecycle.replay([gone], by="ada").skipped[0][1]


def test_taken_dedupe_key_leaves_the_dead_job_where_it_is_and_names_the_holder():
    letter = a_dead_letter()
    Job.objects.filter(pk=letter.job_id).update(dedupe_key="welcome:42")
    holder = a_job(dedupe_key="welcome:42", dedupe_lock="welcome:42")

    report = lifecycle.replay([letter], by="ada")

    [(skipped, why)] = report.skipped
    assert skipped == letter.pk
    assert f"held by job {holder.pk}" in why
    letter.refresh_from_db()
    assert (job_of(letter).state, letter.replayed_at) == (State.DEAD, None)


def test_replay_takes_its_dedupe_key_again_when_it_is_free():
    letter = a_dead_letter()
    Job.objects.update(dedupe_key="welcome:42")

    lifecycle.replay([letter], by="ada")

    assert job_of(letter).dedupe_lock == "welcome:42"


def test_one_skipped_letter_does_not_stop_the_others():
    first, taken, last = a_dead_letter(), a_dead_letter(), a_dead_letter()
    Job.objects.filter(pk=taken.job_id).update(dedupe_key="k")
    a_job(dedupe_key="k", dedupe_lock="k")

    report = lifecycle.replay(DeadLetter.objects.order_by("pk"), by="ada")

    assert report.done == [first.pk, last.pk]
    assert [pk for pk, _ in report.skipped] == [taken.pk]


def test_replay_walks_more_letters_than_one_batch(monkeypatch):
    monkeypatch.setattr(lifecycle, "BATCH", 2)
    letters = [a_dead_letter() for _ in range(5)]

    report = lifecycle.replay(DeadLetter.objects.all(), by="ada")

    assert report.done == [letter.pk for letter in letters]


def test_replay_is_announced_by_the_backends_class():
    letter, heard = a_dead_letter(), []

    def receiver(sender, **sent):
        heard.append((sender, sent["job_id"], sent["task_path"], sent["queue_name"], sent["by"]))

    job_replayed.connect(receiver)
    try:
        lifecycle.replay([letter], by="ada")
    finally:
        job_replayed.disconnect(receiver)

    assert heard == [(JobsBackend, letter.job_id, "shop.tasks.charge", "default", "ada")]


@pytest.mark.django_db(transaction=True)
def test_racing_replays_of_one_letter_make_the_job_ready_once():
    letter = a_dead_letter()
    done: list[int] = []
    skipped: list[str] = []
    errors: list[BaseException] = []
    start = threading.Barrier(5)

    def act():
        try:
            start.wait()
            report = lifecycle.replay([letter], by="ada")
            done.extend(report.done)
            skipped.extend(why for _, why in report.skipped)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=act) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert (errors, done, len(skipped)) == ([], [letter.pk], 4)
    assert job_of(letter).state == State.READY


# Replay of an uncertain death


def test_uncertain_letter_is_not_replayed_without_an_answer():
    letter = an_uncertain_letter()

    report = lifecycle.replay([letter], by="ada")

    assert "uncertain" in report.skipped[0][1]
    assert (job_of(letter).state, IdempotencyRecord.objects.get().state) == (State.DEAD, RecordState.PROCESSING)


def test_it_happened_marks_the_record_done_and_the_job_succeeds_without_running():
    letter = an_uncertain_letter()

    lifecycle.replay([letter], by="ada", happened=True)

    job, record = job_of(letter), IdempotencyRecord.objects.get()
    assert (job.state, job.finished_at is not None, job.attempts) == (State.SUCCEEDED, True, 5)
    assert (record.state, record.owner) == (RecordState.DONE, "")
    assert claim() == []


def test_it_did_not_happen_removes_the_record_and_the_job_is_ready():
    letter = an_uncertain_letter()

    lifecycle.replay([letter], by="ada", happened=False)

    assert job_of(letter).state == State.READY
    assert not IdempotencyRecord.objects.exists()


def test_it_did_not_happen_is_refused_when_the_record_knows_better():
    letter = an_uncertain_letter()
    IdempotencyRecord.objects.update(state=RecordState.DONE)

    report = lifecycle.replay([letter], by="ada", happened=False)

    assert "says the effect happened" in report.skipped[0][1]
    assert (job_of(letter).state, IdempotencyRecord.objects.count()) == (State.DEAD, 1)


def test_answer_is_taken_back_when_the_job_cannot_be_replayed():
    letter = an_uncertain_letter()
    Job.objects.update(dedupe_key="k")
    a_job(dedupe_key="k", dedupe_lock="k")

    lifecycle.replay([letter], by="ada", happened=False)

    assert IdempotencyRecord.objects.get().state == RecordState.PROCESSING


@pytest.mark.parametrize("happened", [True, False])
def test_answer_to_a_death_that_is_not_uncertain_is_refused(happened):
    letter = a_dead_letter()

    report = lifecycle.replay([letter], by="ada", happened=happened)

    assert "not uncertain" in report.skipped[0][1]
    assert job_of(letter).state == State.DEAD


# Delete


def test_delete_takes_the_dead_job_and_its_attempts_and_keeps_the_record():
    letter = a_dead_letter()
    a_record(job=letter.job)

    report = lifecycle.delete([letter], by="ada")

    assert report.done == [letter.pk]
    assert (Job.objects.count(), Attempt.objects.count(), DeadLetter.objects.count()) == (0, 0, 0)
    assert IdempotencyRecord.objects.get().job_id is None


def test_deleting_a_replayed_letter_leaves_its_living_job():
    letter = a_dead_letter()
    lifecycle.replay([letter], by="ada")

    report = lifecycle.delete([letter], by="ada")

    assert report.done == [letter.pk]
    assert (Job.objects.get().state, DeadLetter.objects.count()) == (State.READY, 0)


def test_letter_deleted_twice_is_skipped():
    letter = a_dead_letter()
    copy = DeadLetter.objects.get()
    lifecycle.delete([letter], by="ada")

    assert lifecycle.delete([copy], by="ada").skipped[0][0] == copy.pk


# Cancel


def test_a_job_that_is_given_back_between_two_looks_is_cancelled_all_the_same(monkeypatch):
    job = a_job("running")
    update = QuerySet.update

    def given_back_meanwhile(rows, **changes):
        found = update(rows, **changes)
        if changes.get("state") == State.CANCELLED and not found:
            update(
                Job.objects.filter(pk=job.pk),
                state=State.READY,
                ready_at=F("enqueued_at"),
                leased_by="",
                lease_expires_at=None,
            )
        return found

    monkeypatch.setattr(QuerySet, "update", given_back_meanwhile)

    assert lifecycle.cancel([job.pk]).done == [job.pk]
    job.refresh_from_db()
    assert job.state == State.CANCELLED


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED])
def test_waiting_job_is_cancelled_at_once_and_frees_its_dedupe_lock(state):
    job = a_job(state, dedupe_key="k", dedupe_lock="k")

    report = lifecycle.cancel([job.pk])

    job.refresh_from_db()
    assert (report.done, job.state, job.dedupe_lock) == ([job.pk], State.CANCELLED, None)
    assert job.finished_at is not None
    assert not DeadLetter.objects.exists()


def test_running_job_is_asked_to_stop_and_keeps_running():
    job = a_job(State.RUNNING)

    lifecycle.cancel([job.pk])

    job.refresh_from_db()
    assert (job.state, job.cancel_requested, job.leased_by) == (State.RUNNING, True, "w1")


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.DEAD, State.CANCELLED])
def test_job_that_has_ended_is_not_cancelled(state):
    job = a_job(state)

    report = lifecycle.cancel([job.pk, 987654])

    assert report.done == []
    assert report.skipped == [(job.pk, f"it has ended already: {state}"), (987654, "there is no such job")]


# Pause


def test_paused_queue_hands_out_nothing_until_it_is_resumed():
    tasks.add.enqueue(1)

    lifecycle.pause("default", reason="smtp says 535")
    assert run_jobs() == 0
    queue = Queue.objects.get()
    assert (queue.paused, queue.paused_reason, queue.paused_at is not None) == (True, "smtp says 535", True)

    lifecycle.resume("default")
    assert run_jobs() == 1
    queue.refresh_from_db()
    assert (queue.paused, queue.paused_reason, queue.paused_at) == (False, "", None)


def test_running_job_of_a_paused_queue_goes_on():
    tasks.add.enqueue(1)
    claim()

    lifecycle.pause("default")

    assert Job.objects.get().state == State.RUNNING
    assert len(storage().renew("w1", LEASE)) == 1


# Reap


def test_expired_lease_makes_the_job_ready_again():
    tasks.add.enqueue(1)
    claim()
    let_leases_expire()

    [settlement] = lifecycle.reap()

    job = Job.objects.get()
    assert (job.state, job.leased_by, job.lease_token) == (State.READY, "", 1)
    assert settlement.lease.id == job.pk
    assert Attempt.objects.get().outcome == "lost"


def test_lease_that_has_not_expired_is_not_reaped():
    tasks.add.enqueue(1)
    claim()

    assert lifecycle.reap() == []
    assert Job.objects.get().state == State.RUNNING


def test_reaper_charges_nobody_and_makes_each_job_a_suspect():
    for _ in range(3):
        tasks.add.enqueue(1)
    claim()
    let_leases_expire()

    lifecycle.reap()

    assert set(Job.objects.values_list("crashes", "attempts", "suspect")) == {(0, 0, True)}


def test_reaper_charges_a_suspect_because_it_ran_alone():
    tasks.add.enqueue(1)
    Job.objects.update(suspect=True)
    claim()
    let_leases_expire()

    lifecycle.reap()

    job = Job.objects.get()
    assert (job.crashes, job.attempts, job.suspect) == (1, 0, True)


def test_job_that_keeps_killing_its_worker_becomes_a_dead_letter():
    tasks.add.enqueue(1)
    for _ in range(4):
        claim()
        let_leases_expire()
        lifecycle.reap()

    job = Job.objects.get()
    assert (job.state, job.crashes, job.attempts) == (State.DEAD, 3, 0)
    assert DeadLetter.objects.get().reason == Reason.WORKER_LOST
    assert Attempt.objects.filter(outcome="lost").count() == 4


def test_reaper_works_in_bounded_batches():
    for _ in range(3):
        tasks.add.enqueue(1)
    claim()
    let_leases_expire()

    assert [len(lifecycle.reap(limit=2)), len(lifecycle.reap(limit=2))] == [2, 1]


# Taken back from a process that is known to be dead


def two_running_and_one_waiting():
    for _ in range(3):
        tasks.add.enqueue(1)
    leases = claim()
    return leases, running(*leases[:2])


def running(*leases) -> Remains:
    return Remains({lease.id: lease.token for lease in leases})


def outcomes() -> list[tuple]:
    rows = Job.objects.order_by("pk").values_list("state", "crashes", "attempts", "suspect")
    return [tuple(row) for row in rows]


def test_loss_with_one_job_running_is_charged_to_it_and_the_rest_is_released():
    leases, _ = two_running_and_one_waiting()

    lifecycle.take_back_lost("w1", running(leases[0]))

    assert outcomes() == [("ready", 1, 0, True), ("ready", 0, 0, False), ("ready", 0, 0, False)]


def test_loss_with_several_running_charges_nobody_and_suspects_each():
    _, started = two_running_and_one_waiting()

    lifecycle.take_back_lost("w1", started)

    assert outcomes() == [("ready", 0, 0, True), ("ready", 0, 0, True), ("ready", 0, 0, False)]


def test_an_older_lease_in_the_slots_does_not_charge_the_newer_one():
    leases, _ = two_running_and_one_waiting()

    lifecycle.take_back_lost("w1", Remains({leases[0].id: leases[0].token - 1}))

    assert outcomes() == [("ready", 0, 0, False)] * 3


def test_process_stopped_by_its_supervisor_charges_nobody():
    _, started = two_running_and_one_waiting()

    lifecycle.take_back_stopped("w1", started, "the grace period was over")

    assert outcomes() == [("ready", 0, 0, False)] * 3
    assert set(Attempt.objects.values_list("outcome", "message")) == {("interrupted", "the grace period was over")}
    assert Attempt.objects.count() == 2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_run_that_ended_with_no_outcome_written_leaves_an_attempt_and_is_charged_to_nobody(number):
    leases, _ = two_running_and_one_waiting()
    remains = Remains({leases[0].id: leases[0].token}, {leases[1].key, (leases[2].id, leases[2].token - 1)})
    acts = [
        lambda: lifecycle.take_back_lost("w1", remains),
        lambda: lifecycle.take_back_stopped("w1", remains, "stopped"),
        lambda: lifecycle.take_back_stuck("w1", remains, {leases[0].id}, Options()),
    ]

    acts[number]()

    assert outcomes()[1:] == [("ready", 0, 0, False)] * 2
    ended = Attempt.objects.get(job=leases[1].id)
    assert (ended.outcome, "before its outcome was written" in ended.message) == ("interrupted", True)
    assert not Attempt.objects.filter(job=leases[2].id).exists()


def test_stuck_job_alone_pays_with_a_timed_out_attempt():
    leases, started = two_running_and_one_waiting()

    lifecycle.take_back_stuck("w1", started, {leases[0].id}, Options())

    assert outcomes() == [("scheduled", 0, 1, False), ("ready", 0, 0, False), ("ready", 0, 0, False)]
    kinds = dict(Attempt.objects.values_list("job", "outcome"))
    assert kinds == {leases[0].id: "failed", leases[1].id: "interrupted"}


def test_last_attempt_that_is_stuck_is_dead_by_timeout():
    tasks.add.using(max_attempts=1).enqueue(1)
    [lease] = claim()

    lifecycle.take_back_stuck("w1", running(lease), {lease.id}, Options())

    assert DeadLetter.objects.get().reason == Reason.TIMEOUT


def test_jobs_of_other_workers_are_not_taken_back():
    tasks.add.enqueue(1)
    claim(worker="w2")

    assert lifecycle.take_back_lost("w1", Remains()) == []
    assert Job.objects.get().leased_by == "w2"


def test_everything_is_taken_back_in_bounded_batches(monkeypatch):
    monkeypatch.setattr(lifecycle, "BATCH", 2)
    for _ in range(5):
        tasks.add.enqueue(1)
    claim()

    assert len(lifecycle.take_back_stopped("w1", Remains(), "stopped")) == 5
    assert Job.objects.ready().count() == 5


def test_worker_that_was_only_silent_cannot_settle_what_was_taken_back():
    tasks.add.enqueue(1)
    [lease] = claim()
    lifecycle.take_back_lost("w1", running(lease))

    assert not storage().is_held(lease.id, lease.token)
    assert not storage().was_settled(lease.id, lease.token)


# Prune


def aged(state: State, days: int) -> Job:
    job = a_job(state)
    past = {name: F(name) - timedelta(days=days) for name in ("finished_at", "enqueued_at")}
    Job.objects.filter(pk=job.pk).update(**past)
    return job


def test_prune_keeps_each_state_for_its_own_retention():
    aged(State.SUCCEEDED, 8)
    aged(State.CANCELLED, 8)
    aged(State.DEAD, 91)
    kept = {aged(State.SUCCEEDED, 6).pk, aged(State.CANCELLED, 6).pk, aged(State.DEAD, 89).pk, a_job().pk}
    a_record(expires_at=storage().now() - LEASE)

    pruned = lifecycle.prune()

    assert pruned == {"jobs": 3, "idempotency_records": 1}
    assert set(Job.objects.values_list("pk", flat=True)) == kept


def test_prune_of_a_shorter_time_leaves_dead_jobs_their_retention():
    aged(State.SUCCEEDED, 2)
    dead = aged(State.DEAD, 2)

    assert lifecycle.prune(older_than=timedelta(days=1))["jobs"] == 1
    assert Job.objects.get() == dead


def test_prune_in_small_batches_deletes_everything_that_is_old():
    for _ in range(5):
        aged(State.SUCCEEDED, 8)

    assert lifecycle.prune(batch=2)["jobs"] == 5


# Wake-up


@pytest.mark.django_db(transaction=True)
def test_rolled_back_operation_wakes_nobody(monkeypatch):
    woken: list[str] = []
    monkeypatch.setattr("jobs.wake.send", woken.append)
    letter = a_dead_letter()

    with transaction.atomic():
        lifecycle.replay([letter], by="ada")
        assert woken == []
        transaction.set_rollback(True)
    assert woken == []

    lifecycle.replay([letter], by="ada")
    assert woken == ["default"]
