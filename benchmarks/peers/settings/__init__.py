"""What the Django projects of all systems have in common; `settings/NAME.py` adds the system."""

import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def database() -> dict[str, Any]:
    """DATABASE_URL with connections that stay open, which no system here works well without."""
    url = urlsplit(os.environ["DATABASE_URL"])
    query = dict(parse_qsl(url.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.lstrip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": query.pop("host", url.hostname or ""),
        "PORT": str(url.port or ""),
        "CONN_MAX_AGE": None,
        "OPTIONS": query,
    }


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["benchmarks.peers.effects"]
SECRET_KEY = "only-for-benchmarks-" * 3
USE_TZ = True
