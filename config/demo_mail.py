"""The demo's mail server: files in a directory, and two recipients who make trouble.

`flaky@...` is refused once for each mail, `poison@...` always, both as a busy SMTP server refuses.
"""

import hashlib
import smtplib
from collections.abc import Sequence
from pathlib import Path

from django.core.mail import EmailMessage
from django.core.mail.backends import filebased


class EmailBackend(filebased.EmailBackend):
    """Write mail to files, but for the recipients who make trouble."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            self.refuse_some(message)
        return super().send_messages(email_messages)

    def refuse_some(self, message: EmailMessage) -> None:
        """Raise the error of a busy server where the recipient asks for it.

        Raises: smtplib.SMTPDataError, with a temporary code.
        """
        for recipient in message.recipients():
            name = recipient.partition("@")[0]
            if name == "poison" or (name == "flaky" and self.is_first_try(message)):
                raise smtplib.SMTPDataError(451, b"4.3.0 The demo refuses this one")

    def is_first_try(self, message: EmailMessage) -> bool:
        """Return whether no worker process has tried to send this mail; the Message-ID stays over the attempts."""
        digest = hashlib.sha256(message.extra_headers["Message-ID"].encode()).hexdigest()
        seen = Path(self.file_path) / ".refused" / digest[:16]
        seen.parent.mkdir(exist_ok=True)
        try:
            seen.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
