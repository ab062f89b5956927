"""The sign-up page: a user and a welcome mail, or neither."""

import re

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.tokens import default_token_generator
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from jobs.models import Job
from jobs.testing import run_jobs
from notifications import notify, outbox
from notifications.models import Email

FORM = {"username": "bob", "email": "bob@example.com", "password1": "a long sentence", "password2": "a long sentence"}


def test_the_form_is_at_the_root(client, db):
    page = client.get("/").content.decode()

    assert reverse("notifications:signup") == "/"
    assert "<h1>Sign up</h1>" in page
    assert "csrfmiddlewaretoken" in page


def test_every_field_has_a_label_and_no_page_needs_inline_code(client, db):
    page = client.get("/").content.decode()

    inputs = set(re.findall(r'<input[^>]* id="([^"]+)"', page))
    assert inputs == set(re.findall(r'<label for="([^"]+)"', page)) != set()
    assert "<script" not in page
    assert "<style" not in page
    assert "style=" not in page


def test_it_makes_the_user_and_sends_the_welcome_mail(client, db, mailoutbox):
    response = client.post("/", FORM)

    user = get_user_model().objects.get()
    email = Email.objects.get()
    assert (email.user, email.template_id) == (user, "welcome")
    assert user.check_password("a long sentence")
    assert response.status_code == 302
    assert response.url == f"/signup/{email.pk}/"

    run_jobs()
    (message,) = mailoutbox
    assert message.to == ["bob@example.com"]


def test_the_page_after_it_shows_the_state_and_a_link_to_check_again(client, db, mailoutbox):
    url = client.post("/", FORM).url
    waiting = client.get(url).content.decode()
    assert "waiting to be sent" in waiting
    assert f'<a href="{url}">Check again</a>' in waiting

    run_jobs()

    assert "is sent" in client.get(url).content.decode()
    assert "bob@example.com" not in client.get(url).content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_mail_that_cannot_be_enqueued_leaves_no_user(client, monkeypatch):
    client.raise_request_exception = False
    monkeypatch.setattr(outbox, "template_named", lambda template_id: 1 / 0)

    assert client.post("/", FORM).status_code == 500

    assert not get_user_model().objects.exists()
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": ""}, "email"),
        ({"email": "bob"}, "email"),
        ({"username": ""}, "username"),
        ({"username": "ADA"}, "username"),
        ({"password2": "another sentence"}, "password2"),
    ],
)
def test_a_mistake_is_said_beside_its_field_and_leaves_no_row(client, ada, change, field):
    response = client.post("/", FORM | change)

    page = response.content.decode()
    assert response.status_code == 200
    assert f'id="id_{field}_error"' in page
    assert 'aria-invalid="true"' in page
    assert get_user_model().objects.count() == 1
    assert not Email.objects.exists()


def test_only_welcome_mails_can_be_seen_that_way(client, ada):
    email = notify(ada, "password_reset")

    assert client.get(f"/signup/{email.pk}/").status_code == 404
    assert client.get("/signup/00000000-0000-4000-8000-000000000000/").status_code == 404


def test_the_link_of_the_reset_mail_changes_the_password(client, ada):
    uid = urlsafe_base64_encode(force_bytes(ada.pk))
    url = reverse("notifications:password_reset", args=[uid, default_token_generator.make_token(ada)])
    form = client.get(url).url

    response = client.post(
        form, {"new_password1": "another sentence", "new_password2": "another sentence"}, follow=True
    )

    ada.refresh_from_db()
    assert ada.check_password("another sentence")
    assert "Your password is changed" in response.content.decode()
    assert "This link does not work" in client.get(url).content.decode()
