"""Why a notification is refused before it is written, and how a delivery can fail after it."""

from jobs import PermanentError


class Refused(ValueError):
    """The notification cannot be accepted; `field` names what is wrong with it. Nothing was written."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class TemporaryFailure(Exception):
    """The mail was not accepted now; it may be on the next attempt."""


class MailMisconfigured(Exception):
    """No mail can be sent at all: a wrong password, say, or a sender that the server does not know."""


class RecipientRefused(PermanentError):
    """This recipient will never get this mail."""


class ContentRefused(PermanentError):
    """The mail cannot be rendered, or no server takes it as it is."""
