"""One dialogue with the mail server: bounded in time, and it knows whether the server may have the mail.

Any backend of Django works; for SMTP the replies are watched, because after the data only they tell.
"""

import smtplib
import time
from contextlib import suppress
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend as SMTPBackend

from jobs.exceptions import TimedOut

from . import conf
from .verdicts import AnswerLost, text_of

WHOLE_DIALOGUE_SECONDS = 22.0
QUIT_SECONDS = 2.0


class Watch:
    """How far a dialogue got, seen from the replies of the server.

    Units: `until` is a moment of the monotonic clock: the dialogue, the answer to the data included, ends before.
    """

    def __init__(self, connection: smtplib.SMTP, until: float, reply_seconds: float) -> None:
        self.connection = connection
        self.until = until
        self.data_until = until - reply_seconds
        self.in_doubt = False
        self.receipt: str | None = None
        self.read = connection.getreply
        connection.getreply = self.reply  # type: ignore[method-assign]

    def reply(self) -> tuple[int, bytes]:
        if not self.has_data and time.monotonic() > self.data_until:
            # Nothing went out yet, and given up now it can be sent again; later a person would have to decide.
            raise TimeoutError("the mail server is too slow")
        code, said = self.read()
        if self.in_doubt:
            self.receipt = text_of(said)
            code = 250 if 200 <= code < 300 else code  # smtplib takes every other 2xx for a refusal
        # From "go ahead" on the last bytes can be in flight whatever `send` says; only the next reply tells.
        self.in_doubt = code == 354
        if self.in_doubt and self.connection.sock is not None:
            self.connection.sock.settimeout(max(self.until - time.monotonic(), 1.0))
        return code, said

    @property
    def has_data(self) -> bool:
        """Whether the server may have the mail, or has said what it makes of it."""
        return self.in_doubt or self.receipt is not None


def send(message: EmailMessage) -> str:
    """Send one message to its one recipient, and return what the server said when it took it.

    Raises: AnswerLost when nobody can know whether it was taken; otherwise what the backend raised, and it was not.
    """
    backend = mailer()
    if not isinstance(backend, SMTPBackend):
        hand_over(backend, message)
        return ""
    try:
        return converse(backend, message)
    finally:
        close(backend)


def mailer() -> Any:
    """Return the project's mail backend: `MAILERS["default"]` where the project has it, else the EMAIL_* settings."""
    try:
        if django.VERSION >= (6, 1):
            from django.core.mail import mailers

            return mailers.default
        from django.core.mail import get_connection

        return get_connection()
    except Exception as error:
        raise ImproperlyConfigured(f"no mail backend: {error}") from error


def converse(backend: Any, message: EmailMessage) -> str:
    reply_seconds = conf.current().smtp_timeout
    until = time.monotonic() + WHOLE_DIALOGUE_SECONDS
    backend.timeout = min(backend.timeout or reply_seconds, reply_seconds)
    backend.fail_silently = False
    watch = None
    try:
        backend.open()
        watch = Watch(backend.connection, until, reply_seconds)
        hand_over(backend, message)
    except TimedOut as error:
        if watch is None or not watch.has_data:
            raise TimeoutError("the mail server is too slow") from error
        raise
    except Exception as error:
        if watch is not None and watch.in_doubt:
            raise AnswerLost(f"{type(error).__name__}: {error}") from error
        raise
    return watch.receipt or ""


def hand_over(backend: Any, message: EmailMessage) -> None:
    # Some backends return None; 0 is Django's way to say that it sent nothing.
    if backend.send_messages([message]) == 0:
        raise OSError("the mail backend sent nothing")


def close(backend: Any) -> None:
    connection = backend.connection or getattr(backend, "_partial_connection", None)
    # The mail is accepted or refused by now: a server that is rude at QUIT changes nothing.
    if connection is None:
        return
    with suppress(Exception):
        if connection.sock is not None:
            connection.sock.settimeout(QUIT_SECONDS)
        backend.close()
    connection.close()
