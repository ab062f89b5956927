"""`manage.py jobs dead`: the dead-letter queue from a shell."""

import pytest

from jobs.models import DeadLetter, IdempotencyRecord, Job
from jobs.states import Reason, RecordState, State
from tests.admin.rows import a_dead_letter, a_job, an_uncertain_letter

from .console import jobs

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def other_numbers():
    """Make the numbers of jobs and of their dead letters differ."""
    a_job(State.SUCCEEDED)


def states(*letters):
    return [Job.objects.get(pk=letter.job_id).state for letter in letters]


def test_list_shows_what_waits_newest_first():
    first, second = a_dead_letter(), a_dead_letter()
    a_dead_letter(replayed_at=first.died_at)

    ran = jobs("dead", "list")

    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [str(second.pk), str(first.pk)]
    assert "boom" in ran.out
    assert "second line" not in ran.out


def test_list_is_narrowed_by_task_reason_and_replayed():
    wanted = a_dead_letter(Reason.TIMEOUT)
    a_dead_letter()
    a_dead_letter(Reason.TIMEOUT, task="mail.send")
    replayed = a_dead_letter(replayed_at=wanted.died_at)

    narrowed = jobs("dead", "list", "--task", "shop.tasks.charge", "--reason", "timeout", "--json").json
    history = jobs("dead", "list", "--replayed", "--json").json

    assert [row["id"] for row in narrowed] == [wanted.pk]
    assert [row["id"] for row in history] == [replayed.pk]


def test_show_prints_message_payload_and_traceback():
    letter = a_dead_letter()

    ran = jobs("dead", "show", letter.pk)

    for expected in ("second line", "order-4711", 'File "charge.py", line 7', "attempts_exhausted"):
        assert expected in ran.out


def test_show_as_json():
    letter = a_dead_letter()

    found = jobs("dead", "show", letter.pk, "--json").json

    assert (found["id"], found["job_id"], found["kwargs"]) == (letter.pk, letter.job_id, {"order": "order-4711"})
    assert "charge.py" in found["traceback"]


def test_a_secret_that_was_let_through_is_not_shown():
    letter = a_dead_letter()
    Job.objects.filter(pk=letter.job_id).update(kwargs={"password": "hunter2", "n": 7})

    for ran in (jobs("dead", "show", letter.pk), jobs("show", letter.job_id), jobs("show", letter.job_id, "--json")):
        assert "[redacted]" in ran.out
        assert "hunter2" not in ran.out


def test_show_tells_a_dead_letters_number_from_a_jobs():
    error = jobs("dead", "show", 404).error

    assert error.startswith("There is no dead letter 404.")
    assert "jobs have other numbers" in error


def test_replay_takes_the_numbers_of_dead_letters():
    letter, other = a_dead_letter(), a_dead_letter()

    ran = jobs("dead", "replay", letter.pk)

    assert states(letter, other) == [State.READY, State.DEAD]
    assert ran.out == f"Replayed dead letter {letter.pk}.\n"
    assert "command line" in DeadLetter.objects.get(pk=letter.pk).replayed_by


def test_replay_of_all_leaves_uncertain_ones_and_names_them():
    plain, uncertain = a_dead_letter(), an_uncertain_letter()

    ran = jobs("dead", "replay", "--all", "--json")

    assert states(plain, uncertain) == [State.READY, State.DEAD]
    assert ran.json["done"] == [plain.pk]
    [skipped] = ran.json["skipped"]
    assert skipped["id"] == uncertain.pk
    assert "uncertain" in skipped["why"]


def test_replay_of_all_is_narrowed_by_task_and_reason(monkeypatch):
    monkeypatch.setattr("jobs.stats.CHUNK", 2)
    wanted = [a_dead_letter(Reason.TIMEOUT) for _ in range(5)]
    others = [a_dead_letter(), a_dead_letter(Reason.TIMEOUT, task="mail.send")]

    jobs("dead", "replay", "--all", "--task", "shop.tasks.charge", "--reason", "timeout")

    assert set(states(*wanted)) == {State.READY}
    assert set(states(*others)) == {State.DEAD}


def test_many_numbers_are_not_all_printed():
    for _ in range(23):
        a_dead_letter()

    assert jobs("dead", "replay", "--all").out.endswith(" and 3 more.\n")


def test_it_happened_ends_the_job_without_a_run():
    letter = an_uncertain_letter()

    jobs("dead", "replay", letter.pk, "--happened")

    assert states(letter) == [State.SUCCEEDED]
    assert IdempotencyRecord.objects.get().state == RecordState.DONE


def test_it_did_not_happen_lets_the_job_run_again():
    letter = an_uncertain_letter()

    jobs("dead", "replay", letter.pk, "--not-happened")

    assert states(letter) == [State.READY]
    assert not IdempotencyRecord.objects.exists()


def test_an_uncertain_letter_without_an_answer_is_skipped_and_that_is_a_failure():
    letter = an_uncertain_letter()

    ran = jobs("dead", "replay", letter.pk)

    assert states(letter) == [State.DEAD]
    assert f"Skipped dead letter {letter.pk}" in ran.err
    assert ran.error == "Nothing was done; skipped: 1."


def test_delete_takes_the_dead_job_with_it():
    letter, other = a_dead_letter(), a_dead_letter()

    ran = jobs("dead", "delete", letter.pk)

    assert list(DeadLetter.objects.all()) == [other]
    assert not Job.objects.filter(pk=letter.job_id).exists()
    assert ran.out == f"Deleted dead letter {letter.pk}.\n"


def test_delete_of_all_is_narrowed_by_reason():
    wanted, other = a_dead_letter(Reason.EXPIRED), a_dead_letter()

    jobs("dead", "delete", "--all", "--reason", "expired")

    assert list(DeadLetter.objects.all()) == [other]
    assert not Job.objects.filter(pk=wanted.job_id).exists()


@pytest.mark.parametrize("verb", ["replay", "delete"])
def test_a_number_that_there_is_not_is_skipped_by_name(verb):
    letter = a_dead_letter()

    ran = jobs("dead", verb, letter.pk, 404, "--json")

    assert ran.json == {"done": [letter.pk], "skipped": [{"id": 404, "why": "there is no such dead letter"}]}


@pytest.mark.parametrize("verb", ["replay", "delete"])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--all"),
        (("1", "--all"), "one of the two"),
        (("1", "--task", "t"), "narrow --all"),
        (("--reason", "timeout"), "--all"),
    ],
)
def test_what_is_meant_must_be_said(verb, words, named):
    letter = a_dead_letter()

    ran = jobs("dead", verb, *words)

    assert named in ran.error
    assert states(letter) == [State.DEAD]


def test_an_answer_is_never_given_for_all():
    letter = an_uncertain_letter()

    ran = jobs("dead", "replay", "--all", "--happened")

    assert "never for --all" in ran.error
    assert states(letter) == [State.DEAD]


def test_both_answers_at_once_are_none():
    letter = an_uncertain_letter()

    ran = jobs("dead", "replay", letter.pk, "--happened", "--not-happened")

    assert "not allowed with" in ran.error
    assert states(letter) == [State.DEAD]


def test_nothing_that_matches_is_no_failure():
    ran, as_json = jobs("dead", "replay", "--all"), jobs("dead", "replay", "--all", "--json").json

    assert (ran.out, ran.error) == ("No dead letter matches.\n", "")
    assert as_json == {"done": [], "skipped": []}
