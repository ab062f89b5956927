"""A real SMTP server on the loopback, which remembers what reached it and misbehaves on request."""

import asyncio
import email
import email.policy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

OK = "250 2.0.0 queued"


@dataclass
class Delivery:
    """One mail whose content the server has received in full, whatever it answered then."""

    sender: str
    recipients: list[str]
    content: bytes
    accepted: bool = False

    @property
    def message(self) -> EmailMessage:
        return email.message_from_bytes(self.content, policy=email.policy.default)


@dataclass
class Answer:
    """What the server says for a recipient: to RCPT TO, or only to the data."""

    text: str
    times: int | None
    after_data: bool

    def spend(self) -> bool:
        """Return whether this answer still holds, and count it."""
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass
class SMTPServer:
    """What a test sees: the deliveries, and the switches.

    Threads: the server runs in its own; tests read and switch from theirs.
    """

    host: str = "127.0.0.1"
    port: int = 0
    deliveries: list[Delivery] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    dropping: bool = False
    in_data: threading.Event = field(default_factory=threading.Event)
    open_gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open_gate.set()

    @property
    def url(self) -> str:
        """The EMAIL_URL of this server."""
        return f"smtp://{self.host}:{self.port}"

    @property
    def accepted(self) -> list[Delivery]:
        """The mails that the server promised to deliver."""
        return [delivery for delivery in self.deliveries if delivery.accepted]

    def to(self, recipient: str) -> list[Delivery]:
        """The mails for this recipient, accepted or not."""
        return [delivery for delivery in self.deliveries if recipient in delivery.recipients]

    def answer(self, recipient: str, text: str, *, times: int | None = None, after_data: bool = False) -> None:
        """Answer this recipient with, say, `451 4.3.0 try again`: `times` times, or for ever."""
        self.answers[recipient] = Answer(text, times, after_data)

    def hold(self) -> None:
        """Keep every dialogue waiting for its answer, after the data arrived, until `go_on()`.

        `in_data` is set as soon as one waits.
        """
        self.in_data.clear()
        self.open_gate.clear()

    def go_on(self) -> None:
        self.open_gate.set()

    def drop_after_data(self, dropping: bool = True) -> None:
        """Close connections once the data arrived, with no answer: the client cannot know what happened."""
        self.dropping = dropping


class Handler:
    """Aiosmtpd's side of it."""

    def __init__(self, state: SMTPServer) -> None:
        self.state = state

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.state.answers.get(address)
        if answer and not answer.after_data and answer.spend():
            return answer.text
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        delivery = Delivery(str(envelope.mail_from), list(envelope.rcpt_tos), bytes(envelope.original_content or b""))
        self.state.deliveries.append(delivery)
        self.state.in_data.set()
        while not self.state.open_gate.is_set():
            await asyncio.sleep(0.01)

        if self.state.dropping:
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
            return OK
        for recipient in delivery.recipients:
            answer = self.state.answers.get(recipient)
            if answer and answer.after_data and answer.spend():
                return answer.text
        delivery.accepted = True
        return OK


class LoopbackController(Controller):
    """A controller on a port that the system chooses."""

    def _trigger_server(self) -> None:
        # The base class connects to the port that it was given, and that is 0 here.
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def running_smtp_server() -> Iterator[SMTPServer]:
    state = SMTPServer()
    controller = LoopbackController(Handler(state), hostname=state.host, port=0)
    controller.start()
    state.port = controller.port
    try:
        yield state
    finally:
        state.go_on()
        controller.stop()
