"""In development: end the process when the code on disk changes; its supervisor starts another with the new code."""

import threading
import time
from collections.abc import Callable

from django.utils.autoreload import StatReloader

LOOK_SECONDS = 1.0


def when_code_changes(act: Callable[[], None]) -> None:
    """Call `act` once, from a thread, when a file of an imported module is changed, added or removed."""
    threading.Thread(target=watch, args=(act,), name="reload", daemon=True).start()


def watch(act: Callable[[], None]) -> None:
    reloader = StatReloader()
    seen = dict(reloader.snapshot_files())
    while True:
        time.sleep(LOOK_SECONDS)
        now = dict(reloader.snapshot_files())
        # A module imported since then is new to us, not changed.
        if any(now.get(path) != changed_at for path, changed_at in seen.items()):
            act()
            return
        seen = now
