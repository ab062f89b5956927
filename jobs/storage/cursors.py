"""The cursor by which a producer inserts one job: prepared on the server, and as near to the driver as may be."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from django.db.backends import utils

PREPARE_AFTER = 5  # times that a connection has sent a statement: the driver's own default
UNPOOLED: WeakSet[Any] = WeakSet()  # the driver's connections whose server has said that it is the one they are to


class Direct:
    """The driver's cursor with Django's errors and Django's rules, and without its layers.

    They take a tenth or more of what an enqueue costs a web process.
    """

    __slots__ = ("connection", "cursor", "fetchone", "wrapper")

    def __init__(self, wrapper: Any) -> None:
        from psycopg import Cursor

        wrapper.validate_thread_sharing()
        self.wrapper, self.connection = wrapper, wrapper.connection
        self.cursor: Any = Cursor(self.connection)
        self.fetchone = self.cursor.fetchone

    def execute(self, sql: str, values: Any) -> None:
        self.wrapper.validate_no_broken_transaction()
        with self.wrapper.wrap_database_errors:
            self.cursor.execute(sql, values)


def is_watched(wrapper: Any) -> bool:
    """Say whether somebody looks at what goes through Django's cursors: a wrapper, a patched class."""
    execute = utils.CursorWrapper.execute
    is_django_s = getattr(execute, "__code__", None) and execute.__code__.co_filename == utils.__file__
    return bool(wrapper.execute_wrappers or not is_django_s)


@contextmanager
def producing(wrapper: Any, prepares: bool) -> Iterator[Any]:
    """Give a cursor of Django's connection which prepares what it is given often.

    Only where the server has said that it is the one we are connected to: behind a pooler the next statement may go to
    another one, and its refusal would end the transaction of whoever enqueues.
    """
    wrapper.close_if_health_check_failed()
    wrapper.ensure_connection()
    driver = wrapper.connection
    # Django cannot write to its log of queries what a cursor that binds on the server has sent.
    if wrapper.queries_logged or not prepares or driver not in UNPOOLED:
        with wrapper.cursor() as cursor:
            yield cursor
        return
    from psycopg import Cursor

    theirs = driver.prepare_threshold, driver.cursor_factory
    driver.prepare_threshold = PREPARE_AFTER
    try:
        if is_watched(wrapper):
            driver.cursor_factory = Cursor
            with wrapper.cursor() as cursor:
                yield cursor
        else:
            yield Direct(wrapper)
    finally:
        driver.prepare_threshold, driver.cursor_factory = theirs
