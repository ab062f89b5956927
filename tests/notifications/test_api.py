"""The HTTP API: what it accepts, what it answers, and that a refusal names the field and leaves no row."""

import json
import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs.models import Job
from jobs.testing import run_jobs
from notifications.models import Answer, Email
from tests.notifications.conftest import TOKEN

URL = "/notifications/emails/"
WELCOME = {"template_id": "welcome", "address": "bob@example.com"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def post(client, body=WELCOME, headers=BEARER, content_type="application/json", url=URL):
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(url, data, content_type=content_type, headers=headers)


def no_rows():
    return not (Email.objects.exists() or Job.objects.exists() or Answer.objects.exists())


def allowed(user, *codenames):
    user.user_permissions.set(
        Permission.objects.filter(codename__in=codenames, content_type__app_label="notifications")
    )
    return user


@pytest.fixture
def strict_client():
    return Client(enforce_csrf_checks=True)


# What is accepted


@pytest.mark.django_db
def test_it_answers_202_with_where_to_look(client):
    response = post(client)

    email = Email.objects.get()
    assert response.status_code == 202
    assert response.json() == {
        "delivery_id": str(email.pk),
        "job_id": str(email.job_id),
        "status_url": f"/notifications/emails/{email.pk}/",
    }
    assert response["Location"] == response.json()["status_url"]
    assert email.address == "bob@example.com"


def test_a_user_is_named_by_id(client, ada):
    body = {"template_id": "support_reply", "user_id": ada.pk, "references": {"ticket_number": "4711"}}

    assert post(client, body).status_code == 202
    assert Email.objects.get().user == ada
    assert Email.objects.get().references == {"ticket_number": "4711"}


def test_status_url_gives_state_and_attempts(client, db, mailoutbox):
    url = post(client).json()["status_url"]
    assert client.get(url, headers=BEARER).json()["state"] == "queued"

    run_jobs()

    answer = client.get(url, headers=BEARER).json()
    assert (answer["state"], answer["attempts"], answer["template_id"]) == ("sent", 1, "welcome")
    assert answer["job_id"] == str(Job.objects.get().pk)
    assert answer["sent_at"]
    assert "bob@example.com" not in json.dumps(answer)


# Who may ask


@pytest.mark.django_db
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xff"},
    ],
)
def test_nobody_in_particular_gets_401(strict_client, headers):
    for response in (post(strict_client, headers=headers), strict_client.get(f"{URL}{uuid.uuid4()}/", headers=headers)):
        assert response.status_code == 401
        assert response.json()["error"]["field"] == "Authorization"
        assert response["WWW-Authenticate"].startswith("Bearer")
    assert no_rows()


