"""Back-pressure: what a queue takes before it says that it is full, known to each process without asking each time."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import timedelta

from django.core.signals import setting_changed
from django.db.models import Q
from django.dispatch import receiver

from . import conf, stats
from .conf import QueueLimits
from .exceptions import QueueFull
from .models import Queue
from .storage import storage

log = logging.getLogger("jobs")

FRESH_SECONDS = 1.0  # how old what a process knows of a queue, and of the admin's limits, may be
FULL_SECONDS = 0.1  # the same of a queue that was full
MOST_REMEMBERED = 1_000  # queues without limits
TOLD_SECONDS = 10.0  # between two log lines of a queue that stays full
HOW = {"reject": "rejected", "defer": "deferred", "shed": "shed"}
PORTION = 4  # a process that has added a quarter of what was free looks again
SHORTEST, LONGEST = 1.0, 60.0  # seconds until whoever was refused should try again


# Queues in whose row a person has written a limit, or lifted those of the settings.
WRITTEN = ~Q(on_full="") | Q(lifts_settings=True)
OVERRIDES = [limit.name for limit in fields(QueueLimits) if limit.name != "paused"]  # a pause is a state of its own
for limit in OVERRIDES:
    if limit != "on_full":
        WRITTEN |= Q(**{f"{limit}__isnull": False})


@dataclass
class Gauge:
    """What a process knows of one queue. Units: seconds, monotonic moments."""

    depth: int
    oldest: float
    read_at: float
    added: int = 0  # by this process since
    unsure: int = 0  # those of them that the depth may hold already

    def is_stale(self, limits: QueueLimits, now: float, more: int) -> bool:
        if self.excess(limits):
            return now - self.read_at >= FULL_SECONDS or self.is_unsure(limits, more)
        free = limits.max_depth - self.depth if limits.max_depth is not None else float("inf")
        return now - self.read_at >= FRESH_SECONDS or self.added + more - 1 > free / PORTION

    def excess(self, limits: QueueLimits, more: int = 1) -> bool:
        """Say whether so many jobs more would be too many, or the queue is too slow for any."""
        too_deep = limits.max_depth is not None and self.depth + self.added + more > limits.max_depth
        return too_deep or (limits.max_age is not None and self.oldest > limits.max_age.total_seconds())

    def is_unsure(self, limits: QueueLimits, more: int) -> bool:
        """Say whether it is only by jobs that may be counted twice that so many more would be too many."""
        sure = replace(self, added=self.added - self.unsure)
        return bool(self.unsure) and self.excess(limits, more) and not sure.excess(limits, more)

    def why_not(self, limits: QueueLimits, more: int) -> str:
        """Say which limit so many jobs more would exceed."""
        if limits.max_age is not None and self.oldest > limits.max_age.total_seconds():
            return f"its oldest job has waited {self.oldest:.0f} s, max_age {limits.max_age.total_seconds():g} s"
        if limits.max_depth is not None and more > limits.max_depth:
            return f"{more} jobs at once never fit, max_depth {limits.max_depth}"
        beside = f", and {more} more do not fit" if more > 1 else ""
        or_more = " or more" if limits.max_depth is not None and self.depth > limits.max_depth else ""
        return f"jobs that wait: {self.depth + self.added}{or_more}{beside}, max_depth {limits.max_depth}"


class Door:
    """Lets jobs into queues, or not. Threads: shared."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # held for no longer than it takes to count
        self.looked_at: set[str] = set()  # queues that somebody looks into right now
        self.let_in: Counter[str] = Counter()  # jobs, since this process began
        self.turned_away: Counter[tuple[str, str]] = Counter()  # jobs, by queue and how, since this process began
        self.told: dict[str, float] = {}  # when it was logged that a queue is full
        self.gauges: dict[str, Gauge] = {}
        self.unbounded: dict[str, float] = {}  # when it was seen that a queue takes all there is
        self.rows: dict[str, QueueLimits] = {}
        self.rows_read_at = float("-inf")

    def limits_of(self, queue_name: str) -> QueueLimits | None:
        """Return the limits of a queue, as the settings say and the admin, whose word counts; None: it has none."""
        if in_test_case():  # which takes back what it writes
            rows = written()
        else:
            if time.monotonic() - self.rows_read_at >= FRESH_SECONDS:
                self.read_rows()
            rows = self.rows
        return rows.get(queue_name) or conf.options().queues.get(queue_name)

    def is_bounded(self, queue_name: str) -> bool | None:
        """Say whether a queue takes only so much. None: as far as is known not, which whoever inserts is to find out.

        So a queue without limits costs its producers no question, and most inserts not even the look in them.
        """
        known = [conf.options().queues.get(queue_name)]  # what a person has lifted, another may have put back
        if not (is_test := in_test_case()):
            known.append(self.rows.get(queue_name))
        if any(limits is not None and limits.bounds for limits in known):
            return True
        is_fresh = time.monotonic() - self.unbounded.get(queue_name, float("-inf")) < FRESH_SECONDS
        return False if is_fresh and not is_test else None

    def note_unbounded(self, queue_name: str, asked_at: float) -> None:
        """Remember that something was inserted although it would not have been into a queue that takes only so much."""
        if in_test_case():
            return
        if len(self.unbounded) >= MOST_REMEMBERED:
            self.unbounded.clear()
        self.unbounded[queue_name] = asked_at

    def look_again(self) -> None:
        """Take what is known of the admin's limits for old: the database has just told of another."""
        self.rows_read_at = float("-inf")

    def read_rows(self) -> None:
        before, self.rows_read_at = self.rows_read_at, time.monotonic()  # others need not read them too
        try:
            self.rows = written()
        except BaseException:
            self.rows_read_at = before
            raise

    def gauge(self, queue_name: str, limits: QueueLimits, more: int) -> Gauge:
        now = time.monotonic()
        known = self.gauges.get(queue_name)
        if known and not known.is_stale(limits, now, more) and not in_test_case():
            return known
        with self.lock:
            # Who comes while another looks goes by what is known, but is refused by nothing that may count twice.
            if known and queue_name in self.looked_at and not known.is_unsure(limits, more):
                return known
            self.looked_at.add(queue_name)
            before = self.let_in[queue_name]
        try:
            depth, oldest = stats.depth_of(queue_name, (limits.max_depth or 0) + 1)
            with self.lock:
                # What was let in meanwhile may be seen already, or not yet.
                meanwhile = self.let_in[queue_name] - before
                found = self.gauges[queue_name] = Gauge(depth, oldest.total_seconds(), now, meanwhile, meanwhile)
        finally:
            self.looked_at.discard(queue_name)
        return found

    def admit(self, queue_name: str, priority: int, jobs: int = 1, held: Callable[[], int] = int) -> timedelta | None:
        """Let jobs in that are due now; return how much later they are to run, where a full queue defers them.

        `held`: is asked how many of them add nothing, because their keys are held, where there is no room for all.
        Raises: QueueFull where it refuses them.
        """
        limits = self.limits_of(queue_name)
        if limits is None or not limits.bounds:
            return None
        gauge = self.gauge(queue_name, limits, jobs)
        if self.takes(queue_name, limits, priority, jobs, gauge):
            return None
        if self.gauges.get(queue_name, gauge).is_unsure(limits, jobs):  # the one that there was no room by
            gauge = self.gauge(queue_name, limits, jobs)
            if self.takes(queue_name, limits, priority, jobs, gauge):
                return None
        if known := held():
            jobs -= known
            if not jobs or self.takes(queue_name, limits, priority, jobs, gauge):
                return None
        gauge = self.gauges.get(queue_name, gauge)  # the one that there was no room by
        wait = min(LONGEST, max(SHORTEST, gauge.oldest / 10))
        depth = gauge.depth + gauge.added
        self.turn_away(queue_name, HOW[limits.on_full], jobs, depth)
        if limits.on_full == "defer":
            return timedelta(seconds=wait)
        raise QueueFull(queue_name, depth, wait, gauge.why_not(limits, jobs))

    def takes(self, queue_name: str, limits: QueueLimits, priority: int, jobs: int, gauge: Gauge) -> bool:
        """Say whether there is room for so many jobs, and if there is, count them."""
        with self.lock:
            gauge = self.gauges.get(queue_name, gauge)
            # From nothing to one is an increase only for those who have seen the nothing.
            self.turned_away[queue_name, HOW[limits.on_full]] += 0
            if gauge.excess(limits, jobs) and not (limits.on_full == "shed" and priority >= limits.shed_below):
                return False
            gauge.added += jobs
            self.let_in[queue_name] += jobs
            return True

    def turn_away(self, queue_name: str, how: str, jobs: int, depth: int) -> None:
        """Count jobs that a full queue does not take now; log it, though not for each."""
        now = time.monotonic()
        with self.lock:
            self.turned_away[queue_name, how] += jobs
            is_news = now - self.told.get(queue_name, float("-inf")) >= TOLD_SECONDS
            if is_news:
                self.told[queue_name] = now
        if is_news:
            log.warning("queue full", extra={"queue": queue_name, "depth": depth, "jobs": how})

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many jobs this process has turned away, by queue and how."""
        with self.lock:
            return dict(self.turned_away)

    def forget(self) -> None:
        self.gauges.clear()
        self.unbounded.clear()
        self.rows.clear()
        self.rows_read_at = float("-inf")


def written_over(limits: QueueLimits, row: Queue) -> QueueLimits:
    """Return limits with what a person has written into the queue's row, or that alone."""
    if row.lifts_settings:
        limits = QueueLimits()
    written = {name: getattr(row, name) for name in OVERRIDES}
    return replace(limits, **{name: value for name, value in written.items() if value not in (None, "")})


