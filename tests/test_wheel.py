"""What a project gets that installs the wheel and nothing else of this repository."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from django.conf import settings

pytestmark = pytest.mark.any_database

SETTINGS = """
import django

SECRET_KEY = "only-for-this-test"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
    }
}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "jobs"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
TASKS = {"default": {"BACKEND": "jobs.backend.JobsBackend"}}
USE_TZ = True
"""

WITH_NOTIFICATIONS = """
from settings import *

INSTALLED_APPS += ["notifications"]
TASKS = {"default": {"BACKEND": "jobs.backend.JobsBackend", "QUEUES": ["default", "email"]}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
"""

TASKS = """
from jobs import task


@task()
def add(first, second):
    return first + second
"""

ENQUEUE = "from tasks import add; print(add.enqueue(40, 2).id)"
SHOW = "from jobs.models import Job; print(*Job.objects.values_list('state', 'return_value'))"


def run(*command, cwd, **environ):
    """Run a command with none of our environment, and return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name in KEPT}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=inherited | environ, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


KEPT = {"PATH", "HOME", "LANG", "TMPDIR"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("jobs", "notifications", "templates"):
        shutil.copytree(settings.BASE_DIR / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(settings.BASE_DIR / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    run(*pip, cwd=source)
    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an empty venv into which only the wheel was installed."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv, cwd=venv)
    # The versions that the other tests use; the names come from the wheel alone.
    constraints = settings.BASE_DIR / "requirements.txt"
    run(venv / "bin" / "pip", "install", "--no-input", "--constraint", constraints, wheel, cwd=venv)
    return venv / "bin" / "python"


@pytest.fixture
def project(tmp_path):
    """The smallest project that uses jobs."""
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "with_notifications.py").write_text(WITH_NOTIFICATIONS)
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def sources(name: str) -> set[str]:
    """The files of a package that users need, as they should stand in the wheel."""
    root = settings.BASE_DIR / name
    return {
        str(Path(name) / path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_both_apps(wheel):
    mails = {f"notifications/{path}" for path in sources("templates/notifications")}

    held = set(zipfile.ZipFile(wheel).namelist())

    assert sources("jobs") | sources("notifications") | mails == {
        name for name in held if name.startswith(("jobs/", "notifications/"))
    }


def test_a_project_with_only_the_wheel_runs_a_job(python, project):
    def manage(*args):
        return run(python, "-m", "django", *args, cwd=project, DJANGO_SETTINGS_MODULE="settings", PYTHONPATH=".")

    manage("migrate", "--verbosity", "0")
    manage("shell", "--command", ENQUEUE)
    manage("runworker", "--drain")

    assert manage("shell", "--verbosity", "0", "--command", SHOW).strip() == "('succeeded', 42)"


def test_a_worker_says_in_a_project_without_logging_what_became_of_a_job(python, project):
    def manage(*args):
        return subprocess.run(
            [str(python), "-m", "django", *args],
            cwd=project,
            env={"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            timeout=60,
        )

    unmigrated = manage("runworker", "--drain")
    manage("migrate", "--verbosity", "0")
    manage("shell", "--command", "from tasks import add; add.using(max_attempts=1).enqueue(40, [])")
    ran = manage("runworker", "--drain")
    misspelt = manage("runworker", "--queue", "defautl")

    assert (unmigrated.returncode, "manage.py migrate" in unmigrated.stderr) == (1, True)
    assert re.search(r"jobs: attempt settled .*job_id=1 task=tasks.add .*state=dead .*unsupported operand", ran.stderr)
    assert "worker ready" in ran.stderr
    assert (misspelt.returncode, "Did you mean 'default'?" in misspelt.stderr) == (1, True)


def test_the_wheel_brings_the_mail_templates(python, project):
    environ = {"DJANGO_SETTINGS_MODULE": "with_notifications", "PYTHONPATH": "."}

    checked = run(python, "-m", "django", "check", "--fail-level", "WARNING", cwd=project, **environ)

    assert "no issues" in checked
