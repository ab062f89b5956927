"""What each reply of a mail server, and each failure of a dialogue, means."""

import smtplib
import socket
import ssl

import pytest
from django.core.exceptions import ImproperlyConfigured

from notifications.verdicts import (
    AnswerLost,
    Phase,
    Verdict,
    classify,
    classify_exception,
    classify_in,
    enhanced_in,
)

pytestmark = pytest.mark.any_database

TEMPORARY, RECIPIENT, CONTENT, CONFIGURATION, AMBIGUOUS = Verdict


@pytest.mark.parametrize(
    ("code", "enhanced", "verdict"),
    [
        # Temporary: every 4xx, whatever stands beside it, and what is no reply at all.
        (421, None, TEMPORARY),
        (421, "4.3.2", TEMPORARY),
        (421, "4.7.0", TEMPORARY),
        (432, None, CONFIGURATION),
        (432, "4.7.12", CONFIGURATION),
        (450, None, TEMPORARY),
        (450, "4.2.0", TEMPORARY),
        (450, "4.7.1", TEMPORARY),
        (451, "4.3.0", TEMPORARY),
        (451, "4.7.500", TEMPORARY),
        (451, "5.7.1", TEMPORARY),
        (452, "4.2.2", TEMPORARY),
        (452, "4.3.1", TEMPORARY),
        (454, "4.7.0", TEMPORARY),
        (455, None, TEMPORARY),
        (-1, None, TEMPORARY),
        (0, None, TEMPORARY),
        (220, None, TEMPORARY),
        (354, None, TEMPORARY),
        (999, "5.1.1", TEMPORARY),
        # Never for this recipient.
        (550, None, RECIPIENT),
        (551, None, RECIPIENT),
        (553, None, RECIPIENT),
        (501, "5.1.3", RECIPIENT),
        (541, None, RECIPIENT),
        (521, None, RECIPIENT),
        (556, "5.1.10", RECIPIENT),
        (550, "5.0.0", RECIPIENT),
        (550, "5.1.0", RECIPIENT),
        (550, "5.1.1", RECIPIENT),
        (554, "5.1.1", RECIPIENT),
        (550, "5.1.2", RECIPIENT),
        (550, "5.1.6", RECIPIENT),
        (550, "5.1.10", RECIPIENT),
        (550, "5.2.0", RECIPIENT),
        (550, "5.2.1", RECIPIENT),
        (552, "5.2.2", RECIPIENT),
        (550, "5.4.1", RECIPIENT),
        (554, "5.4.6", RECIPIENT),
        (550, "5.5.0", RECIPIENT),
        (553, "5.6.7", RECIPIENT),
        (550, "5.7.1", RECIPIENT),
        (554, "5.7.1", RECIPIENT),
        (550, "5.7.17", RECIPIENT),
        (550, "5.7.505", RECIPIENT),
        (571, None, RECIPIENT),
        # Never with this content.
        (552, None, CONTENT),
        (554, None, CONTENT),
        (552, "5.2.3", CONTENT),
        (552, "5.3.4", CONTENT),
        (550, "5.6.0", CONTENT),
        (554, "5.6.1", CONTENT),
        (552, "5.7.0", CONTENT),
        (554, "5.7.0", CONTENT),
        (550, "5.7.7", CONTENT),
        # No mail goes out until somebody changes something.
        (500, None, CONFIGURATION),
        (502, "5.5.1", CONFIGURATION),
        (503, "5.5.1", CONFIGURATION),
        (504, "5.5.4", CONFIGURATION),
        (523, None, CONFIGURATION),
        (525, "5.7.13", CONFIGURATION),
        (530, None, CONFIGURATION),
        (530, "5.7.0", CONFIGURATION),
        (530, "5.7.57", CONFIGURATION),
        (534, "5.7.9", CONFIGURATION),
        (534, "5.7.14", CONFIGURATION),
        (535, None, CONFIGURATION),
        (535, "5.7.1", CONFIGURATION),
        (535, "5.7.3", CONFIGURATION),
        (535, "5.7.8", CONFIGURATION),
        (535, "5.7.139", CONFIGURATION),
        (538, "5.7.11", CONFIGURATION),
        (550, "5.1.7", CONFIGURATION),
        (553, "5.1.8", CONFIGURATION),
        (550, "5.3.5", CONFIGURATION),
        (550, "5.4.5", CONFIGURATION),
        (550, "5.7.0", CONFIGURATION),
        (550, "5.7.8", CONFIGURATION),
        (550, "5.7.23", CONFIGURATION),
        (550, "5.7.26", CONFIGURATION),
        (550, "5.7.54", CONFIGURATION),
        (550, "5.7.60", CONFIGURATION),
        (550, "5.7.708", CONFIGURATION),
        (555, None, CONFIGURATION),
        # An enhanced code that is malformed or contradicts the code says nothing.
        (550, "", RECIPIENT),
        (550, "4.7.1", RECIPIENT),
        (554, "4.4.7", CONTENT),
        (550, "5.7", RECIPIENT),
        (550, "nonsense", RECIPIENT),
        (535, "2.0.0", CONFIGURATION),
    ],
)
def test_a_reply_means(code, enhanced, verdict):
    assert classify(code, enhanced) is verdict


