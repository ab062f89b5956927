"""The admin: where people see what the queue does, and act on it. Nothing here decides: `lifecycle` does."""

from .deadletter import DeadLetterAdmin
from .errorgroup import ErrorGroupAdmin
from .idempotency import IdempotencyRecordAdmin
from .job import JobAdmin
from .queue import QueueAdmin
from .schedule import ScheduleAdmin
from .worker import WorkerAdmin

__all__ = [
    "DeadLetterAdmin",
    "ErrorGroupAdmin",
    "IdempotencyRecordAdmin",
    "JobAdmin",
    "QueueAdmin",
    "ScheduleAdmin",
    "WorkerAdmin",
]
