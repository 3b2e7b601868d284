"""The wire form (version 1): a write request as the fields of a stream entry. No other module knows it.

| field     | value                                                                                               |
|-----------|-----------------------------------------------------------------------------------------------------|
| `v`       | `1`                                                                                                 |
| `id`      | request id, UTF-8, at most 512 bytes                                                                |
| `reply`   | JSON `{"workflow_id", "run_id", "attempt", "call", "mode", "activity_id"}`; empty without a caller  |
| `asked`   | optional: when the caller asked, in milliseconds since the epoch; orders attempts of one workflow   |
| `payload` | serialized `temporal.api.common.v1.Payload` of `{"table", "record"}`, from the data converter       |

In `reply`, `mode` is `signal`, `completion` or `none`; `activity_id` is there for `completion` only. `attempt`
(default: the run id) names the attempt that asked; a rejection or a withdrawal binds that attempt alone. `call`
(default: 0) numbers the submits of an attempt. Two entries with the same bytes in `id` and `reply` are the same
request, queued once.
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
MILLISECONDS_PATTERN = re.compile(rb"\d{1,18}")
MAX_REPLY_BYTES = 8192  # enough for the longest ids that Temporal allows, as JSON
CODEC_TIMEOUT = timedelta(seconds=10)  # for the payload codec to decode one entry; the entries behind it wait

Fields = dict[bytes, bytes]


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

    async def encode(self, request: WriteRequest) -> Fields:
        """Return the fields of the request's stream entry.

        Raises `InvalidRequest` when the request id is not 1 to 512 bytes of UTF-8, or the data converter cannot encode
        the record.
        """
        request_id = _request_id_bytes(request.request_id)
        try:
            [payload] = await self._converter.encode([WriteBody(table=request.table, record=request.record)])
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"The record of request {request.request_id!r} cannot be encoded: {error}.") from error
        return {
            b"v": VERSION,
            b"id": request_id,
            b"reply": _encode_reply(request.reply),
            **({} if request.asked_ms is None else {b"asked": b"%d" % request.asked_ms}),
            b"payload": payload.SerializeToString(),
        }

    async def decode(self, fields: Fields) -> WriteRequest:
        """Return the write request of an entry.

        Raises `InvalidEntry` when the fields are not a version 1 entry of this data converter. Raises
        `CodecUnavailable` when the payload codec fails in any way, or takes more than 10 s: its key server may be away
        and the entry valid.
        """
        if fields.get(b"v") != VERSION:
            raise InvalidEntry(f"Version {fields.get(b'v')!r} is not {VERSION!r}.")
        missing = {b"id", b"reply", b"payload"} - fields.keys()
        if missing:
            raise InvalidEntry(f"Fields are missing: {', '.join(sorted(name.decode() for name in missing))}.")
        try:
            request_id = fields[b"id"].decode()
            payload = Payload.FromString(fields[b"payload"])
        except (UnicodeDecodeError, DecodeError) as error:
            raise InvalidEntry(f"Not a write request: {error}.") from error
        if not request_id or len(fields[b"id"]) > MAX_REQUEST_ID_BYTES:
            raise InvalidEntry(
                f"The request id has {len(fields[b'id'])} bytes; 1 to {MAX_REQUEST_ID_BYTES} are allowed."
            )
        reply = decode_reply(fields)
        try:
            async with asyncio.timeout(CODEC_TIMEOUT.total_seconds()):
                [raw] = await self._unwrapper.decode([payload], [RawValue])
        except Exception as error:
            raise CodecUnavailable(f"The payload codec cannot decode the entry now: {error!r}.") from error
        try:
            [body] = self._converter.payload_converter.from_payloads([raw.payload], [WriteBody])
        except Exception as error:
            raise InvalidEntry(f"The payload cannot be decoded: {error}.") from error
        if not isinstance(body, WriteBody):  # for null and plain bytes the converter ignores the type that is asked for
            raise InvalidEntry(f"The payload holds {type(body).__name__} instead of a table and a record.")
        asked = fields.get(b"asked", b"")
        return WriteRequest(
            request_id=request_id,
            table=body.table,
            record=body.record,
            reply=reply,
            asked_ms=int(asked) if MILLISECONDS_PATTERN.fullmatch(asked) else None,
        )


def decode_reply(fields: Fields) -> ReplyAddress | None:
    """Decode the reply address alone, which may be readable when the rest of the entry is not. None without a caller.

    Raises `InvalidEntry` when it is malformed.
    """
    text = fields.get(b"reply", b"")
    if not text:
        return None
    if len(text) > MAX_REPLY_BYTES:  # no caller has such an address: its receipt would not fit into a signal
        raise InvalidEntry(f"The reply address has {len(text)} bytes, the limit is {MAX_REPLY_BYTES}.")
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
        # JSON may hold lone surrogates, which no id in Temporal has.
        _ = f"{address.workflow_id}{address.run_id}{address.attempt}{address.activity_id}".encode()
        return address
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidEntry(f"The reply address cannot be decoded: {error!r}.") from error


def _encode_reply(reply: ReplyAddress | None) -> bytes:
    if reply is None:
        return b""
    present = {name: value for name, value in asdict(reply).items() if value is not None}
    return json.dumps(present, sort_keys=True).encode()


def _request_id_bytes(request_id: str) -> bytes:
    try:
        encoded = request_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"Request id {request_id!r} is not valid Unicode: {error.reason}.") from error
    if not 1 <= len(encoded) <= MAX_REQUEST_ID_BYTES:
        raise InvalidRequest(
            f"Request id {request_id[:80]!r} has {len(encoded)} bytes: use 1 to {MAX_REQUEST_ID_BYTES} bytes."
        )
    return encoded
