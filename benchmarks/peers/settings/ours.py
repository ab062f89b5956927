"""This project's own settings, its connections kept open like those of its peers."""

from benchmarks.settings import *  # noqa: F403
from benchmarks.settings import DATABASES, INSTALLED_APPS

DATABASES["default"] |= {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": False}
INSTALLED_APPS = [*INSTALLED_APPS, "benchmarks.peers.effects"]
