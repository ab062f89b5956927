"""A project on Procrastinate, through its Django integration."""

from . import *  # noqa: F403
from . import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "procrastinate.contrib.django"]
PROCRASTINATE_ON_APP_READY = "benchmarks.peers.procrastinate_tasks.register"
