"""Dead letters in the admin: replay, delete, and answers for the uncertain ones."""

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.urls import reverse

from jobs.models import Attempt, DeadLetter, IdempotencyRecord, Job
from jobs.states import Reason, RecordState, State

from .asking import answer_yes, choose, run, said
from .rows import a_dead_letter, a_job, a_record, an_uncertain_letter

LIST = "/admin/jobs/deadletter/"

pytestmark = pytest.mark.django_db


def states(*letters):
    return [Job.objects.get(pk=letter.job_id).state for letter in letters]


def history():
    return sorted(LogEntry.objects.values_list("object_id", "action_flag", "change_message"))


def page(letter, part=""):
    return reverse(f"admin:jobs_deadletter_{part or 'change'}", args=[letter.pk])


def test_one_letter_is_replayed_from_its_page(admin_client):
    letter = a_dead_letter()

    response = admin_client.post(page(letter, "replay"), {"confirmed": "yes"})

    letter.refresh_from_db()
    assert states(letter) == [State.READY]
    assert (letter.replayed_at is not None, letter.replayed_by) == (True, "admin")
    assert response.url == page(letter)
    assert said(response) == ["Replayed 1 dead letter."]


def test_several_letters_are_replayed_from_the_list(admin_client):
    first, second, other = a_dead_letter(), a_dead_letter(), a_dead_letter()

    response = run(admin_client, LIST, "replay", first.pk, second.pk)

    assert states(first, second, other) == [State.READY, State.READY, State.DEAD]
    assert said(response) == ["Replayed 2 dead letters."]


def test_each_replayed_letter_has_its_own_entry_in_the_history(admin_client, admin_user):
    first, second = a_dead_letter(), a_dead_letter()

    run(admin_client, LIST, "replay", first.pk, second.pk)

    assert history() == [(str(letter.pk), CHANGE, "Replay.") for letter in (first, second)]
    assert LogEntry.objects.filter(user=admin_user).count() == 2
    assert "Replay." in admin_client.get(f"{LIST}{first.pk}/history/").content.decode()


def test_all_that_match_a_filter_are_replayed_beyond_the_page(admin_client, monkeypatch):
    monkeypatch.setattr("jobs.admin.listing.BoundedAdmin.list_per_page", 2)
    monkeypatch.setattr("jobs.stats.CHUNK", 2)
    matching = [a_dead_letter() for _ in range(7)]
    other = a_dead_letter(Reason.PERMANENT_ERROR)
    url = f"{LIST}?reason__exact=attempts_exhausted"

    response = run(admin_client, url, "replay", matching[0].pk, across=True)

    assert set(states(*matching)) == {State.READY}
    assert states(other) == [State.DEAD]
    assert LogEntry.objects.count() == 7
    assert said(response) == ["Replayed 7 dead letters."]


def test_all_that_match_are_deleted_although_the_list_shrinks_meanwhile(admin_client, monkeypatch):
    monkeypatch.setattr("jobs.stats.CHUNK", 2)
    letters = [a_dead_letter() for _ in range(5)]

    run(admin_client, LIST, "delete_selected", letters[0].pk, across=True)

    assert not DeadLetter.objects.exists()


def test_a_letter_that_arrives_after_the_question_is_not_part_of_the_answer(admin_client):
    asked = a_dead_letter()
    question = choose(admin_client, LIST, "replay", asked.pk, across=True)
    late = a_dead_letter()

    answer_yes(admin_client, LIST, question)

    assert states(asked, late) == [State.READY, State.DEAD]


@pytest.mark.parametrize("forged", ["", "x", "-1", "9" * 40, "٣"])
def test_a_forged_bound_acts_on_nothing_and_does_not_crash(forged, admin_client):
    letter = a_dead_letter()
    question = choose(admin_client, LIST, "replay", letter.pk)

    response = answer_yes(admin_client, LIST, question, up_to=forged)

    assert states(letter) == [State.DEAD]
    assert response.status_code == 302


