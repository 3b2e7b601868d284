"""The wire form (version 1): a write request as the fields of a stream entry. No other module knows it.

| field     | value                                                                                                |
|-----------|------------------------------------------------------------------------------------------------------|
| `v`       | `1`                                                                                                  |
| `id`      | request id: UTF-8, 1 to 512 bytes                                                                    |
| `key`     | optional: UTF-8, at most 512 bytes; decides on the partition and keeps the order; default: `id`      |
| `reply`   | optional: JSON with the members below; empty or missing without a caller                             |
| `asked`   | optional: when the caller asked, in milliseconds since the epoch; orders the attempts of a workflow  |
| `trace`   | optional: reserved for the caller's W3C `traceparent`                                                |
| `payload` | serialized `temporal.api.common.v1.Payload` of `{"table", "record"}`, from the data converter        |
| `sig`     | HMAC-SHA256 of the fields above and of `replayed`, in hexadecimal; required with a signing key       |

Members of `reply`: `mode` is `signal`, `completion` or `none`. `workflow_id`, `run_id` and `activity_id` name the
caller: `signal` needs the first, `completion` all three. `attempt` names the try that asked, and is new for every
record that is submitted (default: the run id and the record's hash); a rejection or a withdrawal binds that try alone.
`awaits_replay` says that the caller goes on waiting after a rejection. Two entries with the same bytes in `id` and
`reply` are the same request, queued once.

`counted`, `first`, `replayed`, `control` and everything that begins with `dead-` are reserved.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import DecodeError
from pydantic_core import from_json
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.converter import CompositePayloadConverter, DataConverter, DefaultPayloadConverter

from write_batcher.errors import CodecUnavailable, InvalidEntry, InvalidRequest, UnknownVersion
from write_batcher.models import MAX_REQUEST_ID_BYTES, ConfirmBy, ReplyAddress, WriteRequest
from write_batcher.queue.record_encoding import canonical_json, record_hash

VERSION = b"1"
VERSION_PATTERN = re.compile(rb"[1-9]\d{0,8}")
MAX_MILLISECONDS_DIGITS = 18
MAX_KEY_BYTES = 512
MAX_REPLY_BYTES = 8192  # enough for the longest ids that Temporal allows, as JSON
JSON_ENCODING = b"json/plain"  # of a payload whose data is JSON
USUAL_METADATA = {"encoding": JSON_ENCODING}
# What a payload with this metadata begins with, before the length of its data, which has a few bytes.
USUAL_PREFIX = Payload(metadata=USUAL_METADATA).SerializeToString() + b"\x12"
MOST_LENGTH_BYTES = 5

Fields = dict[bytes, bytes]
HashedBody = tuple[str, dict[str, Any], str]
"""A table, the record for it, and the hash of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBody:
    """The part of a request that may be confidential: a payload codec encrypts it."""

    table: str
    record: dict[str, Any]


