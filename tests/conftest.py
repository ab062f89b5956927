"""Fixtures for every test.

`DATABASE_URL` selects the database; both runs need what requirements-dev.txt lists:

    python -m pytest                                         on SQLite: a file in a temporary directory
    python -m tests.postgresql python -m pytest              on a PostgreSQL started for this command
    DATABASE_URL=postgres://... python -m pytest             on your own, with the right to create databases

`make test` does the first two side by side, after the linter, the type checker and Django's checks.

Directories with tests are packages (they have an `__init__.py`), so that `tests.jobs` and `jobs` never mix.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory):
    """Put SQLite's test database into a file: the default, in memory, could not be opened by worker processes."""
    default = connections["default"]
    if default.vendor == "sqlite":
        default.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def vendor() -> str:
    """The database under test: `sqlite` or `postgresql`."""
    return connections["default"].vendor


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Wait for a condition: `eventually(lambda: Job.objects.filter(...).exists(), within=5.0)`."""
    return wait_until


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