@pytest.mark.parametrize(
    ("phase", "code", "enhanced", "verdict"),
    [
        (Phase.GREETING, 554, None, CONFIGURATION),
        (Phase.GREETING, 521, None, CONFIGURATION),
        (Phase.GREETING, 550, "5.7.1", CONFIGURATION),
        (Phase.GREETING, 421, None, TEMPORARY),
        (Phase.LOGIN, 550, None, CONFIGURATION),
        (Phase.LOGIN, 535, "5.7.8", CONFIGURATION),
        (Phase.LOGIN, 454, "4.7.0", TEMPORARY),
        (Phase.SENDER, 550, "5.7.1", CONFIGURATION),
        (Phase.SENDER, 553, None, CONFIGURATION),
        (Phase.SENDER, 554, None, CONFIGURATION),
        (Phase.SENDER, 530, "5.7.0", CONFIGURATION),
        (Phase.SENDER, 552, None, CONTENT),
        (Phase.SENDER, 552, "5.3.4", CONTENT),
        (Phase.SENDER, 451, None, TEMPORARY),
        (Phase.RECIPIENT, 550, "5.1.1", RECIPIENT),
        (Phase.RECIPIENT, 554, "5.7.1", RECIPIENT),
        (Phase.RECIPIENT, 554, None, RECIPIENT),
        (Phase.RECIPIENT, 550, "5.7.54", CONFIGURATION),
        (Phase.RECIPIENT, 530, None, CONFIGURATION),
        (Phase.DATA, 550, None, CONTENT),
        (Phase.DATA, 554, "5.7.1", CONTENT),
        (Phase.DATA, 550, "5.1.1", RECIPIENT),
        (Phase.DATA, 552, "5.2.2", RECIPIENT),
        (Phase.DATA, 552, "5.3.4", CONTENT),
        (Phase.DATA, 452, "4.3.1", TEMPORARY),
        (Phase.DATA, 550, "5.7.60", CONFIGURATION),
    ],
)
def test_a_reply_means_in_its_place(phase, code, enhanced, verdict):
    assert classify_in(phase, code, enhanced) is verdict


def ssl_error(reason):
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (AnswerLost("SMTPServerDisconnected: Connection unexpectedly closed"), AMBIGUOUS),
        (smtplib.SMTPServerDisconnected("Connection unexpectedly closed"), TEMPORARY),
        (smtplib.SMTPServerDisconnected("Connection unexpectedly closed: timed out"), TEMPORARY),
        (ConnectionRefusedError(111, "Connection refused"), TEMPORARY),
        (ConnectionResetError(104, "Connection reset by peer"), TEMPORARY),
        (TimeoutError("timed out"), TEMPORARY),
        (OSError(101, "Network is unreachable"), TEMPORARY),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), TEMPORARY),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), CONFIGURATION),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), CONFIGURATION),
        (ssl_error("WRONG_VERSION_NUMBER"), CONFIGURATION),
        (ssl_error("UNEXPECTED_EOF_WHILE_READING"), TEMPORARY),
        (smtplib.SMTPNotSupportedError("STARTTLS extension not supported by server."), CONFIGURATION),
        (smtplib.SMTPException("No suitable authentication method found."), CONFIGURATION),
        (ImproperlyConfigured("no mail backend"), CONFIGURATION),
        (smtplib.SMTPAuthenticationError(535, b"5.7.8 Error: authentication failed"), CONFIGURATION),
        (smtplib.SMTPAuthenticationError(454, b"4.7.0 Temporary authentication failure"), TEMPORARY),
        (smtplib.SMTPConnectError(554, b"5.7.1 Service unavailable"), CONFIGURATION),
        (smtplib.SMTPConnectError(421, b"4.3.2 too busy"), TEMPORARY),
        (smtplib.SMTPHeloError(550, b"go away"), CONFIGURATION),
        (smtplib.SMTPSenderRefused(530, b"5.7.0 Authentication required", "a@example.com"), CONFIGURATION),
        (smtplib.SMTPSenderRefused(452, b"4.3.1 no space", "a@example.com"), TEMPORARY),
        (smtplib.SMTPRecipientsRefused({"a@example.com": (550, b"5.1.1 no such user")}), RECIPIENT),
        (smtplib.SMTPRecipientsRefused({"a@example.com": (451, b"4.7.1 greylisted")}), TEMPORARY),
        (smtplib.SMTPRecipientsRefused({"a@example.com": (554, b"5.7.54 unable to relay")}), CONFIGURATION),
        (smtplib.SMTPRecipientsRefused({}), TEMPORARY),
        (smtplib.SMTPDataError(554, b"5.7.1 spam"), CONTENT),
        (smtplib.SMTPDataError(421, b"4.3.2 shutting down"), TEMPORARY),
        (smtplib.SMTPResponseException(454, b"4.7.0 TLS not available"), TEMPORARY),
        (ValueError("a bug in a mail backend"), TEMPORARY),
    ],
)
def test_an_exception_means(error, verdict):
    assert classify_exception(error).verdict is verdict


def test_the_text_quotes_the_reply():
    failure = classify_exception(smtplib.SMTPDataError(554, b"5.7.1 spam\nbecause of \xff"))

    assert failure.text == "554 5.7.1 spam\nbecause of \ufffd"


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        ("5.1.1 no such user", "5.1.1"),
        ("4.7.500 busy", "4.7.500"),
        ("5.7.8", "5.7.8"),
        ("5.1.1.2 is an address", None),
        ("6.1.1 no class", None),
        ("no such user 5.1.1", None),
        ("", None),
    ],
)
def test_the_enhanced_code_stands_first(reply, enhanced):
    assert enhanced_in(reply) == enhanced
