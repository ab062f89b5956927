"""The cursor by which a producer inserts one job: prepared on the server, and as near to the driver as may be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any
from weakref import WeakSet

import django
from django.db.backends.utils import CursorWrapper

PREPARE_AFTER = 5  # times that a connection has sent a statement: the driver's own default
UNPOOLED: WeakSet[Any] = WeakSet()  # the driver's connections whose server has said that it is the one they are to
DJANGO_S = os.path.join(os.path.dirname(django.__file__), "")
# By which Django makes a cursor of a connection, and sends a statement by it.
MAKES = ("cursor", "_cursor", "create_cursor", "_prepare_cursor", "make_cursor")
SENDS = ("execute", "_execute_with_wrappers", "_execute")


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


def is_django_s(kind: type, names: tuple[str, ...]) -> bool:
    """Say whether these methods are as Django has them: not another backend's, and not patched.

    What agents put in the place of a function may pass for it in all but its type.
    """
    for name in names:
        function = getattr(kind, name)
        if type(function) is not FunctionType or not function.__code__.co_filename.startswith(DJANGO_S):
            return False
    return True


def is_plain(wrapper: Any) -> bool:
    """Say whether cursors of this connection come about as Django and its driver make them.

    Others may set the schema of a tenant first, or the role, or look at what the driver is given.
    """
    from django.db.backends.postgresql.base import Cursor, ServerBindingCursor
    from psycopg import Connection

    makes: Any = wrapper.connection.cursor_factory
    return (
        type(wrapper.connection) is Connection
        and makes in (Cursor, ServerBindingCursor)
        and is_django_s(type(wrapper), MAKES)
        and vars(wrapper).keys().isdisjoint(MAKES)
    )


def is_watched(wrapper: Any) -> bool:
    """Say whether somebody looks at what Django's cursors send: a wrapper, a patched class."""
    return bool(wrapper.execute_wrappers) or not is_django_s(CursorWrapper, SENDS)


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
    if wrapper.queries_logged or not prepares or driver not in UNPOOLED or driver.closed or not is_plain(wrapper):
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
