"""How an attempt ended, as a value: the runner returns one, `lifecycle` turns it into columns, storage writes them."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from .leases import Lease
from .secrets import redacted_text
from .states import Reason, State

KEPT_TRACEBACK = 8 * 1024
KEPT_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What is kept of an exception, but for secrets. Units: at most 2,000 characters, and 16 KiB of traceback."""

    exception_class: str = ""
    message: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "ErrorReport":
        kind = type(error)
        return cls(
            exception_class=storable(f"{kind.__module__}.{kind.__qualname__}")[:255],
            message=redacted_text(storable(said_by(error))[: 10 * KEPT_MESSAGE])[:KEPT_MESSAGE],
            traceback=shortened(redacted_text(storable(traceback_of(error)))),
        )


class Redacted(Exception):
    """Stands in a log for an exception whose message or traceback holds a secret: its text is theirs, without it."""


def loggable(error: BaseException) -> BaseException:
    """Return what a log or a receiver may print of an exception: itself, or a `Redacted`.

    What it says decides, and what its causes say; in a line of code, as a traceback quotes it, a name is no secret.
    """
    said = "\n".join(all_said_by(error))
    return error if redacted_text(said) == said else Redacted(redacted_text(traceback_of(error)))


def all_said_by(error: BaseException) -> Iterator[str]:
    """Return what an exception says, its notes, and what led to it or is in its group."""
    seen, todo = set(), [error]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield said_by(each)
        yield from (str(note) for note in getattr(each, "__notes__", ()))
        more = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        todo += [other for other in more if isinstance(other, BaseException)]


@dataclass(frozen=True, slots=True)
class Succeeded:
    value: str | None = None  # JSON text


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt raised or timed out. Exactly one of `retry_in` (seconds) and `reason` (of death) is set."""

    error: ErrorReport
    retry_in: float | None = None
    reason: Reason | None = None
    record_key: str = ""
    exception: BaseException | None = None  # for the signals of this process; never stored


@dataclass(frozen=True, slots=True)
class Snoozed:
    """It comes back, with no attempt spent. `error`: what only the configuration or the other side can mend."""

    seconds: float
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    error: ErrorReport


@dataclass(frozen=True, slots=True)
class Released:
    """Given back without having been run; `held` when this worker cannot run it at all yet."""

    seconds: float = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The queue itself stopped the run: a shutdown, or the killing of a stuck neighbour. Nobody is charged."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker died. `charged` when this job was the only one it can have died of."""

    charged: bool


@dataclass(frozen=True, slots=True)
class Buried:
    """Dead without having been run: nothing that this or a later worker does can help it."""

    reason: Reason
    error: ErrorReport


Outcome = Succeeded | Failed | Snoozed | Cancelled | Released | Interrupted | Lost | Buried


class AttemptNote(NamedTuple):
    """The `Attempt` row that a settlement leaves."""

    outcome: str
    error: ErrorReport
    started_at: datetime | None
    finished_at: datetime


class Death(NamedTuple):
    """The `DeadLetter` row that a settlement leaves."""

    reason: Reason
    error: ErrorReport
    fingerprint: str
    record_key: str


class Success(NamedTuple):
    """A run that succeeded, before it is written. Units: seconds after the claim. Shape: `value` is JSON text."""

    lease: Lease
    value: str | None
    started: float
    finished: float


class Settlement(NamedTuple):
    """What a job's row becomes when its lease ends.

    Units: `delay` in seconds from the database's now; None leaves `run_after` alone.
    Shape: `return_value` and `worker_ids` are JSON text.
    """

    lease: Lease
    state: State
    attempts: int
    crashes: int
    suspect: bool
    worker_ids: str
    delay: float | None = None
    held: bool = False
    return_value: str | None = None
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: AttemptNote | None = None
    death: Death | None = None


def said_by(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"<its text cannot be had: {type(broken).__name__} in __str__>"


def traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as broken:
        return f"<its traceback cannot be had: {type(broken).__name__}>"


def storable(text: str) -> str:
    """Return the text without what PostgreSQL's text type cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def shortened(text: str) -> str:
    raw = text.encode()
    if len(raw) <= 2 * KEPT_TRACEBACK:
        return text
    head = raw[:KEPT_TRACEBACK].decode(errors="ignore")
    tail = raw[-KEPT_TRACEBACK:].decode(errors="ignore")
    return f"{head}\n... {len(raw) - 2 * KEPT_TRACEBACK} bytes left out ...\n{tail}"
