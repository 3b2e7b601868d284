import asyncio
import base64
import dataclasses
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec

from write_batcher.errors import CodecUnavailable, InvalidEntry, InvalidRequest
from write_batcher.models import MAX_REQUEST_ID_BYTES, ConfirmBy, ReplyAddress, WriteRequest
from write_batcher.queue import wire_form as codec_module
from write_batcher.queue.wire_form import Codec, Fields, decode_reply

REPLY = ReplyAddress(workflow_id="order-7", run_id="run-1", attempt="run-1")
REQUEST = WriteRequest(request_id="order-7/1", table="orders", record={"cents": 250}, reply=REPLY)
PLAIN = Codec(DataConverter.default)
REPLY_FIELD = b'{"workflow_id": "order-7", "run_id": "run-1", "mode": "signal"}'


class Scrambler(PayloadCodec):
    """Stands in for an encrypting codec: its output shows nothing of its input."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(data=base64.b85encode(payload.SerializeToString())) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(base64.b85decode(payload.data)) for payload in payloads]


class KeyServerAway(Scrambler):
    """Fails with `error`, or never answers when that is None."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self._error:
            raise self._error
        await asyncio.get_running_loop().create_future()
        return []


def codec_with(payload_codec: PayloadCodec) -> Codec:
    return Codec(dataclasses.replace(DataConverter.default, payload_codec=payload_codec))


def payload(data: bytes, encoding: bytes = b"json/plain") -> bytes:
    return Payload(metadata={"encoding": encoding}, data=data).SerializeToString()


