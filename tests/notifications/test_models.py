"""What the rows of the e-mail application refuse."""

import pytest
from django.db import IntegrityError, transaction

from notifications.models import Answer, Email


def test_an_idempotency_key_belongs_to_one_email(db):
    Email.objects.create(template_id="welcome", address="ada@example.com", idempotency_key="welcome:1")

    with pytest.raises(IntegrityError), transaction.atomic():
        Email.objects.create(template_id="welcome", address="bob@example.com", idempotency_key="welcome:1")


def test_a_user_and_an_address_are_not_both_the_recipient(ada):
    with pytest.raises(IntegrityError), transaction.atomic():
        Email.objects.create(template_id="welcome", user=ada, address="ada@example.com", idempotency_key="k")


def test_the_recipient_is_the_address_or_the_users_own(ada):
    assert Email(address="bob@example.com").recipient == "bob@example.com"
    assert Email(user=ada).recipient == "ada@example.com"
    assert Email().recipient == ""


def test_an_email_outlives_its_user(ada):
    email = Email.objects.create(template_id="welcome", user=ada, idempotency_key="k")

    ada.delete()

    email.refresh_from_db()
    assert email.user is None
    assert email.recipient == ""


def test_an_idempotency_key_of_a_request_is_scoped_to_its_caller(db):
    Answer.objects.create(caller="token:shop", key="1", digest="")
    Answer.objects.create(caller="token:crm", key="1", digest="")

    with pytest.raises(IntegrityError), transaction.atomic():
        Answer.objects.create(caller="token:shop", key="1", digest="")


def test_a_stale_attempt_does_not_own_the_row_any_more(db):
    email = Email.objects.create(
        template_id="welcome", address="ada@example.com", idempotency_key="k", state="sending", attempts=1
    )
    assert Email.objects.in_dialogue(email).exists()

    Email.objects.filter(pk=email.pk).change(attempts=2)
    assert not Email.objects.in_dialogue(email).exists()

    Email.objects.filter(pk=email.pk).change(attempts=1, state="unknown")
    assert not Email.objects.in_dialogue(email).exists()


def test_a_change_is_dated(db):
    email = Email.objects.create(template_id="welcome", address="ada@example.com", idempotency_key="k")
    before = email.updated_at

    assert Email.objects.filter(pk=email.pk).change(state="sent") == 1

    email.refresh_from_db()
    assert email.updated_at > before
