"""What Redis and its log hold of a request, without and with a payload codec that encrypts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from redis.asyncio import Redis
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import DataConverter, PayloadCodec

from tests.support.order_callers import result_of, stacked
from tests.support.redis_kinds import OneServer
from tests.support.waiting import eventually
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.temporal_server import TemporalServer


class Encryption(PayloadCodec):
    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(256))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._encrypted(payload.SerializeToString()) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload.FromString(self._cipher.decrypt(payload.data[:12], payload.data[12:], None)) for payload in payloads
        ]

    def _encrypted(self, plain: bytes) -> Payload:
        nonce = os.urandom(12)
        return Payload(
            metadata={"encoding": b"binary/encrypted"}, data=nonce + self._cipher.encrypt(nonce, plain, None)
        )


@pytest.mark.parametrize("codec", [None, Encryption()], ids=["plain", "encrypted"])
async def test_payload_codec_decides_whether_redis_holds_records_in_plain_text(
    temporal_server: TemporalServer, tmp_path: Path, name: str, codec: PayloadCodec | None
) -> None:
    converter = DataConverter(payload_codec=codec)
    client = await Client.connect(temporal_server.address, data_converter=converter)
    secrets = [b"darjeeling", b"lapsang", b"orders"]
    server = OneServer(tmp_path)
    async with server, connect(server.url) as redis, stacked(client, name, redis, server) as stack, stack.caller():
        stack.sink.refuse_all("sold out")
        bad = await stack.start(items=("lapsang",))
        await eventually(lambda: stack.holds(1))
        await stack.drain()
        await eventually(stack.has_dead_letter)
        with pytest.raises(Exception, match="Workflow execution failed"):
            await result_of(bad)
        stack.sink.refuse_all(None)
        await result_of(await stack.start(items=("darjeeling",)))
        found = await everything_in(redis)
    logged = b"".join(file.read_bytes() for file in (tmp_path / "redis").rglob("*") if file.is_file())
    assert [row.record for row in stack.sink.rows] == [{"item": "darjeeling"}]
    assert [secret in logged for secret in secrets] == [codec is None] * 3
    # The request for darjeeling is written and gone.
    assert [secret in found for secret in secrets] == [False, codec is None, codec is None]


async def everything_in(redis: Redis) -> bytes:
    """All keys and values, readable."""
    seen: list[Any] = []
    for key in await redis.keys():
        match cast(bytes, await redis.type(key)):
            case b"stream":
                seen += [key, await redis.xrange(key)]
            case b"hash":
                seen += [key, await redis.hgetall(key)]
            case b"string":
                seen += [key, await redis.get(key)]
            case kind:
                assert kind == b"none", f"nobody reads a {kind!r} here"  # deleted since its name was read
    return repr(seen).encode()
