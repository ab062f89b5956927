"""The settings, as a fresh process reads them from its environment."""

import json
import os
import subprocess
import sys

import django
import pytest
from django.conf import settings

pytestmark = pytest.mark.any_database

PRODUCTION = {
    "ENV_FILE": os.devnull,
    "SECRET_KEY": "z9$Kq2!mT7vW4xY8bN3cR6fH1jL5pS0dG-aE_uI.oZ~wQ^eX*rC",
    "ALLOWED_HOSTS": "example.com",
}


@pytest.fixture
def manage(tmp_path):
    """Run `manage.py` in a given environment and nothing else of ours."""

    def run(*args, **environ):
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning", "manage.py", *args],
            cwd=settings.BASE_DIR,
            env=inherited | {"VAR_DIR": str(tmp_path / "var")} | environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def setting(manage):
    """Read one setting from a fresh process, through JSON."""

    def read(name, **environ):
        code = f"import json; from django.conf import settings; print(json.dumps(settings.{name}, default=str))"
        shown = manage("shell", "--verbosity", "0", "--no-imports", "--command", code, **PRODUCTION | environ)
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)

    return read


def test_a_missing_secret_key_is_an_error_that_says_what_to_do(manage):
    result = manage("check", ENV_FILE=os.devnull)

    assert result.returncode != 0
    assert "ImproperlyConfigured: SECRET_KEY is not set" in result.stderr
    assert "secrets.token_urlsafe" in result.stderr


def test_debug_runs_without_a_secret_key(manage):
    result = manage("check", ENV_FILE=os.devnull, DEBUG="on")

    assert result.returncode == 0, result.stderr


def test_debug_is_off_by_default(setting):
    assert setting("DEBUG") is False


def test_production_settings_pass_the_deployment_checks(manage):
    result = manage("check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)

    assert result.returncode == 0, result.stderr
    assert "no issues (0 silenced)" in result.stdout


def test_an_env_file_fills_what_the_environment_leaves_out(setting, tmp_path):
    path = tmp_path / "env"
    path.write_text("TIME_ZONE=Europe/Vienna\nALLOWED_HOSTS=from-the-file\n")

    assert setting("TIME_ZONE", ENV_FILE=str(path)) == "Europe/Vienna"
    assert setting("ALLOWED_HOSTS", ENV_FILE=str(path)) == ["example.com"]


def test_every_variable_is_in_the_example():
    code = (settings.BASE_DIR / "config" / "settings.py").read_text()
    example = (settings.BASE_DIR / ".env.example").read_text()
    read = {part.partition('"')[0] for part in code.split("env.")[1:] for part in part.partition('("')[2:]}

    missing = {name for name in read if name.isupper() and f"{name}=" not in example}

    assert missing == {"ENV_FILE"}


def test_the_default_database_is_a_durable_sqlite_file(manage, tmp_path):
    code = (
        "from django.db import connection as c\n"
        "with c.cursor() as cursor:\n"
        "    for name in ('journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout'):\n"
        "        print(name, cursor.execute(f'PRAGMA {name}').fetchone()[0])\n"
        "print(c.transaction_mode, c.settings_dict['NAME'])"
    )

    shown = manage("shell", "--verbosity", "0", "--no-imports", "--command", code, **PRODUCTION)

    assert shown.stdout.splitlines() == [
        "journal_mode wal",
        "synchronous 2",
        "foreign_keys 1",
        "busy_timeout 20000",
        f"IMMEDIATE {tmp_path}/var/db.sqlite3",
    ]


def test_postgresql_connections_are_kept_and_notice_a_vanished_server(setting):
    database = setting("DATABASES", DATABASE_URL="postgres://ada:secret@db.example.com:5433/jobs?sslmode=require")

    assert database["default"]["CONN_MAX_AGE"] == 60
    assert database["default"]["CONN_HEALTH_CHECKS"] is True
    assert database["default"]["OPTIONS"]["sslmode"] == "require"
    assert database["default"]["OPTIONS"]["tcp_user_timeout"] == 60_000


def mail(setting, url):
    """Return what sending mail depends on, under the names of Django's `MAILERS`."""
    if django.VERSION >= (6, 1):
        mailer = setting("MAILERS", EMAIL_URL=url)["default"]
        return {"backend": mailer["BACKEND"]} | mailer["OPTIONS"]
    names = {"backend": "BACKEND", "host": "HOST", "port": "PORT", "username": "HOST_USER", "password": "HOST_PASSWORD"}
    names |= {"use_tls": "USE_TLS", "timeout": "TIMEOUT"}
    return {option: setting(f"EMAIL_{name}", EMAIL_URL=url) for option, name in names.items()}


def test_mail_goes_where_email_url_says_and_never_waits_for_ever(setting):
    assert mail(setting, "smtp+tls://ada:s%40cret@mail.example.com:587") == {
        "backend": "django.core.mail.backends.smtp.EmailBackend",
        "host": "mail.example.com",
        "port": 587,
        "username": "ada",
        "password": "s@cret",
        "use_tls": True,
        "timeout": 10,
    }
