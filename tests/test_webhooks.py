"""Signed webhooks: a genuine event becomes one job, everything else is refused and leaves no row."""

import json
import time
from collections import Counter
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import QueueFull
from jobs.metrics import DatabaseCollector
from jobs.models import IdempotencyRecord, Job
from jobs.testing import run_jobs
from jobs.webhooks import WebhookView, answers, signature, signed
from tests import tasks
from tests.threads import at_once

pytestmark = pytest.mark.django_db

OLD, NEW, FOREIGN = "the old secret 0123", "the new secret 4567", "somebody else's 890"
EVENT = {"id": "evt_1", "type": "delivered", "n": 7}


class Events(WebhookView):
    source = "mailer"
    secrets = (OLD, NEW)
    task = tasks.take_event

    def arguments(self, event: Any) -> Any:
        return None if event.get("type") == "opened" else {"n": event.get("n", 0)}


class Raw(Events):
    task = tasks.take_whole_event

    def arguments(self, event: Any) -> Any:
        return {"event": event}


def post(event: Any = EVENT, secret: str = OLD, view: Any = Events, ago: int = 0, **headers: str) -> Any:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    sent = {"Webhook-Signature": signed(secret, body, int(time.time()) - ago)} | headers
    request = RequestFactory().post("/hook/", body, content_type="application/json", headers=sent)
    return view.as_view()(request)


def refused(response: Any) -> tuple[int, str]:
    assert not Job.objects.exists()
    return response.status_code, json.loads(response.content)["error"]


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_genuine_event_becomes_a_job_whichever_secret_has_signed_it(secret):
    response = post(secret=secret)

    assert (response.status_code, json.loads(response.content)) == (202, {"duplicate": False})
    job = Job.objects.get()
    assert (job.kwargs, job.dedupe_key, job.idempotency_key) == ({"n": 7}, *["webhook:mailer:evt_1"] * 2)


def test_the_signature_is_hmac_sha256_over_time_and_body():
    # openssl dgst -sha256 -hmac "a secret of enough length", of `1700000000.{"id":1}`
    expected = "6fefcee8a1401daa6ceeb7ce0a3eec78ea9d8d4b94dedecc15b21293ee5996ae"

    assert signed("a secret of enough length", b'{"id":1}', 1700000000) == f"t=1700000000,v1={expected}"


def test_one_signature_of_several_is_enough_while_secrets_are_rotated():
    body = json.dumps(EVENT).encode()
    moment = str(int(time.time()))
    both = f"t={moment},v1={signature(FOREIGN, moment, body)},v1={signature(NEW, moment, body)},v0=old"

    assert post(**{"Webhook-Signature": both}).status_code == 202


def test_an_event_that_is_sent_again_is_one_job():
    post()

    response = post(ago=5)

    assert (response.status_code, json.loads(response.content)) == (202, {"duplicate": True})
    assert Job.objects.count() == 1


def test_an_event_whose_effect_has_happened_makes_no_job_any_more():
    post()
    assert run_jobs() == 1

    response = post()

    assert (response.status_code, json.loads(response.content)) == (202, {"duplicate": True})
    assert Job.objects.count() == 1
    assert IdempotencyRecord.objects.count() == 1


def test_ids_of_two_sources_never_meet():
    class Others(Events):
        source = "shop"

    post()
    post(view=Others)

    assert Job.objects.count() == 2


def test_an_event_that_another_task_has_taken_is_not_called_taken():
    class Others(Events):
        task = tasks.take_whole_event

        def arguments(self, event: Any) -> Any:
            return {"event": event}

    post()

    with pytest.raises(ImproperlyConfigured, match=r"source 'mailer' is held by job \d+ of another task"):
        post(view=Others)
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("given", "problem"),
    [({"number": 7}, "does not fit the task: take_event"), ([7], "must return a dict or None, not list")],
)
def test_what_the_view_does_wrong_is_not_the_sender_s_fault(given, problem):
    class Wrong(Events):
        def arguments(self, event: Any) -> Any:
            return given

    with pytest.raises(ImproperlyConfigured, match=problem):
        post(view=Wrong)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": ""}, "needs a source: text of 1 to 50"),
        ({"source": "x" * 51}, "needs a source: text of 1 to 50"),
        ({"task": None}, "needs a task, made by @task, not None"),
        ({"task": len}, "needs a task, made by @task"),
        ({"secrets": [None]}, "a list of text"),
        ({"secrets": b"0123456789abcdef"}, "a list of text"),
        ({"secrets": "0123456789abcdef"}, "a list of text"),
        ({"secrets": ["short"]}, "at least 16 characters"),
        ({"tolerance": "300"}, "as tolerance a number above 0, not '300'"),
        ({"max_body": 0}, "as max_body a number above 0"),
    ],
)
def test_a_view_that_can_never_work_is_refused_when_the_urls_are_loaded(change, problem):
    with pytest.raises(ImproperlyConfigured, match=f"Events.*{problem}"):
        Events.as_view(**change)


def test_answers_are_counted_by_source_and_status():
    before = Counter(answers.counts())
    post()
    post(secret=FOREIGN)
    post(EVENT | {"type": "opened"})

    with pytest.raises(ImproperlyConfigured):
        post(view=type("Wrong", (Events,), {"arguments": lambda self, event: [7]}))

    found = Counter(answers.counts()) - before
    assert found == {("mailer", 202): 1, ("mailer", 401): 1, ("mailer", 204): 1, ("mailer", 500): 1}
    families = {family.name: family for family in DatabaseCollector().collect()}
    assert {"source", "status", "process"} == set(families["jobs_webhooks"].samples[0].labels)


