"""Tells sleeping workers of new work: after commit, at most once per queue and 20 ms of this process."""

import time

from django.db import transaction

from .storage import storage

# A woken worker keeps looking for twice this long, so what the window swallows is found at once all the same.
WINDOW_SECONDS = 0.020

last_sent: dict[str, float] = {}


def wake(queue_name: str) -> None:
    """Notify workers once the caller's transaction has committed. A failure is logged: polling finds the job."""

    # A function and no partial: Django 5.2 logs a failed hook by its `__qualname__`, and fails itself without one.
    def after_commit() -> None:
        send(queue_name)

    transaction.on_commit(after_commit, using=storage().alias, robust=True)


def send(queue_name: str) -> None:
    if is_due(queue_name):
        storage().notify(queue_name)


def is_due(queue_name: str) -> bool:
    """Say whether workers are to be told now; from then on they have been, for as long as the window lasts."""
    now = time.monotonic()
    if now - last_sent.get(queue_name, -WINDOW_SECONDS) < WINDOW_SECONDS:
        return False
    last_sent[queue_name] = now
    return True
