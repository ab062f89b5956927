"""Listens for news of ready jobs and wakes the engine. When it hears nothing, polling finds them a little later."""

import logging
import threading
import time

from django.db import connections

from ..storage import Storage
from .connections import pause_after
from .engine import Engine
from .patience import Patience

log = logging.getLogger("jobs")

LOOK_SECONDS = 5.0


class Wakeup:
    def __init__(self, engine: Engine, store: Storage) -> None:
        self.engine = engine
        self.store = store
        self.patience = Patience("wakeup", engine.plan.patience_seconds)
        self.probe_seconds = engine.plan.lease_seconds
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="wakeup", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()

    def run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            try:
                self.listen()
                failures = 0
            except Exception as error:
                failures += 1
                log.info("listener lost", extra={"error": repr(error), "failures": failures})
                self.store.drop_connection()
                self.stopping.wait(pause_after(failures))
        connections.close_all()

    def listen(self) -> None:
        """Listen until stopped. What was sent while nobody listened is found by the look right after."""
        with self.patience.waiting(self.store.alias):
            watch = self.store.watch()
        self.engine.woken()
        probe_at = time.monotonic() + self.probe_seconds
        try:
            while not self.stopping.is_set():
                if time.monotonic() >= probe_at:
                    # A connection that has fallen silent hears no news and no end either.
                    probe_at = time.monotonic() + self.probe_seconds
                    with self.patience.waiting(self.store.alias):
                        watch.probe()
                if queues := watch.wait(LOOK_SECONDS):
                    self.engine.woken(queues)
        finally:
            watch.close()
