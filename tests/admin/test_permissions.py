"""Nobody sees or does what no permission allows, and nothing happens on GET."""

import pytest
from django.test import Client
from django.urls import reverse

from jobs.models import DeadLetter, IdempotencyRecord, Job, Queue, Worker
from jobs.states import Reason, State

from .asking import answer_yes, choose
from .rows import a_dead_letter, a_job, a_record, an_uncertain_letter

MODELS = ["job", "deadletter", "errorgroup", "queue", "idempotencyrecord", "worker"]


def make_letter():
    return a_dead_letter()


def make_queue():
    return Queue.objects.create(name="default")


def make_paused_queue():
    return Queue.objects.create(name="default", paused=True)


# What may be done: to which row, by which action, with which permission, and how one sees that it was done.
ACTIONS = {
    "replay a dead letter": (
        *(make_letter, "deadletter", "replay", "replay_job"),
        lambda letter: DeadLetter.objects.filter(pk=letter.pk, replayed_at__isnull=False).exists(),
    ),
    "delete a dead letter": (
        *(make_letter, "deadletter", "delete_selected", "delete_deadletter"),
        lambda letter: not DeadLetter.objects.filter(pk=letter.pk).exists(),
    ),
    "cancel a job": (
        *(a_job, "job", "cancel", "cancel_job"),
        lambda job: Job.objects.get(pk=job.pk).state == State.CANCELLED,
    ),
    "pause a queue": (
        *(make_queue, "queue", "pause", "change_queue"),
        lambda queue: Queue.objects.get(pk=queue.pk).paused,
    ),
    "resume a queue": (
        *(make_paused_queue, "queue", "resume", "change_queue"),
        lambda queue: not Queue.objects.get(pk=queue.pk).paused,
    ),
    "delete an idempotency record": (
        *(a_record, "idempotencyrecord", "delete_selected", "delete_idempotencyrecord"),
        lambda record: not IdempotencyRecord.objects.filter(pk=record.pk).exists(),
    ),
    "answer that it happened": (
        *(an_uncertain_letter, "deadletter", "happened", "replay_job"),
        lambda letter: Job.objects.get(pk=letter.job_id).state == State.SUCCEEDED,
    ),
    "answer that it did not happen": (
        *(an_uncertain_letter, "deadletter", "not_happened", "replay_job"),
        lambda letter: Job.objects.get(pk=letter.job_id).state == State.READY,
    ),
}
ON_A_PAGE_ONLY = {"answer that it happened", "answer that it did not happen"}
IN_A_LIST = sorted(set(ACTIONS) - ON_A_PAGE_ONLY)


def page(model, action, pk):
    name = "delete" if action == "delete_selected" else action
    return reverse(f"admin:jobs_{model}_{name}", args=[pk])


def changelist(model):
    return reverse(f"admin:jobs_{model}_changelist")


@pytest.mark.django_db
@pytest.mark.parametrize("name", ACTIONS)
def test_the_page_of_an_action_asks_and_a_confirmed_post_does_it(name, admin_client):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()
    url = page(model, action, row.pk)

    question = admin_client.get(url)
    answer = answer_yes(admin_client, url, question)

    assert (question.status_code, answer.status_code) == (200, 302)
    assert is_done(row)


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options", "post"])
@pytest.mark.parametrize("name", ACTIONS)
def test_nothing_happens_without_a_confirmed_post(name, method, admin_client):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()

    response = getattr(admin_client, method)(page(model, action, row.pk))

    assert response.status_code in (200, 405)
    assert not is_done(row)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ACTIONS)
def test_a_get_that_pretends_to_be_confirmed_changes_nothing(name, admin_client):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()

    admin_client.get(page(model, action, row.pk), {"confirmed": "yes", "up_to": row.pk})

    assert not is_done(row)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_page_of_an_action_is_closed_without_its_permission(name, staff):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()
    client = staff(f"view_{model}")

    responses = [client.get(page(model, action, row.pk)), client.post(page(model, action, row.pk), {"confirmed": "y"})]

    assert [response.status_code for response in responses] == [403, 403]
    assert not is_done(row)


# Django lets those see who may change.
@pytest.mark.parametrize("name", sorted(set(ACTIONS) - {"pause a queue", "resume a queue"}))
def test_an_action_needs_the_right_to_see_the_row_as_well(name, staff):
    make, model, action, permission, is_done = ACTIONS[name]
    row = make()

    response = staff(permission).post(page(model, action, row.pk), {"confirmed": "yes"})

    assert response.status_code == 403
    assert not is_done(row)


