"""From an HTTP request over a real worker to a real mail server, and what is left when the worker is killed."""

import json
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import pytest
from django.db.models import F
from django.utils import timezone

from jobs import lifecycle
from jobs.models import Attempt, DeadLetter, Job, Queue
from jobs.states import Reason
from notifications.models import Email
from tests.acceptance.worker_tree import WorkerTree
from tests.smtp_server import SMTPServer

TOKEN = "a-token-only-for-these-tests"
LEASE_SECONDS = 3

pytestmark = pytest.mark.django_db(transaction=True)


class Site:
    """The web side, as a program elsewhere sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def send(self, address: str, template_id: str = "welcome", **references: str) -> dict[str, Any]:
        return self.ask(
            "/notifications/emails/", {"template_id": template_id, "address": address, "references": references}
        )

    def look(self, accepted: dict[str, Any]) -> dict[str, Any]:
        return self.ask(accepted["status_url"])

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(urljoin(self.url, path), data, headers), timeout=10) as response:
            found: dict[str, Any] = json.load(response)
            return found


@pytest.fixture
def site(live_server: Any, settings: Any) -> Site:
    settings.NOTIFICATIONS = {**settings.NOTIFICATIONS, "API_TOKENS": {"tests": TOKEN}}
    return Site(live_server.url)


@pytest.fixture
def mail_worker(worker: Callable[..., WorkerTree], smtp_server: SMTPServer) -> Callable[[], WorkerTree]:
    """Start a worker whose mail goes to the test's server: one process, so that a killed one is the one that sent."""

    def start() -> WorkerTree:
        arguments = ("--processes", "1", "--threads", "2", "--lease", str(LEASE_SECONDS))
        return worker(*arguments, EMAIL_URL=smtp_server.url).wait_ready()

    return start


def hurry() -> None:
    """Make waiting retries due now."""
    Job.objects.scheduled().update(run_after=timezone.now())


def the_state(accepted: dict[str, Any]) -> str:
    return Email.objects.get(pk=accepted["delivery_id"]).state


def are_sent(*accepted: dict[str, Any]) -> bool:
    hurry()
    return all(the_state(each) == "sent" for each in accepted)


def letter_of(accepted: dict[str, Any]) -> DeadLetter | None:
    """Return the dead letter of a mail's job; the mail says what it knows a moment before its job is dead."""
    return DeadLetter.objects.filter(job=accepted["job_id"]).order_by("-pk").first()


def test_an_http_request_becomes_a_mail(site, mail_worker, smtp_server, eventually):
    mail_worker()

    accepted = site.send("ada@example.com")

    eventually(lambda: site.look(accepted)["state"] == "sent", within=10)
    (delivery,) = smtp_server.accepted
    assert delivery.recipients == ["ada@example.com"]
    assert delivery.message["Subject"] == "Welcome"
    assert delivery.message["Message-ID"] == Email.objects.get().message_id
    assert site.look(accepted)["attempts"] == 1


def test_of_a_normal_a_flaky_and_a_poison_mail_two_are_sent(site, mail_worker, smtp_server, eventually):
    smtp_server.answer("flaky@example.com", "451 4.3.0 try again", times=1)
    smtp_server.answer("poison@example.com", "451 4.3.0 never")
    mail_worker()

    normal, flaky, poison = (site.send(f"{name}@example.com") for name in ("normal", "flaky", "poison"))

    def all_ended():
        hurry()
        return [the_state(accepted) for accepted in (normal, flaky, poison)] == ["sent", "sent", "failed"]

    eventually(all_ended, within=20)
    assert [site.look(accepted)["attempts"] for accepted in (normal, flaky, poison)] == [1, 2, 3]
    letter = letter_of(poison)
    assert letter is not None
    assert letter.reason == Reason.ATTEMPTS_EXHAUSTED
    assert "451 4.3.0 never" in letter.message
    assert Attempt.objects.filter(job=poison["job_id"]).count() == 3
    assert len(smtp_server.accepted) == 2

    del smtp_server.answers["poison@example.com"]
    assert lifecycle.replay([letter], by="test").done
    eventually(lambda: site.look(poison)["state"] == "sent", within=10)


def test_a_killed_child_in_the_dialogue_leaves_the_mail_for_a_person(site, mail_worker, smtp_server, eventually):
    smtp_server.hold()
    tree = mail_worker()
    accepted = site.send("ada@example.com")
    assert smtp_server.in_data.wait(10)

    (child,) = tree.children()
    child.send_signal(signal.SIGKILL)
    smtp_server.go_on()

    letter = eventually(lambda: letter_of(accepted), within=5)
    assert letter.reason == Reason.UNCERTAIN
    assert site.look(accepted)["state"] == "unknown"
    assert len(smtp_server.deliveries) == 1

    later = site.send("bob@example.com")
    eventually(lambda: site.look(later)["state"] == "sent", within=10)