def test_the_question_counts_and_names_what_it_is_about(admin_client):
    letters = [a_dead_letter() for _ in range(12)]

    text = choose(admin_client, LIST, "replay", letters[0].pk, across=True).content.decode()

    assert "Replay 12 dead letters?" in text
    assert "and 2 more" in text
    assert "ValueError: boom" in text


def test_bulk_replay_leaves_uncertain_letters_and_says_so(admin_client):
    plain, uncertain = a_dead_letter(), an_uncertain_letter()

    question = choose(admin_client, LIST, "replay", plain.pk, uncertain.pk)
    response = answer_yes(admin_client, LIST, question)

    assert "1 of them is uncertain and will be skipped" in question.content.decode()
    assert states(plain, uncertain) == [State.READY, State.DEAD]
    done, skipped = said(response)
    assert done == "Replayed 1 dead letter."
    assert skipped.startswith(f"1 was skipped ({uncertain.pk}): ")
    assert "uncertain" in skipped
    assert history() == [(str(plain.pk), CHANGE, "Replay.")]


def test_it_happened_ends_the_job_without_running_it(admin_client):
    letter = an_uncertain_letter()

    response = admin_client.post(page(letter, "happened"), {"confirmed": "yes"})

    assert states(letter) == [State.SUCCEEDED]
    assert IdempotencyRecord.objects.get().state == RecordState.DONE
    assert history() == [(str(letter.pk), CHANGE, "It happened.")]
    assert said(response) == ["Answered “it happened” for 1 dead letter."]


def test_it_did_not_happen_lets_the_job_run_again(admin_client):
    letter = an_uncertain_letter()

    admin_client.post(page(letter, "not_happened"), {"confirmed": "yes"})

    assert states(letter) == [State.READY]
    assert not IdempotencyRecord.objects.exists()
    assert history() == [(str(letter.pk), CHANGE, "It did not happen.")]


def test_an_answer_for_a_letter_that_is_not_uncertain_is_refused(admin_client):
    letter = a_dead_letter()

    response = admin_client.post(page(letter, "happened"), {"confirmed": "yes"})

    assert states(letter) == [State.DEAD]
    assert "not uncertain" in said(response)[0]


def test_an_uncertain_letter_offers_its_two_answers_and_no_replay(admin_client):
    letter = an_uncertain_letter()

    text = admin_client.get(page(letter)).content.decode()

    assert page(letter, "happened") in text
    assert page(letter, "not_happened") in text
    assert page(letter, "replay") not in text


def test_replaying_twice_skips_and_names_the_state(admin_client):
    letter = a_dead_letter()
    admin_client.post(page(letter, "replay"), {"confirmed": "yes"})
    LogEntry.objects.all().delete()

    response = admin_client.post(page(letter, "replay"), {"confirmed": "yes"})

    assert "no longer dead but ready" in said(response)[-1]
    assert history() == []


def test_reasons_for_skipping_are_grouped_with_the_first_numbers(admin_client):
    letters = [an_uncertain_letter_without_record() for _ in range(7)]

    response = run(admin_client, LIST, "replay", *(letter.pk for letter in letters))

    [message] = said(response)
    shown = ", ".join(str(letter.pk) for letter in letters[:5])
    assert message.startswith(f"7 were skipped ({shown} and 2 more): ")


def an_uncertain_letter_without_record():
    return a_dead_letter(Reason.UNCERTAIN)


def test_deleting_takes_the_dead_job_and_its_attempts_and_no_record(admin_client):
    letter = a_dead_letter()
    a_record(job=letter.job)

    response = run(admin_client, LIST, "delete_selected", letter.pk)

    assert not DeadLetter.objects.exists()
    assert not Job.objects.exists()
    assert not Attempt.objects.exists()
    assert IdempotencyRecord.objects.get().job_id is None
    assert history() == [(str(letter.pk), DELETION, "Delete.")]
    assert said(response) == ["Deleted 1 dead letter."]


@pytest.mark.parametrize("posted", [{"post": "yes"}, {"confirmed": "yes"}])
def test_the_delete_button_of_a_page_goes_the_same_way(posted, admin_client, monkeypatch):
    letter = a_dead_letter()
    url = f"{LIST}{letter.pk}/delete/"

    admin_client.post(url, posted)

    # Django's own confirmation is not ours: it asks again.
    assert Job.objects.exists() == ("post" in posted)


