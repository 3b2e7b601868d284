import base64
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec

from write_batcher.errors import CodecUnavailable, InvalidEntry, InvalidRequest, UnknownVersion
from write_batcher.models import MAX_REQUEST_ID_BYTES, ConfirmBy, ReplyAddress, WriteRequest
from write_batcher.queue import wire_form as codec_module
from write_batcher.queue.record_encoding import with_hash
from write_batcher.queue.signing import SIGNATURE, SIGNED
from write_batcher.queue.wire_form import MAX_KEY_BYTES, MAX_REPLY_BYTES, Codec, Fields, decode_reply

REPLY = ReplyAddress(workflow_id="order-7", run_id="run-1", attempt="run-1")
REQUEST = with_hash(WriteRequest(request_id="order-7/1", table="orders", record={"cents": 250}, reply=REPLY))
PLAIN = Codec(DataConverter.default)
REPLY_FIELD = b'{"workflow_id": "order-7", "run_id": "run-1", "attempt": "run-1", "mode": "signal"}'


class Scrambler(PayloadCodec):
    """Stands in for an encrypting codec: its output shows nothing of its input."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(data=base64.b85encode(payload.SerializeToString())) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(base64.b85decode(payload.data)) for payload in payloads]


class KeyServerAway(Scrambler):
    """Fails with `error` when it should decode, or also when it should encode."""

    def __init__(self, error: Exception, *, encodes: bool = True) -> None:
        self._error = error
        self._encodes = encodes

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if not self._encodes:
            raise self._error
        return await super().encode(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        raise self._error


def codec_with(payload_codec: PayloadCodec) -> Codec:
    return Codec(replace(DataConverter.default, payload_codec=payload_codec))


def payload(data: bytes, encoding: bytes = b"json/plain") -> bytes:
    return Payload(metadata={"encoding": encoding}, data=data).SerializeToString()


def entry(**fields: bytes | None) -> Fields:
    """A valid entry with `fields` replaced; None leaves a field out."""
    body = payload(b'{"table": "orders", "record": {"cents": 250}}')
    whole = {"v": b"1", "id": b"order-7/1", "reply": REPLY_FIELD, "payload": body} | fields
    return {name.encode(): value for name, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reply": None},
        {"key": "customer-7", "asked_ms": 1_700_000_000_000},
        {"request_id": "é" * (MAX_REQUEST_ID_BYTES // 2)},
        {"record": {}},
        {"record": {"name": "Zoë \u0000 🚚", "tags": [1, 2.5, None, {"deep": [True, "x"]}], "10": 10**30}},
        {"reply": ReplyAddress(workflow_id='ord"er\n7🚚', run_id="", attempt="a-1")},
        {"reply": replace(REPLY, mode=ConfirmBy.NONE, awaits_replay=True)},
    ],
)
async def test_request_survives_the_round_trip_with_the_hash_of_its_record(changes: dict[str, Any]) -> None:
    request = with_hash(replace(REQUEST, **changes))
    assert await PLAIN.decode(await PLAIN.encode(request)) == request


async def test_encoded_entry_has_the_documented_wire_form() -> None:
    fields = await PLAIN.encode(replace(REQUEST, key="k", asked_ms=5))
    body = Payload.FromString(fields.pop(b"payload"))
    reply = {"workflow_id": "order-7", "run_id": "run-1", "attempt": "run-1", "mode": "signal"}
    assert json.loads(fields.pop(b"reply")) == reply
    assert fields == {b"v": b"1", b"id": b"order-7/1", b"key": b"k", b"asked": b"5"}
    assert (body.metadata["encoding"], body.data) == (
        b"json/plain",
        b'{"record":{"cents":250},"table":"orders"}',
    )


def test_every_field_and_member_is_documented() -> None:
    documented = codec_module.__doc__ or ""
    for name in (*SIGNED, SIGNATURE, b"counted", b"first", b"replayed", b"control"):
        assert f"`{name.decode()}`" in documented
    for member in dataclasses.fields(ReplyAddress):
        assert f"`{member.name}`" in documented


async def test_entry_of_another_language_is_decoded() -> None:
    assert await PLAIN.decode(entry()) == REQUEST


async def test_entry_needs_only_a_version_an_id_and_a_payload() -> None:
    assert await PLAIN.decode(entry(reply=None)) == replace(REQUEST, reply=None)
    assert decode_reply({b"reply": b'{"mode": "none"}'}) == ReplyAddress(
        workflow_id="", run_id="", attempt="", mode=ConfirmBy.NONE
    )
    signal = decode_reply({b"reply": b'{"mode": "signal", "workflow_id": "w"}'})
    assert signal == ReplyAddress(workflow_id="w", run_id="", attempt="")


async def test_two_records_under_one_id_without_an_attempt_are_two_tries() -> None:
    reply = b'{"workflow_id": "order-7", "run_id": "run-1", "mode": "signal"}'
    other = payload(b'{"table": "orders", "record": {"cents": 200}}')
    one, same, another = [await PLAIN.decode(entry(reply=reply, **more)) for more in ({}, {}, {"payload": other})]
    assert one.attempt == same.attempt == f"run-1/{one.record_hash}"
    assert another.attempt == f"run-1/{another.record_hash}" != one.attempt


async def test_hash_is_that_of_the_record_in_whatever_form_another_language_wrote_it() -> None:
    body = payload(b'{ "record" : {"b": "\\u00e9", "a": 1.50}, "table": "orders" }')
    request = await PLAIN.decode(entry(payload=body))
    assert request.record == {"a": 1.5, "b": "é"}
    assert request == with_hash(request)


async def test_reply_names_the_activity_to_complete() -> None:
    reply = replace(REPLY, attempt="a1b2", mode=ConfirmBy.COMPLETION, activity_id="5")
    fields = await PLAIN.encode(replace(REQUEST, reply=reply))
    assert json.loads(fields[b"reply"]) == {
        "workflow_id": "order-7",
        "run_id": "run-1",
        "attempt": "a1b2",
        "mode": "completion",
        "activity_id": "5",
    }
    assert decode_reply(fields) == reply


async def test_requests_of_two_attempts_differ_only_in_their_reply() -> None:
    first = await PLAIN.encode(REQUEST)
    second = await PLAIN.encode(replace(REQUEST, reply=replace(REPLY, attempt="run-2")))
    assert [name for name in first if first[name] != second[name]] == [b"reply"]


async def test_unknown_fields_are_ignored() -> None:
    body = payload(b'{"table": "orders", "record": {"cents": 250}, "later": 1}')
    assert await PLAIN.decode(entry(payload=body, trace=b"abc")) == REQUEST


async def test_request_without_a_reply_address_has_an_empty_reply() -> None:
    fields = await PLAIN.encode(replace(REQUEST, reply=None))
    assert fields[b"reply"] == b""


async def test_payload_codec_hides_table_and_record() -> None:
    codec = codec_with(Scrambler())
    fields = await codec.encode(REQUEST)
    assert b"orders" not in fields[b"payload"]
    assert b"cents" not in b"".join(fields.values())
    assert await codec.decode(fields) == REQUEST


@pytest.mark.parametrize("encoding", [b"binary/encrypted", b""])
async def test_entry_in_an_encoding_that_the_batcher_does_not_know_waits_for_one_that_does(encoding: bytes) -> None:
    with pytest.raises(CodecUnavailable, match=f"does not know the encoding {encoding!r}"):
        await PLAIN.decode(entry(payload=payload(b"x", encoding)))


@pytest.mark.parametrize("version", [b"2", b"17"])
async def test_entry_of_another_version_waits_for_a_batcher_that_knows_it(version: bytes) -> None:
    with pytest.raises(UnknownVersion, match=f"has version {version.decode()}, this batcher knows 1"):
        await PLAIN.decode({b"v": version, b"whatever": b"it has"})


async def test_encrypted_entry_that_holds_no_request_is_invalid() -> None:
    [scrambled] = await Scrambler().encode([Payload(metadata={"encoding": b"json/plain"}, data=b"[")])
    with pytest.raises(InvalidEntry, match=r"^The payload cannot be decoded"):
        await codec_with(Scrambler()).decode(entry(payload=scrambled.SerializeToString()))


ERRORS = [TimeoutError("key"), FileNotFoundError("key"), Exception("key"), ValueError("key")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_payload_codec_that_fails_makes_no_entry_invalid(error: Exception) -> None:
    codec = codec_with(KeyServerAway(error))
    with pytest.raises(CodecUnavailable, match="key"):
        await codec.decode(await codec.encode(REQUEST))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_payload_codec_that_fails_makes_no_request_invalid(error: Exception) -> None:
    with pytest.raises(CodecUnavailable, match=r"record of request 'order-7/1' cannot be encoded now: .*key"):
        await codec_with(KeyServerAway(error, encodes=False)).encode(REQUEST)


def test_codec_that_may_ask_somebody_is_known() -> None:
    assert PLAIN.asks_nobody
    assert not codec_with(Scrambler()).asks_nobody


@pytest.mark.parametrize(
    "fields",
    [
        {},
        entry(v=None),
        entry(v=b""),
        entry(v=b"0"),
        entry(v=b"one"),
        entry(v=b"1" * 100),
        entry(id=None),
        entry(payload=None),
        entry(id=b""),
        entry(id=b"\xff"),
        entry(id=b"\xed\xa0\x80"),  # a lone surrogate
        entry(id=b"x" * (MAX_REQUEST_ID_BYTES + 1)),
        entry(key=b""),
        entry(key=b"\xff"),
        entry(key=b"x" * (MAX_KEY_BYTES + 1)),
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
        entry(reply=b'{"workflow_id": "", "run_id": "r", "mode": "signal"}'),
        entry(reply=b'{"mode": "none", "padding": "' + b"x" * MAX_REPLY_BYTES + b'"}'),
        entry(reply=b"[" * 100_000),
        entry(reply=b"9" * 10_000),
        entry(payload=b"\xff\xff\xff"),
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
        entry(payload=payload(b'{"table": "orders", "record": {"x": 1e999}}')),
        entry(payload=payload(b'{"table": "orders", "record": {"x": NaN}}')),
        entry(payload=payload(b'{"table": "orders", "record": {"x": "\\ud800"}}')),
        entry(payload=payload(b'{"table": "\\ud800", "record": {}}')),
        entry(payload=payload(b'{"table": "orders", "record": {"x": ' + b"9" * 10_000 + b"}}")),
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
    except (InvalidEntry, CodecUnavailable):
        return
    assert request == with_hash(request)
    assert isinstance(request.table, str)
    assert isinstance(request.record, dict)


@given(field_values)
@settings(max_examples=100)
def test_any_reply_is_an_address_or_empty_or_an_invalid_entry(value: bytes) -> None:
    try:
        address = decode_reply({b"reply": value})
    except InvalidEntry:
        return
    assert address is None or address.workflow_id.encode() or not address.waits


@pytest.mark.parametrize("request_id", ["", "x" * (MAX_REQUEST_ID_BYTES + 1), "é" * 257, "\ud800"])
async def test_request_id_that_no_entry_can_hold_is_refused(request_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Request id "):
        await PLAIN.encode(replace(REQUEST, request_id=request_id))


def nested(levels: int) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for _ in range(levels):
        record = {"inner": record}
    return record


@pytest.mark.parametrize("key", ["x" * (MAX_KEY_BYTES + 1), "\ud800"])
async def test_key_that_no_entry_can_hold_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Key "):
        await PLAIN.encode(replace(REQUEST, key=key))


@pytest.mark.parametrize(
    "record",
    [{"thing": object()}, {("a", 1): 2}, {"tags": {1, 2}}, {"x": float("nan")}, {"x": "\ud800"}, nested(10_000)],
    ids=["object", "tuple as key", "set", "NaN", "lone surrogate", "too deep"],
)
async def test_record_that_cannot_be_encoded_is_refused_with_its_request_id(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^The record of request 'order-7/1' cannot be encoded \(.*\): use JSON"):
        await PLAIN.encode(replace(REQUEST, record=record))


records = st.dictionaries(st.text(max_size=4), json_values, max_size=4)


@given(records)
@settings(max_examples=100)
async def test_any_json_record_keeps_its_hash_through_the_stream(record: dict[str, Any]) -> None:
    try:
        request = with_hash(replace(REQUEST, record=record))
    except ValueError:  # NaN, lone surrogates
        with pytest.raises(InvalidRequest):
            await PLAIN.encode(replace(REQUEST, record=record))
        return
    assert (await PLAIN.decode(await PLAIN.encode(request))).record_hash == request.record_hash
