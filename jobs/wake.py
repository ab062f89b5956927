"""Tells sleeping workers of new work: after commit, at most once per queue and 20 ms of this process."""

import time

from django.db import transaction

from .storage import storage

# A woken worker keeps looking for twice this long, so what the window swallows is found at once all the same.
WINDOW_SECONDS = 0.020
LATE_SECONDS = 1.5 * WINDOW_SECONDS

last_sent: dict[str, float] = {}


def wake(queue_name: str) -> None:
    """Notify workers once the caller's transaction has committed. A failure is logged: polling finds the job."""

    # A function and no partial: Django 5.2 logs a failed hook by its `__qualname__`, and fails itself without one.
    def after_commit() -> None:
        send(queue_name)

    transaction.on_commit(after_commit, using=storage().alias, robust=True)


def send(queue_name: str) -> None:
    if is_due(queue_name):
        try:
            storage().notify(queue_name)
        except BaseException:
            not_told(queue_name)
            raise


def is_due(queue_name: str) -> bool:
    """Say whether workers are to be told now; from then on they have been, for as long as the window lasts."""
    now = time.monotonic()
    if now - last_sent.get(queue_name, -WINDOW_SECONDS) < WINDOW_SECONDS:
        return False
    last_sent[queue_name] = now
    return True


def not_told(queue_name: str) -> None:
    """Take back that workers have been told: the commit that was to carry the notification did not come about."""
    last_sent.pop(queue_name, None)


def is_late(queue_name: str) -> bool:
    """Say whether workers that were told last may have stopped looking, before a job that relied on that was there."""
    return time.monotonic() - last_sent.get(queue_name, 0.0) > LATE_SECONDS
