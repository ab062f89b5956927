"""The project's settings for benchmarks: DATABASE_URL names the database, everything else is as shipped."""

import os

os.environ["ENV_FILE"] = os.devnull
os.environ.setdefault("SECRET_KEY", "only-for-benchmarks-" * 3)
os.environ.setdefault("HTTPS", "off")

from config.settings import *  # noqa: F403
