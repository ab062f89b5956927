"""A TCP proxy on the loopback before a PostgreSQL: slow, deaf, or losing the replies of commits."""

import random
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

# The end of every reply after which no transaction is open: what was sent before has been committed.
READY_AND_IDLE = b"Z\x00\x00\x00\x05I"
WRITTEN = (b"UPDATE ", b"INSERT ", b"COMMIT")  # the tags of what was


class Proxy:
    """Threads: one that accepts, two for each connection; what it is to do may be set by any."""

    def __init__(self, socket_path: str, rng: random.Random) -> None:
        self.socket_path, self.rng = socket_path, rng
        self.delay_seconds = 0.0
        self.cut_share = 0.0  # of replies lost, each with its connection
        self.cuts = self.held_back = self.delayed = 0
        self.is_deaf = False  # takes what comes and passes nothing on, without closing anything
        self.hears_again = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, name="proxy", daemon=True).start()

    def deafen(self) -> None:
        self.hears_again.clear()
        self.is_deaf = True

    def hear(self) -> None:
        """Serve new connections again. Those that fell silent stay silent: only the server learns of their end."""
        self.is_deaf = False
        self.hears_again.set()

    def stop(self) -> None:
        self.listener.close()
        self.hear()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self.socket_path)
                except OSError:
                    client.close()
                    continue
                link = Link(client, server)
                for is_reply in (False, True):
                    threading.Thread(target=self.pump, args=(link, is_reply), daemon=True).start()

    def pump(self, link: "Link", is_reply: bool) -> None:
        source, target = (link.server, link.client) if is_reply else (link.client, link.server)
        with suppress(OSError):
            while chunk := source.recv(65536):
                if self.delay_seconds:
                    self.delayed += 1
                    time.sleep(self.delay_seconds)
                if self.is_deaf or link.is_silent:
                    # This connection has fallen into a hole: nothing more ever comes out of it.
                    link.is_silent = True
                    self.held_back += 1
                    self.hears_again.wait()
                    end(link.server)
                    return
                is_end = is_reply and chunk.endswith(READY_AND_IDLE) and any(tag in chunk for tag in WRITTEN)
                if is_end and self.cut_share and self.rng.random() < self.cut_share:
                    self.cuts += 1
                    break
                target.sendall(chunk)
        end(link.server)
        if not link.is_silent:
            end(link.client)


@dataclass
class Link:
    client: socket.socket
    server: socket.socket
    is_silent: bool = False


def end(connection: socket.socket) -> None:
    """End a connection, also for the thread that waits for it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
