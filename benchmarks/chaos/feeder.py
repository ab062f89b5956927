"""Enqueues a job every so often, whatever becomes of the database, until its standard input ends.

`python -m benchmarks.chaos.feeder RATE FIRST [KIND:EVERY ...]`: the steady kinds in turn, RATE a second, and one of
each KIND in place of every EVERY-th job.
"""

import logging
import sys
import threading
import time

import django

from .ledger import FED, UNSURE, note


def main(rate: float, first: int, extras: dict[str, int]) -> None:
    django.setup()
    # What it tells is in the ledger; a notification that could not be sent is part of the fault.
    logging.getLogger("django.db.backends").setLevel(logging.CRITICAL)
    from django.db import Error, connection

    from . import tasks
    from .kinds import STEADY

    stopped = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    start, n = time.monotonic(), first
    while not stopped.wait(max(0.0, start + (n - first) / rate - time.monotonic())):
        kind = kind_of(n, STEADY, extras)
        try:
            getattr(tasks, kind).enqueue(n=n)
            note(FED, n, kind)
        except Error:
            # It may have been enqueued all the same: only the reply may have been lost. It is never sent again.
            note(UNSURE, n, kind)
            connection.close()
            stopped.wait(0.1)
        n += 1
        # What an outage held up is not made up for: the feed stays steady.
        start = max(start, time.monotonic() - (n - first) / rate)


def kind_of(n: int, steady: tuple[str, ...], extras: dict[str, int]) -> str:
    for place, (kind, every) in enumerate(extras.items()):
        if n % every == place:
            return kind
    return steady[n % len(steady)]


if __name__ == "__main__":
    given = dict(extra.split(":") for extra in sys.argv[3:])
    main(float(sys.argv[1]), int(sys.argv[2]), {kind: int(every) for kind, every in given.items()})
