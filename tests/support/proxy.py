"""A TCP proxy between a worker and a server that breaks connections in the ways networks do."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from write_batcher.workers.embedded.server import HOST

CHUNK = 65_536


class Network(Enum):
    """How the proxy treats connections."""

    UP = "up"
    REFUSING = "refusing"
    """Existing connections are cut, new ones are closed at once."""
    SILENT = "silent"
    """Connections stay open and nothing passes, as with a firewall that drops packets or a server that hangs."""
    DEAF = "deaf"
    """Requests pass, replies do not: the server does what it is asked, and the client never learns of it."""


@dataclass
class Proxy:
    """A proxy to a server on this machine. Its fields may be changed while it runs."""

    target_port: int
    network: Network = Network.UP
    delay_s: float = 0.0
    """By which every reply is held back."""
    delayed_s: float = 0.0
    """By which replies have been held back so far, in total."""
    swallowed: int = 0
    """Bytes of replies that were not passed on."""
    loses_reply_to: bytes | None = None
    """A request that contains these bytes is passed on, and the connection is cut instead of passing its reply."""
    losses: int = 1
    """How many more such replies are to be lost."""
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def become(self, network: Network) -> None:
        """Change the network. Connections that were silent or deaf are cut: bytes are missing from them."""
        before, self.network = self.network, network
        if network is Network.REFUSING or before in (Network.SILENT, Network.DEAF):
            self.cut()

    def cut(self) -> None:
        """Abort all connections, as a TCP reset does."""
        for writer in self._connections:
            writer.transport.abort()
        self._connections.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.network is Network.REFUSING:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, server_writer}
        try:
            reply_is_lost = asyncio.Event()
            requests = asyncio.create_task(self._pass_requests(reader, server_writer, reply_is_lost))
            replies = asyncio.create_task(self._pass_replies(server_reader, writer, reply_is_lost))
            await asyncio.wait({requests, replies}, return_when=asyncio.FIRST_COMPLETED)
            for task in (requests, replies):
                task.cancel()
        finally:
            for end in (writer, server_writer):
                self._connections.discard(end)
                end.transport.abort()

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply_is_lost: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self.network is Network.SILENT:
                    continue
                if self.losses and self.loses_reply_to and self.loses_reply_to in data:
                    self.losses -= 1
                    reply_is_lost.set()
                writer.write(data)
                await writer.drain()

    async def _pass_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply_is_lost: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    received = time.monotonic()
                    await asyncio.sleep(self.delay_s)
                    self.delayed_s += time.monotonic() - received
                if reply_is_lost.is_set():
                    self.swallowed += len(data)
                    return
                if self.network is Network.DEAF:
                    self.swallowed += len(data)
                elif self.network is not Network.SILENT:
                    writer.write(data)
                    await writer.drain()