@pytest.mark.parametrize(("happened", "deliveries"), [(True, 1), (False, 2)])
def test_a_killed_tree_in_the_dialogue_sends_no_mail_twice(
    site, mail_worker, smtp_server, eventually, happened, deliveries
):
    smtp_server.hold()
    tree = mail_worker()
    accepted = site.send("ada@example.com")
    assert smtp_server.in_data.wait(10)

    tree.kill_tree()
    smtp_server.go_on()
    mail_worker()

    letter = eventually(lambda: letter_of(accepted), within=LEASE_SECONDS + 5)
    assert letter.reason == Reason.UNCERTAIN
    assert site.look(accepted)["state"] == "unknown"
    assert len(smtp_server.deliveries) == 1

    assert lifecycle.replay([letter], by="test", happened=happened).done
    eventually(lambda: site.look(accepted)["state"] == "sent", within=10)
    assert len(smtp_server.deliveries) == deliveries


def test_a_frozen_worker_that_wakes_up_in_the_dialogue_changes_nothing(site, mail_worker, smtp_server, eventually):
    smtp_server.hold()
    frozen = mail_worker()
    accepted = site.send("ada@example.com")
    assert smtp_server.in_data.wait(10)

    frozen.pause()
    mail_worker()
    letter = eventually(lambda: letter_of(accepted), within=LEASE_SECONDS + 10)
    assert site.look(accepted)["state"] == "unknown"
    smtp_server.go_on()
    frozen.resume()

    eventually(lambda: "lease lost" in frozen.log(), within=10)
    assert Job.objects.get(pk=accepted["job_id"]).state == "dead"
    assert lifecycle.replay([letter], by="test", happened=True).done
    eventually(lambda: site.look(accepted)["state"] == "sent", within=10)
    assert len(smtp_server.deliveries) == 1


def test_a_connection_lost_after_the_data_is_for_a_person(site, mail_worker, smtp_server, eventually):
    smtp_server.drop_after_data()
    mail_worker()

    accepted = site.send("ada@example.com")

    letter = eventually(lambda: letter_of(accepted), within=10)
    assert letter.reason == Reason.UNCERTAIN
    assert site.look(accepted)["state"] == "unknown"
    assert len(smtp_server.deliveries) == 1


def test_sigterm_in_the_dialogue_ends_it_first(site, mail_worker, smtp_server, eventually):
    smtp_server.hold()
    tree = mail_worker()
    accepted = site.send("ada@example.com")
    assert smtp_server.in_data.wait(10)

    tree.terminate()
    eventually(lambda: "worker stopping" in tree.log(), within=5)
    smtp_server.go_on()

    assert tree.exit_code() == 0
    assert site.look(accepted)["state"] == "sent"
    assert Job.objects.get(pk=accepted["job_id"]).attempts == 1
    assert len(smtp_server.deliveries) == 1


def test_a_wrong_configuration_holds_every_mail_until_somebody_resumes(site, mail_worker, smtp_server, eventually):
    smtp_server.answer("ada@example.com", "530 5.7.0 Authentication required")
    mail_worker()
    held = site.send("ada@example.com")
    eventually(lambda: Queue.objects.filter(name="email", paused=True).exists(), within=10)
    waiting = site.send("bob@example.com")
    eventually(lambda: the_state(held) == "deferred", within=5)

    del smtp_server.answers["ada@example.com"]
    lifecycle.resume("email")

    eventually(lambda: are_sent(held, waiting), within=10)
    # The mail is sent a moment before its job's outcome is written.
    eventually(lambda: Job.objects.get(pk=held["job_id"]).attempts == 1)
    assert not DeadLetter.objects.exists()


def test_mail_goes_on_by_itself_once_a_wrong_configuration_is_mended(site, mail_worker, smtp_server, eventually):
    smtp_server.answer("ada@example.com", "530 5.7.0 Authentication required")
    mail_worker()
    held = site.send("ada@example.com")
    eventually(lambda: Queue.objects.filter(name="email", paused=True).exists(), within=10)
    waiting = site.send("bob@example.com")

    del smtp_server.answers["ada@example.com"]
    # A minute passes.
    Queue.objects.filter(name="email").update(probe_at=F("probe_at") - timedelta(minutes=1))

    eventually(lambda: are_sent(held, waiting), within=15)
    assert not Queue.objects.get(name="email").paused
    assert not DeadLetter.objects.exists()


def test_no_mail_of_many_is_sent_twice_when_a_child_is_killed(site, worker, smtp_server, eventually):
    smtp_server.hold()
    arguments = ("--processes", "2", "--threads", "2", "--lease", str(LEASE_SECONDS))
    tree = worker(*arguments, EMAIL_URL=smtp_server.url).wait_ready()
    addresses = [f"user{number}@example.com" for number in range(40)]
    for address in addresses:
        site.send(address)
    eventually(lambda: len(smtp_server.deliveries) == 4, within=10)

    tree.children()[0].send_signal(signal.SIGKILL)
    smtp_server.go_on()

    eventually(lambda: not Job.objects.exclude(state__in=["succeeded", "dead"]).exists(), within=LEASE_SECONDS + 15)
    assert all(len(smtp_server.to(address)) <= 1 for address in addresses)
    assert set(DeadLetter.objects.values_list("reason", flat=True)) == {Reason.UNCERTAIN}
    unknown = DeadLetter.objects.count()
    assert 1 <= unknown <= 2
    assert Email.objects.filter(state="unknown").count() == unknown
    assert Email.objects.filter(state="sent").count() == len(addresses) - unknown
