"""Write request <-> fields of a stream entry. The one place that knows the wire form (version 1).

| field     | value                                                                                               |
|-----------|-----------------------------------------------------------------------------------------------------|
| `v`       | `1`                                                                                                 |
| `id`      | request id, UTF-8, at most 512 bytes                                                                |
| `reply`   | JSON `{"workflow_id", "run_id", "attempt", "call", "mode", "activity_id"}`; empty without a caller  |
| `asked`   | optional: when the caller asked, in milliseconds since the epoch; orders attempts of one workflow   |
| `payload` | serialized `temporal.api.common.v1.Payload` of `{"table", "record"}`, through the data converter    |

In `reply`, `mode` is `signal`, `completion` or `none`, `activity_id` belongs to the second, and `attempt` (by default
the run id) names the try that asked, which alone a rejection or a withdrawal binds. Entries are compared by the bytes
of `id` and `reply`: a request that one submit, numbered by `call` (by default 0), asks for twice is queued once.
"""

import asyncio
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.converter import DataConverter, DefaultPayloadConverter

from write_batcher.errors import CodecUnavailable, InvalidEntry, InvalidRequest
from write_batcher.models import MAX_REQUEST_ID_BYTES, ConfirmBy, ReplyAddress, WriteRequest

VERSION = b"1"

MILLISECONDS = re.compile(rb"\d{1,18}")

Fields = dict[bytes, bytes]

MAX_REPLY_BYTES = 8192  # the ids that Temporal allows, in JSON

CODEC_LIMIT = timedelta(seconds=10)  # of the payload codec for one entry; the others wait behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBody:
    """What is encoded, and with a payload codec encrypted: the part of a request that may be confidential."""

    table: str
    record: dict[str, Any]


class Codec:
    """Encodes with the client's data converter and codec: what is encrypted in Temporal is encrypted in Redis."""

    def __init__(self, data_converter: DataConverter) -> None:
        self._converter = data_converter
        # Codec and external storage without the converter: an error in front of the converter need not be the entry's.
        self._unwrapper = replace(data_converter, payload_converter_class=DefaultPayloadConverter)

    async def encode(self, request: WriteRequest) -> Fields:
        """Raises InvalidRequest for a request that no entry can carry."""
        request_id = _request_id_bytes(request.request_id)
        try:
            [payload] = await self._converter.encode([WriteBody(table=request.table, record=request.record)])
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"record of request {request.request_id} cannot be encoded: {error}") from error
        return {
            b"v": VERSION,
            b"id": request_id,
            b"reply": _encode_reply(request.reply),
            **({} if request.asked_ms is None else {b"asked": b"%d" % request.asked_ms}),
            b"payload": payload.SerializeToString(),
        }

    async def decode(self, fields: Fields) -> WriteRequest:
        """Raises InvalidEntry for anything that is not a version 1 entry of this data converter, and CodecUnavailable
        when its payload codec fails, with whatever error: its key server may be away, so the entry may be valid.
        """
        if fields.get(b"v") != VERSION:
            raise InvalidEntry(f"version {fields.get(b'v')!r} is not {VERSION!r}")
        missing = {b"id", b"reply", b"payload"} - fields.keys()
        if missing:
            raise InvalidEntry(f"fields are missing: {', '.join(sorted(name.decode() for name in missing))}")
        try:
            request_id = fields[b"id"].decode()
            payload = Payload.FromString(fields[b"payload"])
        except (UnicodeDecodeError, DecodeError) as error:
            raise InvalidEntry(f"not a write request: {error}") from error
        if not request_id or len(fields[b"id"]) > MAX_REQUEST_ID_BYTES:
            raise InvalidEntry(f"request id has {len(fields[b'id'])} bytes; 1 to {MAX_REQUEST_ID_BYTES} are allowed")
        reply = decode_reply(fields)
        try:
            async with asyncio.timeout(CODEC_LIMIT.total_seconds()):
                [raw] = await self._unwrapper.decode([payload], [RawValue])
        except Exception as error:
            raise CodecUnavailable(f"the payload codec cannot decode it now: {error!r}") from error
        try:
            [body] = self._converter.payload_converter.from_payloads([raw.payload], [WriteBody])
        except Exception as error:
            raise InvalidEntry(f"payload cannot be decoded: {error}") from error
        if not isinstance(body, WriteBody):  # the converter ignores the wanted type for null and for plain bytes
            raise InvalidEntry(f"payload holds {type(body).__name__} instead of a table and a record")
        asked = fields.get(b"asked", b"")
        return WriteRequest(
            request_id=request_id,
            table=body.table,
            record=body.record,
            reply=reply,
            asked_ms=int(asked) if MILLISECONDS.fullmatch(asked) else None,
        )


def decode_reply(fields: Fields) -> ReplyAddress | None:
    """The reply address alone, which may be readable when the rest of an entry is not. Raises InvalidEntry."""
    text = fields.get(b"reply", b"")
    if not text:
        return None
    if len(text) > MAX_REPLY_BYTES:  # no caller can have it: its receipt would fit into no signal
        raise InvalidEntry(f"reply address has {len(text)} bytes; {MAX_REPLY_BYTES} are allowed")
    try:
        reply = json.loads(text)
        mode = ConfirmBy(reply["mode"])
        run_id = str(reply["run_id"])
        address = ReplyAddress(
            workflow_id=str(reply["workflow_id"]),
            run_id=run_id,
            attempt=str(reply.get("attempt", run_id)),
            mode=mode,
            activity_id=str(reply["activity_id"]) if mode is ConfirmBy.COMPLETION else None,
            call=int(reply.get("call", 0)),
        )
        # JSON may hold lone surrogates, which no caller can be found by.
        _ = f"{address.workflow_id}{address.run_id}{address.attempt}{address.activity_id}".encode()
        return address
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidEntry(f"reply address cannot be decoded: {error!r}") from error


def _encode_reply(reply: ReplyAddress | None) -> bytes:
    if reply is None:
        return b""
    present = {name: value for name, value in asdict(reply).items() if value is not None}
    return json.dumps(present, sort_keys=True).encode()


def _request_id_bytes(request_id: str) -> bytes:
    try:
        encoded = request_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"request id {request_id!r} is not valid Unicode: {error.reason}") from error
    if not 1 <= len(encoded) <= MAX_REQUEST_ID_BYTES:
        raise InvalidRequest(
            f"request id {request_id[:80]!r} has {len(encoded)} bytes; use 1 to {MAX_REQUEST_ID_BYTES} bytes"
        )
    return encoded