class Codec:
    """Encodes with the client's data converter and codec: what is encrypted in Temporal is encrypted in Redis."""

    def __init__(self, data_converter: DataConverter) -> None:
        self._converter = data_converter
        # Payload codec and external storage run apart from the payload converter: an error in them may be an outage, an
        # error in the converter means that the entry is invalid.
        self._unwrapper = replace(data_converter, payload_converter_class=DefaultPayloadConverter)
        # A converter of one's own: that of the DataConverter is wrapped and does not tell its encodings.
        converter = data_converter.payload_converter_class()
        self._encodings = converter.converters.keys() if isinstance(converter, CompositePayloadConverter) else None
        self.asks_nobody = data_converter.payload_codec is None and data_converter.external_storage is None
        """Whether encoding and decoding are done at once: there is no payload codec and no external storage."""
        # A subclass of DataConverter may convert in ways of its own.
        self._is_usual = (
            type(data_converter) is DataConverter
            and data_converter.payload_converter_class is DefaultPayloadConverter
            and data_converter.external_storage is None
        )

    async def encode(self, request: WriteRequest) -> Fields:
        """Return the fields of the request's stream entry.

        Raises `InvalidRequest` when an id, the key or the record cannot be encoded whenever it is tried, and
        `CodecUnavailable` when the converter or the payload codec fails, which may be an outage of its key server.
        """
        fields = {b"v": VERSION, b"id": _encoded_id("Request id", request.request_id, MAX_REQUEST_ID_BYTES)}
        if request.key:
            fields[b"key"] = _encoded_id("Key", request.key, MAX_KEY_BYTES)
        fields[b"reply"] = _encode_reply(request.reply)
        if request.asked_ms is not None:
            fields[b"asked"] = b"%d" % request.asked_ms
        fields[b"payload"] = await self._encoded_body(request)
        return fields

    async def _encoded_body(self, request: WriteRequest) -> bytes:
        try:
            canonical = canonical_json(request.table, request.record)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The record of request {request.request_id!r} cannot be encoded ({error}): use JSON values."
            ) from error
        try:
            payload = await self._wrapped(self._plain(request, canonical))
        except Exception as error:
            raise CodecUnavailable(
                f"The record of request {request.request_id!r} cannot be encoded now: {error!r}."
            ) from error
        return payload.SerializeToString()

    def _plain(self, request: WriteRequest, canonical: bytes) -> Payload:
        if self._is_usual:
            return Payload(metadata=USUAL_METADATA, data=canonical)
        [plain] = self._converter.payload_converter.to_payloads([WriteBody(table=request.table, record=request.record)])
        if plain.metadata.get("encoding") == JSON_ENCODING:
            plain.data = canonical  # converters differ in spaces and in the order of keys
        return plain

    async def _wrapped(self, plain: Payload) -> Payload:
        if not self._is_usual:
            [wrapped] = await self._unwrapper.encode([RawValue(plain)])
            return wrapped
        if self._converter.payload_codec is None:
            return plain
        [wrapped] = await self._converter.payload_codec.encode([plain])
        return wrapped

    async def decode(self, fields: Fields) -> WriteRequest:
        """Return the write request of an entry.

        Raises `InvalidEntry` when the fields are not an entry of this version and this data converter. Raises
        `CodecUnavailable` when the payload codec fails in any way, or the converter does not know the encoding: the key
        server may be away, or this batcher be older than the entry, and the entry be valid. Raises `UnknownVersion` for
        an entry of another version, which a newer batcher may know.
        """
        _check(fields)
        reply = decode_reply(fields)
        table, record, digest = await self._decoded(fields)
        if reply and not reply.attempt:
            # With the hash, or two records under one request id would be taken for the same try.
            reply = replace(reply, attempt=f"{reply.run_id}/{digest}")
        return WriteRequest(
            request_id=fields[b"id"].decode(),
            key=fields.get(b"key", b"").decode(),
            table=table,
            record=record,
            record_hash=digest,
            reply=reply,
            asked_ms=milliseconds(fields.get(b"asked", b"")),
            replayed=b"replayed" in fields,
        )

    async def _decoded(self, fields: Fields) -> HashedBody:
        if self._is_usual and self.asks_nobody:
            usual = _usual_body(_usual_data_of(fields[b"payload"]))
            if usual:
                return usual
        payload = await self._unwrapped(_parsed(fields))
        if self._is_usual and payload.metadata == USUAL_METADATA:
            usual = _usual_body(payload.data)
            if usual:
                return usual
        return self._decoded_body(payload)

    async def _unwrapped(self, payload: Payload) -> Payload:
        try:
            if self._is_usual and self._converter.payload_codec:
                unwrapped, *_ = await self._converter.payload_codec.decode([payload])
            else:
                [raw] = await self._unwrapper.decode([payload], [RawValue])
                unwrapped = raw.payload
        except Exception as error:
            raise CodecUnavailable(f"The payload codec cannot decode the entry now: {error!r}.") from error
        if not isinstance(unwrapped, Payload):
            raise CodecUnavailable(f"The payload codec returned {type(unwrapped).__name__} instead of a payload.")
        return unwrapped

    def _decoded_body(self, payload: Payload) -> HashedBody:
        encoding = payload.metadata.get("encoding", b"")
        if self._encodings is not None and encoding not in self._encodings:
            raise CodecUnavailable(f"The data converter does not know the encoding {encoding!r} of the payload.")
        try:
            [body] = self._converter.payload_converter.from_payloads([payload], [WriteBody])
        except Exception as error:
            raise InvalidEntry(f"The payload cannot be decoded: {error}.") from error
        if not isinstance(body, WriteBody):  # for null and plain bytes the converter ignores the type that is asked for
            raise InvalidEntry(f"The payload holds {type(body).__name__} instead of a table and a record.")
        try:
            # Not from the payload's bytes: other languages write other spaces and orders of keys, and when one of their
            # callers settles, the hash is taken from the record.
            return body.table, body.record, record_hash(canonical_json(body.table, body.record))
        except (TypeError, ValueError) as error:
            raise InvalidEntry(f"The record is not JSON: {error}.") from error