def test_an_event_that_nobody_wants_is_answered_and_makes_no_job():
    assert post(EVENT | {"type": "opened"}).status_code == 204
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "header",
    ["", "t=1", "v1=abc", "nonsense", "t=1,t=2,v1=abc", "t=,v1=", "=,=,=", "t=1,v1=" + "x" * 3000, "t=1,v1=\u00e9"],
)
def test_a_header_that_is_malformed_is_refused(header):
    assert refused(post(**{"Webhook-Signature": header}))[0] in (400, 401)


def test_a_signature_of_somebody_else_is_refused():
    assert refused(post(secret=FOREIGN)) == (401, "no signature fits")


@pytest.mark.parametrize("ago", [301, -310, 10**9, -(10**9)])
def test_a_request_that_is_replayed_later_is_refused(ago):
    assert refused(post(ago=ago)) == (400, "the request is too old, or from the future")


@pytest.mark.parametrize("ago", [290, -290])
def test_clocks_may_differ_a_little(ago):
    assert post(ago=ago).status_code == 202


@pytest.mark.parametrize("moment", ["nan", "1e9", "-5", "\u0661\u0667", "9" * 400, " 1"])
def test_a_time_that_is_none_is_refused_although_it_is_signed(moment):
    body = json.dumps(EVENT).encode()

    assert refused(post(**{"Webhook-Signature": f"t={moment},v1={signature(OLD, moment, body)}"}))[0] in (400, 401)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "JSON object"),
        (b"{}", "no id"),
        (b'{"id": null}', "no id"),
        (b'{"id": true}', "no id"),
        (b'{"id": ""}', "no id"),
        (b'{"id": ["evt"]}', "no id"),
        (b'{"id": "' + b"x" * 151 + b'"}', "no id"),
        (b'{"id": "a\\u0000b"}', "no id"),
        (b'{"id": "a\\ud800b"}', "no id"),
        (b'{"id": "a", "n": "seven"}', "the event cannot be taken"),
    ],
)
def test_a_genuine_request_with_a_useless_body_is_refused_with_what_is_wrong(body, why):
    status, said = refused(post(body))

    assert status == 400
    assert why in said


def test_what_the_task_says_of_an_event_is_for_the_log_and_not_for_the_sender(caplog):
    _, said = refused(post(b'{"id": "a", "n": "seven"}'))

    assert "int" not in said
    [record] = [record for record in caplog.records if record.message == "webhook not taken"]
    assert "n takes int, not str" in record.why


def test_an_id_is_text_and_never_a_format_string():
    assert post(EVENT | {"id": "{n.__class__}{0}{"}).status_code == 202

    assert Job.objects.get().dedupe_key == "webhook:mailer:{n.__class__}{0}{"


def test_a_body_that_is_too_large_is_refused_before_it_is_read():
    class Small(Events):
        max_body = 100

    assert refused(post(EVENT | {"n": 1, "text": "x" * 100}, view=Small))[0] == 413


def test_what_django_itself_finds_too_large_is_refused_alike(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 50

    assert refused(post(EVENT | {"text": "x" * 100}))[0] == 413


def test_a_secret_in_an_event_is_refused_and_not_repeated():
    key = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"

    _, said = refused(post(EVENT | {"note": key}, view=Raw))

    assert key not in said


def test_a_task_that_refuses_duplicates_has_the_event_all_the_same():
    class Strict(Events):
        task = tasks.take_event.using(on_duplicate="raise")

    post(view=Strict)
    response = post(view=Strict)

    assert (response.status_code, json.loads(response.content)) == (202, {"duplicate": True})


def test_other_methods_are_refused():
    response = Events.as_view()(RequestFactory().get("/hook/"))

    assert response.status_code == 405


@pytest.mark.parametrize("change", [{"secrets": ()}, {"secrets": ("short",)}, {"secrets": (OLD, "")}, {"source": ""}])
def test_a_view_without_secrets_takes_nothing(change):
    with pytest.raises(ImproperlyConfigured, match="Events"):
        post(view=type("Events", (Events,), change))

    assert not Job.objects.exists()


def test_a_full_queue_is_503_and_says_when_to_come_back(monkeypatch):
    def full(*args: Any, **kwargs: Any) -> None:
        raise QueueFull("default", 1000, 2.6)

    monkeypatch.setattr("jobs.enqueue.add", full)

    response = post()

    assert (response.status_code, response["Retry-After"]) == (503, "3")


@pytest.mark.django_db(transaction=True)
def test_an_event_that_arrives_ten_times_at_once_is_one_job():
    found = at_once(*[post] * 10)

    assert {response.status_code for response in found} == {202}
    assert Job.objects.count() == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), byte=st.integers(1, 255), where=st.sampled_from(["body", "time", "signature"]))
def test_whatever_is_changed_on_the_way_is_refused(place, byte, where):
    body = json.dumps(EVENT).encode()
    moment = int(time.time())
    header = signed(OLD, body, moment)
    if where == "body":
        body = changed(body, place, byte)
    elif where == "time":
        header = header.replace(str(moment), str(moment + 1 + place % 200), 1)
    else:
        head, _, given_signature = header.rpartition("=")
        header = f"{head}={changed(given_signature.encode(), place, 1 + byte % 3).decode('latin-1')}"

    response = post(body, **{"Webhook-Signature": header})

    assert response.status_code in (400, 401)
    assert not Job.objects.exists()


def changed(data: bytes, place: int, byte: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ byte]) + data[place + 1 :]
