"""A payload codec that asks a key server, and a key server that fails. Payloads stay as they are."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import DataConverter, PayloadCodec

RECORD = b'{"record"'  # what the payload of a stream entry begins with


@dataclass
class KeyServer(PayloadCodec):
    """Fails for the payloads of stream entries alone, or no workflow would run either."""

    hangs_at: bytes = b""
    """Gives no answer when it is asked to decode a record with these bytes; empty: always answers."""
    answers: int | None = None
    """How many records it encodes before its answers make no sense any more; None: all."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self.answers is not None and any(payload.data.startswith(RECORD) for payload in payloads):
            self.answers -= 1
            if self.answers < 0:
                raise ValueError("<html>502 Bad Gateway</html> is no key")
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self.hangs_at and any(
            payload.data.startswith(RECORD) and self.hangs_at in payload.data for payload in payloads
        ):
            await asyncio.Event().wait()
        return list(payloads)


def ask(server: KeyServer) -> None:
    """Have every Temporal client of this process use this codec."""
    connect = Client.connect
    converter = replace(DataConverter.default, payload_codec=server)

    async def connect_with_codec(*args: Any, **kwargs: Any) -> Client:
        return await connect(*args, data_converter=converter, **kwargs)

    setattr(Client, "connect", staticmethod(connect_with_codec))  # noqa: B010