def entry(**fields: bytes | None) -> Fields:
    """A valid entry with `fields` replaced; None leaves a field out."""
    body = payload(b'{"table": "orders", "record": {"cents": 250}}')
    whole = {"v": b"1", "id": b"order-7/1", "reply": REPLY_FIELD, "payload": body} | fields
    return {name.encode(): value for name, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        dataclasses.replace(REQUEST, reply=None),
        dataclasses.replace(REQUEST, request_id="é" * (MAX_REQUEST_ID_BYTES // 2)),
        dataclasses.replace(REQUEST, record={}),
        dataclasses.replace(REQUEST, record={"name": "Zoë \u0000 🚚", "tags": [1, 2.5, None, {"deep": [True, "x"]}]}),
        dataclasses.replace(REQUEST, reply=ReplyAddress(workflow_id='ord"er\n7🚚', run_id="", attempt="")),
    ],
)
async def test_request_survives_the_round_trip(request_: WriteRequest) -> None:
    assert await PLAIN.decode(await PLAIN.encode(request_)) == request_


async def test_encoded_entry_has_the_documented_wire_form() -> None:
    fields = await PLAIN.encode(REQUEST)
    body = Payload.FromString(fields[b"payload"])
    assert (fields[b"v"], fields[b"id"]) == (b"1", b"order-7/1")
    assert json.loads(fields[b"reply"]) == {
        "workflow_id": "order-7",
        "run_id": "run-1",
        "attempt": "run-1",
        "call": 0,
        "mode": "signal",
    }
    assert (body.metadata["encoding"], json.loads(body.data)) == (
        b"json/plain",
        {"table": "orders", "record": {"cents": 250}},
    )


async def test_entry_of_another_language_is_decoded() -> None:
    assert await PLAIN.decode(entry()) == REQUEST


async def test_reply_names_the_activity_to_complete() -> None:
    reply = dataclasses.replace(REPLY, attempt="a1b2", mode=ConfirmBy.COMPLETION, activity_id="5")
    fields = await PLAIN.encode(dataclasses.replace(REQUEST, reply=reply))
    assert json.loads(fields[b"reply"]) == {
        "workflow_id": "order-7",
        "run_id": "run-1",
        "attempt": "a1b2",
        "call": 0,
        "mode": "completion",
        "activity_id": "5",
    }
    assert decode_reply(fields) == reply


async def test_requests_of_two_attempts_differ_only_in_their_reply() -> None:
    first = await PLAIN.encode(REQUEST)
    second = await PLAIN.encode(dataclasses.replace(REQUEST, reply=dataclasses.replace(REPLY, attempt="run-2")))
    assert [name for name in first if first[name] != second[name]] == [b"reply"]


async def test_unknown_fields_are_ignored() -> None:
    body = payload(b'{"table": "orders", "record": {"cents": 250}, "later": 1}')
    assert await PLAIN.decode(entry(payload=body, trace=b"abc")) == REQUEST


async def test_request_without_a_reply_address_has_an_empty_reply() -> None:
    fields = await PLAIN.encode(dataclasses.replace(REQUEST, reply=None))
    assert fields[b"reply"] == b""


async def test_payload_codec_hides_table_and_record() -> None:
    codec = codec_with(Scrambler())
    fields = await codec.encode(REQUEST)
    assert b"orders" not in fields[b"payload"]
    assert b"cents" not in b"".join(fields.values())
    assert await codec.decode(fields) == REQUEST


async def test_encrypted_entry_is_invalid_without_its_payload_codec() -> None:
    with pytest.raises(InvalidEntry):
        await PLAIN.decode(await codec_with(Scrambler()).encode(REQUEST))


async def test_encrypted_entry_that_holds_no_request_is_invalid() -> None:
    [scrambled] = await Scrambler().encode([Payload(metadata={"encoding": b"json/plain"}, data=b"[")])
    with pytest.raises(InvalidEntry, match=r"^The payload cannot be decoded"):
        await codec_with(Scrambler()).decode(entry(payload=scrambled.SerializeToString()))


@pytest.mark.parametrize(
    "error", [TimeoutError("key"), FileNotFoundError("key"), Exception("key"), ValueError("key")], ids=repr
)
async def test_payload_codec_that_fails_makes_no_entry_invalid(error: Exception) -> None:
    codec = codec_with(KeyServerAway(error))
    with pytest.raises(CodecUnavailable, match="key"):
        await codec.decode(await codec.encode(REQUEST))


async def test_payload_codec_that_hangs_makes_no_entry_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "CODEC_TIMEOUT", timedelta(milliseconds=20))
    codec = codec_with(KeyServerAway(None))
    with pytest.raises(CodecUnavailable, match="TimeoutError"):
        await codec.decode(await codec.encode(REQUEST))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        entry(v=None),
        entry(v=b"2"),
        entry(id=None),
        entry(reply=None),
        entry(payload=None),
        entry(id=b""),
        entry(id=b"\xff"),
        entry(id=b"\xed\xa0\x80"),  # a lone surrogate
        entry(id=b"x" * (MAX_REQUEST_ID_BYTES + 1)),
        entry(reply=b"{"),
        entry(reply=b"\xff\xfe\xfd"),
        entry(reply=b"null"),
        entry(reply=b'["signal"]'),
        entry(reply=b'"signal"'),
        entry(reply=b'{"workflow_id": "w", "run_id": "r"}'),
        entry(reply=b'{"workflow_id": "w", "run_id": "r", "mode": "pigeon"}'),
        entry(reply=b'{"run_id": "r", "mode": "signal"}'),
        entry(reply=b'{"workflow_id": "w", "run_id": "r", "mode": "completion"}'),
        entry(reply=b'{"workflow_id": "w", "run_id": "r", "attempt": "\\ud800", "mode": "signal"}'),
        entry(reply=b'{"workflow_id": "\\ud800", "run_id": "r", "mode": "signal"}'),
        entry(reply=b'{"workflow_id": "w", "run_id": "r", "call": "first", "mode": "signal"}'),
        entry(reply=b'{"workflow_id": "w", "run_id": "r", "call": 1e999, "mode": "signal"}'),
        entry(reply=b"[" * 100_000),
        entry(reply=b"9" * 10_000),
        entry(payload=b""),
        entry(payload=b"\xff\xff\xff"),
        entry(payload=payload(b"{}", b"binary/of-tomorrow")),
        entry(payload=payload(b"", b"binary/null")),
        entry(payload=payload(b"x", b"binary/plain")),
        entry(payload=payload(b"x", b"binary/protobuf")),
        entry(payload=payload(b"{")),
        entry(payload=payload(b"\xff")),
        entry(payload=payload(b"null")),
        entry(payload=payload(b'["orders", {}]')),
        entry(payload=payload(b'"orders"')),
        entry(payload=payload(b"{}")),
        entry(payload=payload(b'{"record": {}}')),
        entry(payload=payload(b'{"table": "orders"}')),
        entry(payload=payload(b'{"table": 5, "record": {}}')),
        entry(payload=payload(b'{"table": null, "record": {}}')),
        entry(payload=payload(b'{"table": "orders", "record": []}')),
        entry(payload=payload(b'{"table": "orders", "record": null}')),
        entry(payload=payload(b'{"table": "orders", "record": ' + b"[" * 100_000)),
    ],
)
async def test_malformed_entry_is_invalid(fields: Fields) -> None:
    with pytest.raises(InvalidEntry):
        await PLAIN.decode(fields)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["table", "record", "workflow_id", "run_id", "mode", "signal", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
json_bytes = json_values.map(lambda value: json.dumps(value).encode())
payload_bytes = st.builds(
    payload,
    json_bytes | st.binary(max_size=16),
    st.sampled_from([b"json/plain", b"json/protobuf", b"binary/null", b"binary/plain", b"binary/protobuf", b""]),
)
field_values = st.binary(max_size=32) | json_bytes | payload_bytes | st.sampled_from([b"1", b"", REPLY_FIELD])
field_names = st.sampled_from([b"v", b"id", b"reply", b"payload", b"control"]) | st.binary(max_size=4)


@given(st.dictionaries(field_names, field_values, max_size=6), st.booleans())
@settings(max_examples=100)
async def test_any_fields_are_a_request_or_an_invalid_entry(fields: Fields, has_all_fields: bool) -> None:
    if has_all_fields:
        fields = entry() | fields
    try:
        request = await PLAIN.decode(fields)
    except InvalidEntry:
        return
    assert isinstance(request.table, str)
    assert isinstance(request.record, dict)


@given(field_values)
@settings(max_examples=100)
def test_any_reply_is_an_address_or_empty_or_an_invalid_entry(value: bytes) -> None:
    try:
        address = decode_reply({b"reply": value})
    except InvalidEntry:
        return
    assert address is None or address.workflow_id.encode()


@pytest.mark.parametrize("request_id", ["", "x" * (MAX_REQUEST_ID_BYTES + 1), "é" * 257, "\ud800"])
async def test_request_id_that_no_entry_can_hold_is_refused(request_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Request id "):
        await PLAIN.encode(dataclasses.replace(REQUEST, request_id=request_id))


def nested(levels: int) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for _ in range(levels):
        record = {"inner": record}
    return record


@pytest.mark.parametrize("record", [{"thing": object()}, {("a", 1): 2}, nested(10_000)])
async def test_record_that_cannot_be_encoded_is_refused_with_its_request_id(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^The record of request 'order-7/1' cannot be encoded: .*\.$"):
        await PLAIN.encode(dataclasses.replace(REQUEST, record=record))
