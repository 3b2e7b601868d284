"""A TCP proxy between a worker and a server, which breaks connections in the ways networks do."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from write_batcher.workers.embedded.server import HOST

CHUNK = 65_536


class Network(Enum):
    """What the proxy does with what it is given."""

    UP = "up"
    REFUSING = "refusing"
    """New connections are closed at once; those there were are cut."""
    SILENT = "silent"
    """Connections stay open and nothing passes: a firewall that drops, a server that hangs."""
    DEAF = "deaf"
    """Requests pass, replies do not: what was asked is done, and nobody learns of it."""


@dataclass
class Proxy:
    """Passes bytes on to `target_port` of this machine, which may change; `delay_s` holds back every reply."""

    target_port: int
    network: Network = Network.UP
    delay_s: float = 0.0
    delayed_s: float = 0.0
    """How long replies were held back, all together."""
    swallowed: int = 0
    """Bytes of replies that were not passed on."""
    loses_reply_to: bytes | None = None
    """A request with these bytes is passed on and done; instead of its reply the connection is cut."""
    losses: int = 1
    """How many such replies are still to be lost."""
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
        """Change the network. Connections that were silent or deaf are cut: their bytes would be out of step."""
        before, self.network = self.network, network
        if network is Network.REFUSING or before in (Network.SILENT, Network.DEAF):
            self.cut()

    def cut(self) -> None:
        """End all connections, as a reset does."""
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
            doomed = asyncio.Event()
            requests = asyncio.create_task(self._pass_requests(reader, server_writer, doomed))
            replies = asyncio.create_task(self._pass_replies(server_reader, writer, doomed))
            await asyncio.wait({requests, replies}, return_when=asyncio.FIRST_COMPLETED)
            for task in (requests, replies):
                task.cancel()
        finally:
            for end in (writer, server_writer):
                self._connections.discard(end)
                end.transport.abort()

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self.network is Network.SILENT:
                    continue
                if self.losses and self.loses_reply_to and self.loses_reply_to in data:
                    self.losses -= 1
                    doomed.set()
                writer.write(data)
                await writer.drain()

    async def _pass_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    came = time.monotonic()
                    await asyncio.sleep(self.delay_s)
                    self.delayed_s += time.monotonic() - came
                if doomed.is_set():
                    self.swallowed += len(data)
                    return
                if self.network is Network.DEAF:
                    self.swallowed += len(data)
                elif self.network is not Network.SILENT:
                    writer.write(data)
                    await writer.drain()
