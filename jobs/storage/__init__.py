"""How rows are written and locked without two workers colliding: one contract, one file per database."""

import functools

from django.db import connections, router

from ..models import Job
from .base import Storage
from .failures import UNAVAILABLE, is_deadlock, is_locked, is_refusal
from .postgresql import PostgresStorage
from .sqlite import SQLiteStorage
from .terms import (
    ANY_QUEUE,
    NO_GROUP,
    Claim,
    Holder,
    Inserted,
    Keys,
    NewJob,
    Place,
    Probe,
    Pulse,
    QueueIsBounded,
    ReadyQueue,
    Renewal,
    Taken,
)

__all__ = [
    "ANY_QUEUE",
    "NO_GROUP",
    "UNAVAILABLE",
    "Claim",
    "Holder",
    "Inserted",
    "Keys",
    "NewJob",
    "Place",
    "Probe",
    "Pulse",
    "QueueIsBounded",
    "ReadyQueue",
    "Renewal",
    "Storage",
    "Taken",
    "is_deadlock",
    "is_locked",
    "is_refusal",
    "storage",
]

STORAGES: dict[str, type[Storage]] = {"postgresql": PostgresStorage, "sqlite": SQLiteStorage}


def storage(alias: str | None = None) -> Storage:
    """Return the storage of the database that jobs are written to.

    Threads: shared; it uses the calling thread's Django connection.
    """
    return storage_for(alias or router.db_for_write(Job))


@functools.cache
def storage_for(alias: str) -> Storage:
    return STORAGES.get(connections[alias].vendor, Storage)(alias)