def written() -> dict[str, QueueLimits]:
    """Return the limits of the queues in whose rows a person has written any, and what the settings say beside."""
    defaults = conf.options().queues
    rows = storage().rows(Queue).filter(WRITTEN).only("name", "lifts_settings", *OVERRIDES)
    return {row.name: written_over(defaults.get(row.name, QueueLimits()), row) for row in rows}


def in_force() -> dict[str, QueueLimits]:
    """Return the limits of all queues that have any, as they are in the settings and in the database now."""
    return {**conf.options().queues, **written()}


def slowed() -> list[str]:
    """Return the names of the queues from which workers may claim only so much."""
    return [name for name, limits in in_force().items() if limits.slows]


def described(limits: QueueLimits | None) -> str:
    """Return limits as people read them; nothing where there are none."""
    if limits is None:
        return ""
    said = [f"{name} {getattr(limits, name)}" for name in ("max_running", "max_depth") if getattr(limits, name)]
    if limits.rate_limit:
        said.insert(0, f"rate_limit {limits.rate_limit} in {limits.rate_period.total_seconds():g} s")
    if limits.max_age:
        said.append(f"max_age {limits.max_age.total_seconds():g} s")
    if limits.max_depth or limits.max_age:
        shed = f" below {limits.shed_below}" if limits.on_full == "shed" else ""
        said.append(f"when full {limits.on_full}{shed}")
    return ", ".join(said)


def is_full(queue_name: str, limits: QueueLimits | None) -> bool:
    """Say whether a queue takes no more at this moment, as whoever enqueues finds it."""
    if limits is None or not limits.bounds:
        return False
    depth, oldest = stats.depth_of(queue_name, (limits.max_depth or 0) + 1)
    return Gauge(depth, oldest.total_seconds(), time.monotonic()).excess(limits)


def in_test_case() -> bool:
    """Say whether a test case's own transaction is open, which takes back what it knew of."""
    return any(block._from_testcase for block in storage().connection.atomic_blocks)


door = Door()
admit, forget, limits_of = door.admit, door.forget, door.limits_of


@receiver(setting_changed)
def forget_limits(*, setting: str, **kwargs: object) -> None:
    if setting in ("TASKS", "DATABASES"):
        forget()
