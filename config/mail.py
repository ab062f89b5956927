"""From EMAIL_URL to Django's settings: `MAILERS` from Django 6.1 on, the `EMAIL_*` settings before."""

from typing import Any

import django

FIELDS = {
    "smtp": {
        "host": "EMAIL_HOST",
        "port": "EMAIL_PORT",
        "username": "EMAIL_HOST_USER",
        "password": "EMAIL_HOST_PASSWORD",
        "use_tls": "EMAIL_USE_TLS",
        "use_ssl": "EMAIL_USE_SSL",
        "timeout": "EMAIL_TIMEOUT",
    },
    "file": {"file_path": "EMAIL_FILE_PATH"},
}


def mail_settings(url_config: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
    """Return the settings for what `environ.Env.email_url()` read.

    Units: `timeout_seconds` bounds each step of the SMTP dialogue; without it a dead server holds a worker for ever.
    """
    given = url_config | {"EMAIL_TIMEOUT": timeout_seconds}
    if django.VERSION < (6, 1):
        return {name: value for name, value in given.items() if name.startswith("EMAIL_") and value is not None}

    kind = "file" if given["EMAIL_FILE_PATH"] else "smtp" if given["EMAIL_HOST"] else "none"
    options = {
        option: given[setting] for option, setting in FIELDS.get(kind, {}).items() if given.get(setting) is not None
    }
    return {"MAILERS": {"default": {"BACKEND": given["EMAIL_BACKEND"], "OPTIONS": options}}}