def _usual_body(data: bytes | None) -> HashedBody | None:
    """The body in the JSON of a payload as Temporal's default converter would decode it, with its hash, but quickly.
    None for any that is the least bit unusual.
    """
    if data is None:
        return None
    try:
        match from_json(data):
            case {"table": str(table), "record": dict(record), **others} if not others:
                return table, record, record_hash(canonical_json(table, record))
    except (TypeError, ValueError, RecursionError):
        pass
    return None


def _usual_data_of(payload: bytes) -> bytes | None:
    """The data of a serialized payload that has nothing but JSON in it; None for any other."""
    if not payload.startswith(USUAL_PREFIX):
        return None
    length = 0
    for number in range(MOST_LENGTH_BYTES):  # a length as protobuf writes it, in groups of seven bits
        end = len(USUAL_PREFIX) + number + 1
        group = payload[end - 1] if end <= len(payload) else 0x80
        length |= (group & 0x7F) << 7 * number
        if group < 0x80:
            return payload[end:] if len(payload) - end == length else None
    return None


def _check(fields: Fields) -> None:
    """Raise `InvalidEntry` or `UnknownVersion` unless everything but the payload and the reply is in order."""
    version = fields.get(b"v", b"")
    if version != VERSION:
        if VERSION_PATTERN.fullmatch(version):
            raise UnknownVersion(f"The entry has version {version.decode()}, this batcher knows {VERSION.decode()}.")
        raise InvalidEntry(f"The entry has no version ({version[:20]!r}): it is not a write request.")
    if b"id" not in fields or b"payload" not in fields:
        missing = {b"id", b"payload"} - fields.keys()
        raise InvalidEntry(f"Fields are missing: {', '.join(sorted(name.decode() for name in missing))}.")
    for name, limit in ((b"id", MAX_REQUEST_ID_BYTES), (b"key", MAX_KEY_BYTES)):
        value = fields.get(name)
        if value is not None and not 1 <= len(value) <= limit:
            raise InvalidEntry(f"The field {name.decode()} has {len(value)} bytes; 1 to {limit} are allowed.")
    try:
        fields[b"id"].decode()
        fields.get(b"key", b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidEntry(f"Not a write request: {error}.") from error


def _parsed(fields: Fields) -> Payload:
    try:
        return Payload.FromString(fields[b"payload"])
    except DecodeError as error:
        raise InvalidEntry(f"Not a write request: {error}.") from error


def milliseconds(text: bytes) -> int | None:
    """Return the time in a field, in milliseconds since the epoch; None when there is none in it."""
    return int(text) if text.isdigit() and len(text) <= MAX_MILLISECONDS_DIGITS else None


def decode_reply(fields: Fields) -> ReplyAddress | None:
    """Decode the reply address alone, which may be readable when the rest of the entry is not. None without a caller.
    The attempt is empty when the entry names none.

    Raises `InvalidEntry` when it is malformed.
    """
    text = fields.get(b"reply", b"")
    if not text:
        return None
    if len(text) > MAX_REPLY_BYTES:  # no caller has such an address: its receipt would not fit into a signal
        raise InvalidEntry(f"The reply address has {len(text)} bytes, the limit is {MAX_REPLY_BYTES}.")
    try:
        reply = from_json(text)
        mode = ConfirmBy(reply["mode"])
        address = ReplyAddress(
            workflow_id=str(reply.get("workflow_id", "")),
            run_id=str(reply.get("run_id", "")),
            attempt=str(reply.get("attempt", "")),
            mode=mode,
            activity_id=str(reply["activity_id"]) if mode is ConfirmBy.COMPLETION else None,
            awaits_replay=reply.get("awaits_replay") is True,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidEntry(f"The reply address cannot be decoded: {error!r}.") from error
    if address.waits and not address.workflow_id:
        raise InvalidEntry("The reply address has no workflow_id, and so names no caller.")
    return address


def _encode_reply(reply: ReplyAddress | None) -> bytes:
    if reply is None:
        return b""
    present: dict[str, Any] = {
        "attempt": reply.attempt,
        "mode": reply.mode.value,
        "run_id": reply.run_id,
        "workflow_id": reply.workflow_id,
    }
    if reply.activity_id is not None:
        present["activity_id"] = reply.activity_id
    if reply.awaits_replay:
        present["awaits_replay"] = True
    return json.dumps(present, sort_keys=True).encode()


def _encoded_id(what: str, value: str, limit: int) -> bytes:
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{what} {value[:80]!r} is not valid Unicode: {error.reason}.") from error
    if not 1 <= len(encoded) <= limit:
        raise InvalidRequest(f"{what} {value[:80]!r} has {len(encoded)} bytes: use 1 to {limit} bytes.")
    return encoded
