"""The SMTP server of the tests does what a test tells it to."""

import smtplib
import threading

import pytest

pytestmark = pytest.mark.any_database

CONTENT = "Subject: Hello\r\n\r\nWorld\r\n"


def send(server, recipient):
    with smtplib.SMTP(server.host, server.port, timeout=5) as client:
        return client.sendmail("from@example.com", [recipient], CONTENT)


def test_it_records_what_it_accepts(smtp_server):
    send(smtp_server, "ada@example.com")

    (delivery,) = smtp_server.accepted
    assert delivery.recipients == ["ada@example.com"]
    assert delivery.message["Subject"] == "Hello"


def test_it_refuses_a_recipient_as_often_as_it_was_told(smtp_server):
    smtp_server.answer("ada@example.com", "451 4.3.0 try again", times=1)

    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        send(smtp_server, "ada@example.com")
    send(smtp_server, "ada@example.com")

    assert caught.value.recipients["ada@example.com"] == (451, b"4.3.0 try again")
    assert len(smtp_server.accepted) == 1


def test_it_refuses_the_content(smtp_server):
    smtp_server.answer("ada@example.com", "554 5.7.1 spam", after_data=True)

    with pytest.raises(smtplib.SMTPDataError):
        send(smtp_server, "ada@example.com")

    assert len(smtp_server.to("ada@example.com")) == 1
    assert smtp_server.accepted == []


def test_it_drops_the_connection_after_the_data(smtp_server):
    smtp_server.drop_after_data()

    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(smtp_server, "ada@example.com")

    assert len(smtp_server.to("ada@example.com")) == 1


def test_it_holds_a_dialogue_in_the_data(smtp_server):
    smtp_server.hold()
    client = threading.Thread(target=send, args=(smtp_server, "ada@example.com"))
    client.start()

    assert smtp_server.in_data.wait(5)
    assert smtp_server.accepted == []

    smtp_server.go_on()
    client.join(5)
    assert len(smtp_server.accepted) == 1
