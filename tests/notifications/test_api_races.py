"""Requests at the same time with one Idempotency-Key: one e-mail, and everybody gets its answer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from django.test import Client

from jobs.models import Job
from notifications import api
from notifications.models import Email
from tests.notifications.test_api import KEY, WELCOME, post

pytestmark = pytest.mark.django_db(transaction=True)


def race(*bodies):
    """Send all bodies at once; each request has looked for a first answer before any of them writes."""
    barrier = threading.Barrier(len(bodies))
    looked = threading.local()
    answered = api.answered

    def look_together(mine):
        found = answered(mine)
        if not getattr(looked, "before", False):
            looked.before = True
            barrier.wait(10)
        return found

    def send(body):
        try:
            return post(Client(), body, headers=KEY)
        finally:
            connections.close_all()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(bodies)) as pool:
        patch.setattr(api, "answered", look_together)
        return list(pool.map(send, bodies))


def test_the_same_body_gets_one_answer():
    responses = race(WELCOME, WELCOME, WELCOME, WELCOME)

    assert [response.status_code for response in responses] == [202] * 4
    assert len({response.json()["delivery_id"] for response in responses}) == 1
    assert Email.objects.count() == Job.objects.count() == 1


def test_of_two_bodies_one_is_a_conflict():
    responses = race(WELCOME, WELCOME | {"address": "eve@example.com"})

    assert sorted(response.status_code for response in responses) == [202, 409]
    assert Email.objects.count() == Job.objects.count() == 1
