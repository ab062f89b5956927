"""What an error of a database means for what was to be written."""

from django.db import Error as DatabaseFailure
from django.db.utils import DataError, IntegrityError, InterfaceError, InternalError, OperationalError

# What a database says that will be there again later, where a task's own query would raise the same.
UNAVAILABLE = (OperationalError, InterfaceError, InternalError)
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"


def is_refusal(error: BaseException) -> bool:
    """Say whether what was to be written is to blame, so that it would be refused again; otherwise the database is.

    A missing column is a deploy under way, a read-only database a failover: neither is an outcome's fault.
    """
    return isinstance(error, DataError | IntegrityError) or not isinstance(error, DatabaseFailure)


def is_locked(error: BaseException) -> bool:
    """Say whether somebody has kept a row locked for longer than `limit_lock_waits` allows."""
    return getattr(error.__cause__, "sqlstate", None) == LOCK_NOT_AVAILABLE


def is_deadlock(error: BaseException) -> bool:
    """Say whether this transaction was ended because it and another waited for each other."""
    return getattr(error.__cause__, "sqlstate", None) == DEADLOCK_DETECTED
