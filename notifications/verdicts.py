"""What the reply of a mail server, or the failure of a dialogue with one, means for the mail: pure, no I/O.

Source: RFC 5321 (reply codes), RFC 3463 and the IANA registry (enhanced codes), RFC 4954 (AUTH), RFC 7372 (sender's
DNS), and the 5.7.5xx to 5.7.7xx of Exchange Online.
"""

import re
import smtplib
import socket
import ssl
from enum import Enum
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured


class Verdict(Enum):
    TEMPORARY = "temporary"  # try again
    RECIPIENT = "recipient"  # never for this recipient
    CONTENT = "content"  # never with this content
    CONFIGURATION = "configuration"  # no mail will go out until somebody changes something here
    AMBIGUOUS = "ambiguous"  # nobody knows whether the mail went out


class Phase(Enum):
    """Where in the dialogue the server said it: a server says 550 5.7.1 to everything that it does not like."""

    GREETING = "greeting"
    LOGIN = "login"
    SENDER = "sender"
    RECIPIENT = "recipient"
    DATA = "data"


class Failure(NamedTuple):
    verdict: Verdict
    text: str


class AnswerLost(Exception):
    """The server took the data and the connection ended before it said whether it keeps them."""


TEMPORARY, RECIPIENT, CONTENT, CONFIGURATION = (
    Verdict.TEMPORARY,
    Verdict.RECIPIENT,
    Verdict.CONTENT,
    Verdict.CONFIGURATION,
)

# Permanent replies by enhanced code, without the leading 5. What is not here goes by subject, then by basic code.
DETAILS = {
    (1, 7): CONFIGURATION,  # sender's address has a bad syntax
    (1, 8): CONFIGURATION,  # sender's domain cannot be found
    (2, 3): CONTENT,  # longer than the mailbox allows
    (3, 4): CONTENT,  # too big for the system
    (3, 5): CONFIGURATION,
    (4, 5): CONFIGURATION,  # a sender's daily limit, at large providers
    (6, 7): RECIPIENT,  # no non-ASCII addresses there
    (7, 1): RECIPIENT,  # not authorized: relaying, block lists, policies
    (7, 2): RECIPIENT,
    (7, 4): CONTENT,
    (7, 5): CONTENT,
    (7, 6): CONTENT,
    (7, 7): CONTENT,
    (7, 15): CONTENT,
    (7, 16): CONTENT,
    (7, 17): RECIPIENT,  # the mailbox has a new owner
    (7, 18): RECIPIENT,  # the domain has a new owner
    (7, 19): RECIPIENT,
    (7, 29): CONTENT,
    (7, 30): RECIPIENT,
    (7, 505): RECIPIENT,  # banned recipient
}
# Said of the size that MAIL FROM announces.
TOO_BIG = {(2, 3), (3, 4), (7, 16)}
SUBJECTS = {1: RECIPIENT, 2: RECIPIENT, 4: RECIPIENT, 5: CONFIGURATION, 6: CONTENT, 7: CONFIGURATION}

CODES = {
    432: CONFIGURATION,  # the account needs a new password
    500: CONFIGURATION,
    502: CONFIGURATION,
    503: CONFIGURATION,
    504: CONFIGURATION,
    523: CONFIGURATION,
    525: CONFIGURATION,
    530: CONFIGURATION,
    534: CONFIGURATION,
    535: CONFIGURATION,
    538: CONFIGURATION,
    552: CONTENT,
    554: CONTENT,
    555: CONFIGURATION,
}
# These say what is wrong by themselves: an enhanced code beside them adds nothing.
PLAIN = {432, 523, 525, 530, 534, 535, 538}


def classify(code: int, enhanced: str | None = None) -> Verdict:
    """Return what a refusal means, whatever it was said to.

    Shape: `enhanced` as in "5.1.1"; one that is malformed or contradicts the code is ignored.
    """
    if code in PLAIN:
        return CODES[code]
    # What is neither a refusal nor sense, as a -1 for garbage, may be better next time.
    if not 500 <= code <= 599:
        return TEMPORARY
    subject, detail = details(enhanced)
    if (subject, detail) == (7, 0):
        return CONTENT if code in (552, 554) else CONFIGURATION
    if (subject, detail) == (5, 0):
        return CODES.get(code, RECIPIENT)  # at large providers it means nothing
    return DETAILS.get((subject, detail)) or SUBJECTS.get(subject) or CODES.get(code, RECIPIENT)


def classify_in(phase: Phase, code: int, enhanced: str | None = None) -> Verdict:
    """Return what a refusal means when it is known what was refused."""
    verdict = classify(code, enhanced)
    if verdict not in (RECIPIENT, CONTENT):
        return verdict
    subject, detail = details(enhanced)
    match phase:
        case Phase.GREETING | Phase.LOGIN:
            return CONFIGURATION  # it has seen neither a recipient nor a content
        case Phase.SENDER:
            return CONTENT if code == 552 or (subject, detail) in TOO_BIG else CONFIGURATION
        case Phase.RECIPIENT:
            return RECIPIENT
        case Phase.DATA:
            return verdict if subject in (1, 2, 4) else CONTENT


def classify_exception(error: BaseException) -> Failure:
    """Return what an exception of a mail backend means, with a text for people, which may quote addresses."""
    match error:
        case AnswerLost():
            return Failure(Verdict.AMBIGUOUS, f"the server took the data, and then: {error}")
        case smtplib.SMTPRecipientsRefused():
            return refused(Phase.RECIPIENT, *first_reply(error))
        case smtplib.SMTPAuthenticationError():
            return refused(Phase.LOGIN, error.smtp_code, error.smtp_error)
        case smtplib.SMTPSenderRefused():
            return refused(Phase.SENDER, error.smtp_code, error.smtp_error)
        case smtplib.SMTPDataError():
            return refused(Phase.DATA, error.smtp_code, error.smtp_error)
        case smtplib.SMTPResponseException():
            return refused(Phase.GREETING, error.smtp_code, error.smtp_error)
        case _:
            return Failure(verdict_on(error), f"{type(error).__name__}: {error}")


def verdict_on(error: BaseException) -> Verdict:
    """Return what an exception means that carries no reply."""
    match error:
        case smtplib.SMTPNotSupportedError() | ImproperlyConfigured() | ssl.SSLCertVerificationError():
            return CONFIGURATION
        case smtplib.SMTPException() if str(error).startswith("No suitable authentication method"):
            return CONFIGURATION
        case ssl.SSLError() if error.reason == "WRONG_VERSION_NUMBER":  # no TLS is spoken at that port
            return CONFIGURATION
        case socket.gaierror() if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
            return CONFIGURATION
        case _:
            return TEMPORARY


def refused(phase: Phase, code: int, reply: bytes | str) -> Failure:
    said = text_of(reply)
    return Failure(classify_in(phase, code, enhanced_in(said)), f"{code} {said}")


def first_reply(error: smtplib.SMTPRecipientsRefused) -> tuple[int, bytes | str]:
    for code, reply in error.recipients.values():
        return code, reply
    return -1, "recipients refused, no reply kept"


def details(enhanced: str | None) -> tuple[int, int]:
    """Return subject and detail of a permanent enhanced code, (0, 0) when there is none."""
    found = re.fullmatch(r"5\.(\d{1,3})\.(\d{1,3})", enhanced or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def enhanced_in(reply: str) -> str | None:
    found = re.match(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)", reply)
    return found[0] if found else None


def text_of(reply: bytes | str) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
