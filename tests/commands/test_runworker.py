"""What `runworker` refuses before it starts anything."""

import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import override_settings

from jobs.compat import ROOT

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("tasks", [{}, {"default": {"BACKEND": f"{ROOT}.backends.immediate.ImmediateBackend"}}])
def test_a_project_without_our_backend_gets_no_worker(tasks):
    with override_settings(TASKS=tasks), pytest.raises(CommandError, match=r"No backend in TASKS is jobs\.backend"):
        call_command("runworker")


def test_a_lease_of_nothing_is_refused_by_its_name():
    with pytest.raises(CommandError, match="--lease must be longer"):
        call_command("runworker", "--lease", "0")


@pytest.mark.any_database
def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    environ = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}

    done = subprocess.run(
        [sys.executable, "manage.py", "jobs", "doctor"],
        cwd=settings.BASE_DIR,
        env=environ,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )

    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")
