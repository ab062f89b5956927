"""The rows: what a job, its attempts, its deaths, its queue and its effects look like in the database."""

from .attempt import Attempt
from .deadletter import DeadLetter, ErrorGroup
from .idempotency import IdempotencyRecord
from .job import Job
from .queue import Grant, Queue
from .schedule import Schedule, Tick
from .worker import Worker

__all__ = [
    "Attempt",
    "DeadLetter",
    "ErrorGroup",
    "Grant",
    "IdempotencyRecord",
    "Job",
    "Queue",
    "Schedule",
    "Tick",
    "Worker",
]
