"""One dialogue with a real mail server, on each way that Django has to name it."""

import smtplib
import socket
import threading
from types import SimpleNamespace

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage

from jobs.exceptions import TimedOut
from notifications import transport
from notifications.verdicts import AnswerLost

pytestmark = pytest.mark.any_database


def message(recipient="ada@example.com"):
    return EmailMessage("Subject", "Text", "from@example.com", [recipient])


@pytest.fixture
def listener():
    """A server that says what a test scripts, one line for each thing the client sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def scripted(server, *lines):
    """Answer the next connection with these lines, the first as its greeting, then close it."""

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            for line in lines:
                connection.sendall(line.encode() + b"\r\n")
                connection.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.fixture
def smtp_script(listener, mail_goes_to):
    mail_goes_to(f"smtp://127.0.0.1:{listener.getsockname()[1]}")
    threads = []
    yield lambda *lines: threads.append(scripted(listener, *lines))
    for thread in threads:
        thread.join(10)


def test_it_sends_and_returns_what_the_server_said(smtp):
    assert transport.send(message()) == "2.0.0 queued"

    (delivery,) = smtp.accepted
    assert delivery.recipients == ["ada@example.com"]


def test_a_refused_recipient_raises_the_reply(smtp):
    smtp.answer("ada@example.com", "550 5.1.1 no such user")

    with pytest.raises(smtplib.SMTPRecipientsRefused):
        transport.send(message())


def test_a_refused_content_is_no_doubt(smtp):
    smtp.answer("ada@example.com", "554 5.7.1 spam", after_data=True)

    with pytest.raises(smtplib.SMTPDataError):
        transport.send(message())


def test_a_connection_lost_after_the_data_is_doubt(smtp):
    smtp.drop_after_data()

    with pytest.raises(AnswerLost, match="SMTPServerDisconnected"):
        transport.send(message())
    assert len(smtp.deliveries) == 1


def test_no_answer_to_the_data_in_time_is_doubt(smtp, configure, monkeypatch):
    monkeypatch.setattr(transport, "WHOLE_DIALOGUE_SECONDS", 1.0)
    configure(SMTP_TIMEOUT=0.5)
    smtp.hold()

    with pytest.raises(AnswerLost, match="timed out"):
        transport.send(message())
    smtp.go_on()


GREETING = ("220 test", "250 test")


@pytest.mark.parametrize(
    "lines",
    [
        ("220 test",),
        GREETING,
        (*GREETING, "250 sender ok"),
        (*GREETING, "250 sender ok", "250 recipient ok"),
    ],
)
def test_a_connection_lost_before_the_data_is_no_doubt(smtp_script, lines):
    smtp_script(*lines)

    with pytest.raises(smtplib.SMTPServerDisconnected):
        transport.send(message())


@pytest.mark.parametrize("answer", ["nonsense", "500-" + "x" * 9000])
def test_a_garbled_answer_to_the_data_is_no_promise(smtp_script, answer):
    smtp_script(*GREETING, "250 sender ok", "250 recipient ok", "354 go ahead", answer)

    with pytest.raises((AnswerLost, smtplib.SMTPDataError)):
        transport.send(message())


def test_every_2xx_takes_the_mail(smtp_script):
    smtp_script(*GREETING, "250 sender ok", "250 recipient ok", "354 go ahead", "252 taken, I think")

    assert transport.send(message()) == "taken, I think"


def test_a_rude_goodbye_changes_nothing(smtp_script):
    smtp_script(*GREETING, "250 sender ok", "250 recipient ok", "354 go ahead", "250 taken")

    assert transport.send(message()) == "taken"


def test_a_timeout_is_always_set(listener, mail_goes_to, configure, settings):
    mail_goes_to(f"smtp://127.0.0.1:{listener.getsockname()[1]}")
    if django.VERSION >= (6, 1):
        del settings.MAILERS["default"]["OPTIONS"]["timeout"]
    else:
        settings.EMAIL_TIMEOUT = None
    configure(SMTP_TIMEOUT=0.2)

    # It accepts the connection and never says a word.
    with pytest.raises(OSError, match="timed out"):
        transport.send(message())


def test_a_slow_server_is_given_up_before_the_data(smtp, configure, monkeypatch):
    # The dialogue may last 22 seconds, and the last 10 of them belong to the answer to the data.
    moments = iter([0.0, 11.0])
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: next(moments, 13.0)))

    with pytest.raises(TimeoutError, match="too slow"):
        transport.send(message())
    assert smtp.deliveries == []


def test_an_interruption_before_the_data_is_no_doubt(smtp, monkeypatch):
    def interrupted(*_):
        raise TimedOut

    monkeypatch.setattr(smtplib.SMTP, "rcpt", interrupted)

    with pytest.raises(TimeoutError, match="too slow"):
        transport.send(message())


def test_an_interruption_after_the_data_stays_one(smtp, monkeypatch):
    monkeypatch.setattr(transport, "QUIT_SECONDS", 0.1)

    def interrupted(self, data):
        self.docmd("data")
        raise TimedOut

    monkeypatch.setattr(smtplib.SMTP, "data", interrupted)

    with pytest.raises(TimedOut):
        transport.send(message())


def test_a_wrong_password_raises_the_reply(listener, mail_goes_to):
    mail_goes_to(f"smtp://shop:wrong@127.0.0.1:{listener.getsockname()[1]}")
    thread = scripted(listener, "220 test", "250-test\r\n250 AUTH PLAIN", "535 5.7.8 wrong", "535 5.7.8 wrong")

    with pytest.raises(smtplib.SMTPAuthenticationError):
        transport.send(message())
    thread.join(10)


def test_a_password_that_the_server_does_not_want_is_no_secret_failure(smtp, mail_goes_to):
    mail_goes_to(f"smtp://shop:secret@{smtp.host}:{smtp.port}")

    with pytest.raises(smtplib.SMTPNotSupportedError):
        transport.send(message())


def test_nobody_listens(mail_goes_to, listener):
    port = listener.getsockname()[1]
    listener.close()
    mail_goes_to(f"smtp://127.0.0.1:{port}")

    with pytest.raises(ConnectionRefusedError):
        transport.send(message())


def test_failing_silently_is_not_sending(smtp, settings):
    if django.VERSION < (6, 1):
        pytest.skip("the EMAIL_* settings cannot ask for it")
    settings.MAILERS["default"]["OPTIONS"]["fail_silently"] = True
    smtp.answer("ada@example.com", "550 5.1.1 no such user")

    with pytest.raises(smtplib.SMTPRecipientsRefused):
        transport.send(message())


def test_other_backends_simply_send(tmp_path, mail_goes_to, mailoutbox):
    assert transport.send(message()) == ""
    assert len(mailoutbox) == 1

    mail_goes_to(f"filemail:///{tmp_path}")
    assert transport.send(message()) == ""
    assert len(list(tmp_path.iterdir())) == 1


def test_a_backend_that_sends_nothing_has_failed(mail_goes_to, monkeypatch):
    from django.core.mail.backends.locmem import EmailBackend

    monkeypatch.setattr(EmailBackend, "send_messages", lambda self, messages: 0)

    with pytest.raises(OSError, match="sent nothing"):
        transport.send(message())


def test_a_backend_that_cannot_be_made_is_a_matter_of_configuration(settings):
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": "gone.Backend"}}
    else:
        settings.EMAIL_BACKEND = "gone.Backend"

    with pytest.raises(ImproperlyConfigured, match="no mail backend"):
        transport.send(message())


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_the_old_settings_still_work(smtp, settings):
    if django.VERSION >= (6, 1):
        del settings.MAILERS
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = smtp.host, smtp.port

    assert transport.send(message()) == "2.0.0 queued"
