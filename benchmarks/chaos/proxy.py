"""A TCP proxy on the loopback before a PostgreSQL: slow, deaf, or losing the replies of commits."""

import asyncio
import random
import threading
from collections.abc import Coroutine
from typing import Any

# The end of every reply after which no transaction is open: what was sent before has been committed.
READY_AND_IDLE = b"Z\x00\x00\x00\x05I"


class Proxy:
    """Threads: one of its own runs the loop; what it is to do may be set by any."""

    def __init__(self, socket_path: str, rng: random.Random) -> None:
        self.socket_path, self.rng = socket_path, rng
        self.delay_seconds = 0.0
        self.deaf = False  # takes what comes and passes nothing on, without closing anything
        self.cut_share = 0.0  # of replies lost, each with its connection
        self.cuts = 0
        self.held_back = 0  # chunks that came while deaf
        self.delayed = 0
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True).start()
        self.server = self.call(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port: int = self.server.sockets[0].getsockname()[1]

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self) -> None:
        self.call(self.cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def cancel_all(self) -> None:
        self.server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            their_reader, their_writer = await asyncio.open_unix_connection(self.socket_path)
        except OSError:
            writer.transport.abort()
            return
        pumps = [
            self.loop.create_task(self.pump(reader, their_writer, False)),
            self.loop.create_task(self.pump(their_reader, writer, True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, their_writer):
                end.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_reply: bool) -> None:
        while chunk := await self.read(reader):
            if self.delay_seconds:
                self.delayed += 1
                await asyncio.sleep(self.delay_seconds)
            if self.deaf:
                # This connection has fallen into a hole: nothing more ever comes out of it.
                self.held_back += 1
                await asyncio.Event().wait()
            if is_reply and self.cut_share and chunk.endswith(READY_AND_IDLE) and self.rng.random() < self.cut_share:
                self.cuts += 1
                return
            writer.write(chunk)
            await writer.drain()

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65536)
        except ConnectionError:
            return b""
