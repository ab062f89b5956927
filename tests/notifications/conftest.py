"""Fixtures for the tests of the e-mail application."""

from collections.abc import Callable
from typing import Any

import environ
import pytest
from django.contrib.auth import get_user_model

from config.mail import mail_settings
from jobs.models import Job
from notifications.models import Email
from tests.smtp_server import SMTPServer

TOKEN = "a-token-only-for-these-tests"


@pytest.fixture
def ada(db):
    return get_user_model().objects.create_user("ada", "ada@example.com", "correct horse", first_name="Ada")


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """Change keys of the NOTIFICATIONS setting: `configure(MAX_BODY=10)`."""

    def change(**keys: Any) -> None:
        settings.NOTIFICATIONS = {**settings.NOTIFICATIONS, **keys}

    return change


@pytest.fixture(autouse=True)
def notification_settings(configure):
    configure(SITE_URL="https://example.com", API_TOKENS={"shop": TOKEN})


@pytest.fixture
def mail_goes_to(settings: Any) -> Callable[[str], None]:
    """Point the project's mail, as EMAIL_URL does: `mail_goes_to("smtp://127.0.0.1:2525")`."""

    def point(url: str) -> None:
        config = environ.Env.email_url_config(url)
        for name, value in mail_settings(config, timeout_seconds=5).items():
            setattr(settings, name, value)

    return point


@pytest.fixture
def smtp(smtp_server: SMTPServer, mail_goes_to: Callable[[str], None]) -> SMTPServer:
    """A real mail server, to which the project's mail goes."""
    mail_goes_to(smtp_server.url)
    return smtp_server


def reloaded(email: Email) -> Email:
    return Email.objects.select_related("job").get(pk=email.pk)


def job_of(email: Email) -> Job:
    job = reloaded(email).job
    assert job is not None
    return job