def test_deleting_a_replayed_letter_leaves_its_job_alone(admin_client):
    letter = a_dead_letter()
    admin_client.post(page(letter, "replay"), {"confirmed": "yes"})

    admin_client.post(f"{LIST}{letter.pk}/delete/", {"confirmed": "yes"})

    assert not DeadLetter.objects.exists()
    assert Job.objects.get().state == State.READY


def test_a_page_that_is_gone_leads_back_to_the_list(admin_client):
    letter = a_dead_letter()

    response = admin_client.post(f"{LIST}{letter.pk}/delete/", {"confirmed": "yes"})

    assert response.url == LIST


def test_the_list_tells_task_reason_exception_first_line_attempts_and_age(admin_client):
    a_dead_letter()

    text = admin_client.get(LIST).content.decode()

    for expected in ("shop.<wbr>tasks.<wbr>charge", "attempts exhausted", "ValueError", "boom", ">5<", "minutes ago"):
        assert expected in text.replace("\xa0", " ")
    assert "second line" not in text


def test_replayed_letters_leave_the_list_and_are_found_under_their_filter(admin_client):
    letter = a_dead_letter()
    admin_client.post(page(letter, "replay"), {"confirmed": "yes"})

    waiting, replayed, every = (
        admin_client.get(LIST, query).content.decode() for query in ({}, {"decision": "replayed"}, {"decision": "any"})
    )

    assert [f"#{letter.pk}<" in text for text in (waiting, replayed, every)] == [False, True, True]


def test_the_list_is_narrowed_to_an_error_group(admin_client):
    mine, other = a_dead_letter(), a_dead_letter(task="shop.tasks.ship")

    text = admin_client.get(LIST, {"group": mine.group_id}).content.decode()

    assert f"#{mine.pk}<" in text
    assert f"#{other.pk}<" not in text


@pytest.mark.parametrize("query", ["x", "", "0", "99999999999999999999", "1'"])
def test_a_nonsense_group_is_no_crash(query, admin_client):
    a_dead_letter()

    assert admin_client.get(LIST, {"group": query}).status_code in (200, 302)


def test_a_letter_is_found_by_its_number_its_job_and_its_task(admin_client):
    a_job()
    letter = a_dead_letter()
    a_dead_letter(task="mail.send")

    found = [
        admin_client.get(LIST, {"q": query}).context["cl"].result_count
        for query in (str(letter.pk), str(letter.job_id), "shop.tasks", "charge", "9" * 30)
    ]

    assert found[2:] == [1, 0, 0]
    assert 1 <= found[0] <= 2
    assert 1 <= found[1] <= 2


def test_the_page_shows_traceback_and_payload(admin_client):
    letter = a_dead_letter()

    text = admin_client.get(page(letter)).content.decode()

    assert "charge.py" in text
    assert "order-4711" in text
    assert "second line" in text


def test_a_secret_that_was_let_through_is_on_no_page(admin_client):
    letter = a_dead_letter()
    Job.objects.filter(pk=letter.job_id).update(kwargs={"password": "hunter2"})

    for url in (page(letter), reverse("admin:jobs_job_change", args=[letter.job_id])):
        text = admin_client.get(url).content.decode()
        assert "[redacted]" in text
        assert "hunter2" not in text


@pytest.mark.parametrize("reason", Reason)
def test_the_first_line_says_what_is_wrong_and_what_to_do(reason, admin_client):
    letter = a_dead_letter(reason)

    lead = admin_client.get(page(letter)).context["lead"]

    assert lead.level == "bad"
    assert lead.text.startswith("shop.tasks.charge died ")
    assert str(reason.label) in lead.text
    assert len(lead.text.split(". ")) >= 2


def test_a_letter_without_a_traceback_says_so(admin_client):
    letter = a_dead_letter(Reason.WORKER_LOST)
    Attempt.objects.all().delete()

    assert "None was kept" in admin_client.get(page(letter)).content.decode()