@pytest.mark.django_db
def test_the_scheme_is_not_case_sensitive(client):
    assert post(client, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 202


def test_a_wrong_token_is_not_made_good_by_a_session(client, admin_user):
    client.force_login(admin_user)

    assert post(client, headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.django_db
def test_no_token_is_valid_when_none_is_set(client, configure):
    configure(API_TOKENS={})

    assert post(client).status_code == 401


@pytest.mark.django_db
def test_a_token_needs_no_csrf_token(strict_client):
    assert post(strict_client).status_code == 202


def test_a_session_needs_the_permission(client, ada):
    client.force_login(ada)

    response = post(client, headers={})

    assert response.status_code == 403
    assert "notifications.add_email" in response.json()["error"]["message"]
    assert no_rows()

    allowed(ada, "add_email")
    assert post(client, headers={}).status_code == 202


def test_a_session_needs_a_csrf_token(strict_client, ada):
    strict_client.force_login(allowed(ada, "add_email"))

    response = post(strict_client, headers={})

    assert response.status_code == 403
    assert response.json()["error"]["field"] == "X-CSRFToken"
    assert no_rows()

    strict_client.get("/")
    token = strict_client.cookies["csrftoken"].value
    assert post(strict_client, headers={"X-CSRFToken": "x" * 32}).status_code == 403
    assert post(strict_client, headers={"X-CSRFToken": token}).status_code == 202


def test_looking_needs_a_permission_too(client, ada):
    url = post(client).json()["status_url"]

    client.force_login(ada)
    assert client.get(url).status_code == 403
    allowed(ada, "view_email")
    assert client.get(url).status_code == 200
    allowed(ada, "add_email")
    assert client.get(url).status_code == 200


# What is refused


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (" ", 400, "body"),
        ("{", 400, "body"),
        ("nonsense", 400, "body"),
        (b"\xff\xfe{}", 400, "body"),
        ("[]", 400, "body"),
        ('"welcome"', 400, "body"),
        ("null", 400, "body"),
        ('{"template_id": NaN}', 400, "body"),
        ('{"template_id": Infinity}', 400, "body"),
        ('{"template_id": "welcome", "template_id": "welcome"}', 400, "body"),
        ("[" * 10_000, 400, "body"),
        ('{"user_id": ' + "9" * 5000 + "}", 400, "body"),
        ({}, 422, "template_id"),
        ({"address": "bob@example.com"}, 422, "template_id"),
        ({"template_id": "wellcome", "address": "bob@example.com"}, 422, "template_id"),
        ({"template_id": None, "address": "bob@example.com"}, 422, "template_id"),
        ({"template_id": {}, "address": "bob@example.com"}, 422, "template_id"),
        ({"template_id": "welcome"}, 422, "address"),
        ({"template_id": "welcome", "address": "bob"}, 422, "address"),
        ({"template_id": "welcome", "address": ["bob@example.com"]}, 422, "address"),
        ({"template_id": "welcome", "address": None}, 422, "address"),
        ({"template_id": "welcome", "address": "b\ud800b@example.com"}, 422, "address"),
        ({"template_id": "welcome", "address": "bob@example.com\r\nBcc: eve@example.com"}, 422, "address"),
        ({"template_id": "welcome", "address": "bob@example.com", "user_id": 1}, 422, "address"),
        ({"template_id": "password_reset", "address": "bob@example.com"}, 422, "address"),
        ({"template_id": "welcome", "user_id": 99}, 422, "user_id"),
        ({"template_id": "welcome", "user_id": "99"}, 422, "user_id"),
        ({"template_id": "welcome", "user_id": "x\x00"}, 422, "user_id"),
        ({"template_id": "welcome", "user_id": True}, 422, "user_id"),
        ({"template_id": "welcome", "user_id": 1.5}, 422, "user_id"),
        ({"template_id": "welcome", "user_id": None}, 422, "user_id"),
        ({"template_id": "welcome", "user_id": 10**30}, 422, "user_id"),
        ({**WELCOME, "to": "eve@example.com"}, 422, "to"),
        ({**WELCOME, "references": []}, 422, "references"),
        ({**WELCOME, "references": None}, 422, "references"),
        ({**WELCOME, "references": {"token": "x"}}, 422, "references.token"),
        ({**WELCOME, "references": {"template_id": "x"}}, 422, "references.template_id"),
        ({**WELCOME, "references": {"idempotency_key": "x"}}, 422, "references.idempotency_key"),
        ({**WELCOME, "references": {"user_or_address": "x"}}, 422, "references.user_or_address"),
        ({**WELCOME, "template_id": "support_reply"}, 422, "references.ticket_number"),
        (
            {**WELCOME, "template_id": "support_reply", "references": {"ticket_number": "\x00"}},
            422,
            "references.ticket_number",
        ),
    ],
)
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "1"}])
def test_a_refusal_names_the_field_and_leaves_no_row(client, body, code, field, key):
    response = post(client, body, headers=BEARER | key)

    assert (response.status_code, response.json()["error"]["field"]) == (code, field)
    assert response.json()["error"]["message"]
    assert no_rows()


def test_a_user_without_an_address_is_refused(client, ada):
    type(ada).objects.update(email="")

    response = post(client, {"template_id": "welcome", "user_id": ada.pk})

    assert (response.status_code, response.json()["error"]["field"]) == (422, "user_id")
    assert no_rows()


@pytest.mark.django_db
def test_a_body_that_is_too_large_is_refused(client, configure):
    configure(MAX_BODY=len(json.dumps(WELCOME)))
    assert post(client).status_code == 202
    Email.objects.all().delete()
    Job.objects.all().delete()

    response = post(client, json.dumps(WELCOME) + " ")

    assert (response.status_code, response.json()["error"]["field"]) == (413, "body")
    assert no_rows()


@pytest.mark.django_db(transaction=True)
def test_a_huge_body_is_refused_over_a_real_connection(live_server):
    request = Request(live_server.url + URL, b"x" * 5_000_000, BEARER | {"Content-Type": "application/json"})

    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=10)

    with caught.value as answer:
        assert (answer.code, json.load(answer)["error"]["field"]) == (413, "body")
    assert no_rows()


@pytest.mark.django_db
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_only_json_is_read(client, content_type):
    response = post(client, content_type=content_type)

    assert (response.status_code, response.json()["error"]["field"]) == (415, "Content-Type")
    assert no_rows()