@pytest.mark.parametrize("name", ACTIONS)
def test_view_and_the_actions_own_permission_are_enough(name, staff):
    make, model, action, permission, is_done = ACTIONS[name]
    row = make()

    response = staff(f"view_{model}", permission).post(page(model, action, row.pk), {"confirmed": "yes"})

    assert response.status_code == 302
    assert is_done(row)


@pytest.mark.parametrize("name", IN_A_LIST)
def test_a_list_does_not_offer_an_action_without_its_permission(name, staff):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()
    client = staff(f"view_{model}")

    listed = client.get(changelist(model)).content.decode()
    data = {"action": action, "_selected_action": row.pk, "confirmed": "yes"}
    client.post(changelist(model), data)
    client.post(changelist(model), data | {"index": "0"})

    assert f'value="{action}"' not in listed
    assert not is_done(row)


@pytest.mark.parametrize("name", IN_A_LIST)
def test_a_list_asks_before_it_runs_an_action(name, staff):
    make, model, action, permission, is_done = ACTIONS[name]
    row = make()
    client = staff(f"view_{model}", permission)

    question = choose(client, changelist(model), action, row.pk)
    was_done_unasked = is_done(row)
    answer_yes(client, changelist(model), question)

    assert "jobs-confirmation" in question.content.decode()
    assert not was_done_unasked
    assert is_done(row)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_without_a_csrf_token_is_refused(name, admin_user):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    response = client.post(page(model, action, row.pk), {"confirmed": "yes"})

    assert response.status_code == 403
    assert not is_done(row)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ACTIONS)
def test_strangers_are_sent_to_the_log_in(name, client):
    make, model, action, _permission, is_done = ACTIONS[name]
    row = make()

    response = client.post(page(model, action, row.pk), {"confirmed": "yes"})

    assert response.url.startswith("/admin/login/")
    assert not is_done(row)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ACTIONS)
def test_the_page_of_an_action_on_a_row_that_is_gone_is_not_found(name, admin_client):
    _make, model, action, _permission, _is_done = ACTIONS[name]

    assert admin_client.get(page(model, action, 404)).status_code == 404


@pytest.mark.parametrize("model", MODELS)
def test_a_list_is_closed_without_the_right_to_view(model, staff):
    assert staff().get(changelist(model)).status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize("model", MODELS)
def test_nobody_adds_or_edits_rows_by_hand(model, admin_client):
    responses = [admin_client.get(f"{changelist(model)}add/"), admin_client.post(f"{changelist(model)}add/", {})]

    assert [response.status_code for response in responses] == [403, 403]


@pytest.mark.django_db
def test_posting_to_a_jobs_page_changes_nothing(admin_client):
    job = a_job()

    response = admin_client.post(reverse("admin:jobs_job_change", args=[job.pk]), {"state": "dead", "priority": "9"})

    assert response.status_code == 403
    assert Job.objects.get(pk=job.pk).priority == 0


@pytest.mark.django_db
@pytest.mark.parametrize("model", ["job", "errorgroup", "queue", "worker"])
def test_what_has_no_delete_cannot_be_deleted_by_a_superuser_either(model, admin_client):
    letter = a_dead_letter()
    now = letter.died_at
    worker = {"tree": "t", "hostname": "h", "pid": 1, "threads": 1, "started_at": now, "last_seen_at": now}
    rows = {
        "job": letter.job,
        "errorgroup": letter.group,
        "queue": make_queue(),
        "worker": Worker.objects.create(worker_id="w", **worker),
    }

    response = admin_client.post(reverse(f"admin:jobs_{model}_delete", args=[rows[model].pk]), {"post": "yes"})
    listed = admin_client.get(changelist(model)).content.decode()

    assert response.status_code == 403
    assert 'value="delete_selected"' not in listed
    assert type(rows[model])._default_manager.filter(pk=rows[model].pk).exists()


@pytest.mark.parametrize("reason", [Reason.ATTEMPTS_EXHAUSTED, Reason.UNCERTAIN])
def test_buttons_are_shown_to_those_who_may_press_them(reason, staff):
    letter = a_dead_letter(reason)
    url = reverse("admin:jobs_deadletter_change", args=[letter.pk])

    seen = [
        client.get(url).content.decode()
        for client in (staff("view_deadletter"), staff("view_deadletter", "replay_job"))
    ]

    part = "happened/" if reason == Reason.UNCERTAIN else "replay/"
    assert [f"{letter.pk}/{part}" in text for text in seen] == [False, True]
