"""Idempotency records in the admin: read, and forget what is done."""

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.urls import reverse

from jobs.models import IdempotencyRecord
from jobs.states import RecordState

from .asking import run, said
from .rows import a_record

LIST = "/admin/jobs/idempotencyrecord/"

pytestmark = pytest.mark.django_db


def test_a_done_record_is_deleted_and_that_is_history(admin_client):
    record = a_record()

    response = run(admin_client, LIST, "delete_selected", record.pk)

    assert not IdempotencyRecord.objects.exists()
    assert said(response) == ["Deleted 1 idempotency record."]
    assert LogEntry.objects.get().action_flag == DELETION


@pytest.mark.parametrize("where", ["list", "page"])
def test_a_record_of_an_effect_under_way_is_not_deleted_and_the_message_says_why(where, admin_client):
    record = a_record(RecordState.PROCESSING)

    if where == "list":
        response = run(admin_client, LIST, "delete_selected", record.pk)
    else:
        url = reverse("admin:jobs_idempotencyrecord_delete", args=[record.pk])
        response = admin_client.post(url, {"confirmed": "yes"})

    assert IdempotencyRecord.objects.exists()
    assert "the effect may be under way" in said(response)[0]
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(("state", "offered"), [(RecordState.DONE, True), (RecordState.PROCESSING, False)])
def test_a_delete_button_is_offered_only_where_it_would_work(state, offered, admin_client):
    record = a_record(state)

    text = admin_client.get(reverse("admin:jobs_idempotencyrecord_change", args=[record.pk])).content.decode()

    assert (f"{record.pk}/delete/" in text) == offered


def test_a_record_is_found_by_its_whole_key(admin_client):
    a_record(key="mail:1")
    a_record(key="mail:2")

    found = [admin_client.get(LIST, {"q": query}).context["cl"].result_count for query in ("mail:1", "mail")]

    assert found == [1, 0]
