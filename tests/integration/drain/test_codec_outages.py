"""Entries that the payload codec cannot decode right now wait, and hold up nobody."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from tests.support.drain_stage import NEVER, Stage
from tests.support.waiting import eventually
from write_batcher.activities.drain import decode, hold
from write_batcher.activities.drain.backoff import Backoff
from write_batcher.activities.drain.read import ALONE_AFTER_DELIVERIES
from write_batcher.queue.stream import CONSUMER, GROUP

CODEC_ERRORS = [FileNotFoundError("no key"), Exception("as of a foreign HTTP client")]


class KeyServer(PayloadCodec):
    """A codec that fails with `error` for payloads that hold `unknown_key`, and for all payloads while it is `away`."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.away = False
        self.unknown_key = b""
        self.failures = 0

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self.away or any(self.unknown_key and self.unknown_key in payload.data for payload in payloads):
            self.failures += 1
            raise self._error
        return list(payloads)


@pytest.mark.parametrize("error", CODEC_ERRORS, ids=["OSError", "foreign"])
async def test_entry_with_an_unknown_key_holds_up_nobody(stage: Stage, error: Exception) -> None:
    keys = KeyServer(error)
    keys.unknown_key = b"foreign"
    stage.decode_with(keys)
    await stage.append_to("foreign", "f")
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: stage.sink.row_ids == ["a"])
        await eventually(lambda: keys.failures > ALONE_AFTER_DELIVERIES)
        await stage.append("b")
        await eventually(lambda: stage.sink.row_ids == ["a", "b"])
        assert stage.temporal.receipts("f") == []
        keys.unknown_key = b""
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a", "b", "f"]


@pytest.mark.parametrize("error", CODEC_ERRORS, ids=["OSError", "foreign"])
async def test_codec_outage_rejects_nobody(stage: Stage, error: Exception) -> None:
    stage.max_wait = NEVER
    keys = KeyServer(error)
    keys.away = True
    stage.decode_with(keys)
    await stage.append("a", "b", "c")
    async with stage.draining():
        await eventually(lambda: keys.failures > 3 * ALONE_AFTER_DELIVERIES)
        keys.away = False
        await eventually(stage.is_empty)
    assert sorted(stage.sink.row_ids) == ["a", "b", "c"]
    assert (await stage.statistics()).dead == 0


async def test_codec_that_stays_away_is_not_asked_repeatedly(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "BACKOFF", Backoff(60.0, 60.0))
    keys = KeyServer(CODEC_ERRORS[0])
    keys.away = True
    stage.decode_with(keys)
    await stage.append("a")
    async with stage.draining():
        await eventually(lambda: keys.failures)
        keys.away = False
        await stage.append("b")
        await eventually(lambda: stage.sink.row_ids == ["b"])
    assert keys.failures == 1
    assert (await stage.statistics()).pending == 1


class OwnPayloads(PayloadCodec):
    """A codec that returns what `decoded` makes of a payload."""

    def __init__(self, decoded: Callable[[Payload], list[Payload]]) -> None:
        self._decoded = decoded

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [one for payload in payloads for one in self._decoded(payload)]


async def test_order_within_a_key_is_kept_when_only_one_of_its_entries_is_suspect(stage: Stage) -> None:
    stage.decode_with(OwnPayloads(lambda payload: [payload]))
    for name in ("a1", "a2", "a3"):
        await stage.append_foreign(name, changes={b"key": b"k"})
    await stage.deliver_without_writing(1)
    suspect = (await stage.pending())[1]
    await stage.redis.xclaim(
        stage.queue.stream_key, GROUP, CONSUMER, 0, [suspect.entry_id], retrycount=ALONE_AFTER_DELIVERIES + 1
    )
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a1", "a2", "a3"]


async def test_codec_that_returns_no_payload_holds_up_nobody(stage: Stage) -> None:
    nothing: Any = None
    stage.decode_with(OwnPayloads(lambda payload: [nothing if b"foreign" in payload.data else payload]))
    await stage.append("a")
    await stage.append_to("foreign", "f")
    await stage.append("b")
    async with stage.draining():
        await eventually(lambda: stage.sink.row_ids == ["a", "b"])
        await eventually(lambda: stage.holds(1))


async def test_what_a_codec_returns_beyond_one_payload_is_ignored(stage: Stage) -> None:
    stage.decode_with(OwnPayloads(lambda payload: [payload, payload]))
    await stage.append("a")
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == ["a"]


class SlowKeyServer(PayloadCodec):
    """A codec that asks a server for each payload, and notes how many questions are open at a time."""

    def __init__(self) -> None:
        self._open = 0
        self.most_open = 0

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        await asyncio.sleep(0.02)
        self._open -= 1
        return list(payloads)


async def test_codec_that_asks_a_server_is_asked_for_many_entries_at_a_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "AT_ONCE_WITHIN", timedelta(seconds=0.05))
    keys = SlowKeyServer()
    stage.decode_with(keys)
    names = [f"{number:02}" for number in range(40)]
    for name in names:
        await stage.append(name)
    async with stage.draining():
        await eventually(stage.is_empty)
    assert stage.sink.row_ids == names
    assert keys.most_open > 10
