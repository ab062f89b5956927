"""Fixtures for every test.

`DATABASE_URL` selects the database; both runs need what requirements-dev.txt lists:

    python -m pytest                                         on SQLite: a file in a temporary directory
    python -m tests.postgresql python -m pytest              on a PostgreSQL started for this command
    DATABASE_URL=postgres://... python -m pytest             on your own, with the right to create databases

`make test` does the first two side by side, after the linter, the type checker and Django's checks.

Directories with tests are packages (they have an `__init__.py`), so that `tests.jobs` and `jobs` never mix.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from tests.smtp_server import SMTPServer, running_smtp_server

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory):
    """Settle what the test process needs of its database; worker processes keep the project's own settings."""
    default = connections["default"]
    # A thread of the live server must not keep the database from being dropped.
    default.settings_dict["CONN_MAX_AGE"] = 0
    if default.vendor == "sqlite":
        # Django's default, in memory, could not be opened by worker processes.
        default.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def vendor() -> str:
    """The database under test: `sqlite` or `postgresql`."""
    return connections["default"].vendor


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Wait for a condition: `eventually(lambda: Job.objects.filter(...).exists(), within=5.0)`."""
    return wait_until


@pytest.fixture
def smtp_server() -> Iterator[SMTPServer]:
    """A real SMTP server on the loopback: see `SMTPServer` for what it can be told."""
    with running_smtp_server() as server:
        yield server


@pytest.fixture(scope="session")
def executable() -> Callable[[str], str]:
    """Find a program of this machine, `executable("promtool")`; a test that needs a missing one is skipped by name."""

    def find(name: str) -> str:
        if path := shutil.which(name):
            return path
        reason = f"{name} is not installed"
        if os.environ.get("JOBS_REQUIRE_ALL"):
            pytest.fail(f"{reason}, and JOBS_REQUIRE_ALL is set")
        pytest.skip(reason)

    return find


@pytest.fixture
def browser(executable, monkeypatch):
    """A page of the system's Chromium, without cookies and cache."""
    path = executable("chromium")
    from playwright.sync_api import sync_playwright

    # As long as Playwright runs it keeps an event loop in this thread, and Django would refuse the test's queries.
    # So it is started for one test at a time.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=CHROMIUM_FLAGS)
        page = chromium.new_page()
        page.set_default_timeout(10_000)
        yield page
        chromium.close()
        # Beside that event loop Django opened other connections than the test case closes.
        connections.close_all()


def wait_until(condition: Callable[[], Any], within: float = 5.0) -> Any:
    """Return the first true value of the condition.

    Units: `within` in seconds.
    Raises: AssertionError with the last value, or caused by the last AssertionError, when the time is over.
    """
    deadline = time.monotonic() + within
    while True:
        value, failure = None, None
        try:
            if value := condition():
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within:g} seconds, last value: {value!r}") from failure
        time.sleep(0.02)
