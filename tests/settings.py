"""The project's settings, as the tests and the worker processes that they start see them.

The environment decides the rest: DATABASE_URL names the database, EMAIL_URL where the mail of a worker process goes.
"""

import os

# A developer's own .env must not leak into a test run.
os.environ["ENV_FILE"] = os.devnull
os.environ.setdefault("SECRET_KEY", "only-for-tests-" * 5)
os.environ.setdefault("HTTPS", "off")

from config.settings import *  # noqa: F403

# Real password hashing is slow on purpose.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