@pytest.mark.django_db
def test_a_charset_may_stand_beside_it(client):
    assert post(client, content_type="application/json; charset=utf-8").status_code == 202


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "url"), [("get", URL), ("put", URL), ("post", f"{URL}{uuid.uuid4()}/")])
def test_other_methods_are_refused_in_json(client, method, url):
    response = getattr(client, method)(url, headers=BEARER)

    assert response.status_code == 405
    assert response["Allow"]
    assert response.json()["error"]["field"] == "method"


@pytest.mark.django_db
def test_an_unknown_delivery_is_404_in_json(client):
    response = client.get(f"{URL}{uuid.uuid4()}/", headers=BEARER)

    assert (response.status_code, response.json()["error"]["field"]) == (404, "delivery_id")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["template_id", "address", "user_id", "references", "x"])


@pytest.mark.django_db
@given(body=st.one_of(st.binary(min_size=1, max_size=50), st.dictionaries(fields, json_values).map(json.dumps)))
@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_it_fail(client, body):
    response = post(client, body)

    assert response.status_code in (400, 422)
    assert response.json()["error"]["field"]


# Idempotency-Key

KEY = BEARER | {"Idempotency-Key": "order-17"}


@pytest.mark.django_db
def test_the_same_key_and_body_return_the_first_answer(client):
    first = post(client, headers=KEY)
    second = post(client, headers=KEY)
    other_spelling = post(client, '{"address":"bob@example.com",  "template_id":"welcome"}', headers=KEY)

    assert first.status_code == second.status_code == other_spelling.status_code == 202
    assert first.json() == second.json() == other_spelling.json()
    assert second["Location"] == first["Location"]
    assert Email.objects.count() == Job.objects.count() == 1


@pytest.mark.django_db
def test_the_same_key_with_another_body_is_409(client):
    post(client, headers=KEY)

    response = post(client, WELCOME | {"address": "eve@example.com"}, headers=KEY)

    assert (response.status_code, response.json()["error"]["field"]) == (409, "Idempotency-Key")
    assert Email.objects.count() == 1


def test_the_first_answer_stays_when_its_user_is_gone(client, ada):
    body = {"template_id": "welcome", "user_id": ada.pk}
    first = post(client, body, headers=KEY)
    ada.delete()

    assert post(client, body, headers=KEY).json() == first.json()


def test_keys_are_scoped_to_the_caller(client, ada, configure):
    configure(API_TOKENS={"shop": TOKEN, "crm": "another-token-for-tests"})
    client.force_login(allowed(ada, "add_email"))
    key = {"Idempotency-Key": "order-17"}
    callers = [BEARER, {"Authorization": "Bearer another-token-for-tests"}, {}]

    answers = {post(client, headers=caller | key).json()["delivery_id"] for caller in callers}

    assert len(answers) == Email.objects.count() == 3


@pytest.mark.django_db
def test_a_refused_request_does_not_use_up_its_key(client):
    assert post(client, WELCOME | {"address": "bob"}, headers=KEY).status_code == 422

    assert post(client, headers=KEY).status_code == 202


@pytest.mark.django_db
def test_without_a_key_each_request_is_a_mail(client):
    post(client)
    post(client)

    assert Email.objects.count() == 2
    assert not Answer.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "k" * 256, "schl\xfcssel", "a\tb"])
def test_a_key_that_cannot_be_kept_is_refused(client, key):
    response = post(client, headers=BEARER | {"Idempotency-Key": key})

    assert (response.status_code, response.json()["error"]["field"]) == (400, "Idempotency-Key")
    assert no_rows()


@pytest.mark.django_db(transaction=True)
def test_a_failure_after_the_key_was_claimed_leaves_nothing(client, monkeypatch):
    client.raise_request_exception = False
    with monkeypatch.context() as patch:
        patch.setattr("notifications.api.status_url", lambda email: 1 / 0)
        assert post(client, headers=KEY).status_code == 500
    assert no_rows()

    assert post(client, headers=KEY).status_code == 202


@pytest.mark.django_db
def test_a_full_queue_is_503_says_when_to_come_back_and_leaves_no_row(client, settings):
    queues = {"email": {"max_depth": 1}}
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": {"queues": queues}}}
    assert post(client).status_code == 202

    response = post(client, headers=BEARER | {"Idempotency-Key": "k"})

    assert response.status_code == 503
    assert int(response["Retry-After"]) >= 1
    assert (Email.objects.count(), Answer.objects.count()) == (1, 0)
