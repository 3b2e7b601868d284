"""Turning stream entries into write requests, in bounded time."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.clock import ServerClock
from write_batcher.errors import CodecUnavailable, InvalidEntry
from write_batcher.models import WriteRequest
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream_entry import StreamEntry
from write_batcher.queue.wire_form import Codec

DECODE_LIMIT = timedelta(seconds=10)  # for a payload codec that asks a key server
AT_ONCE_WITHIN = timedelta(seconds=0.3)
RESERVED_BYTES = 1024  # of an entry, for the fields that are added on its way

Decoded = WriteRequest | InvalidEntry | CodecUnavailable
"""A request, or why there is none."""


class Decoder:
    """Checks and decodes the entries of one partition."""

    def __init__(self, codec: Codec, signer: Signer | None, limits: BatchLimits, clock: ServerClock) -> None:
        self._codec = codec
        self._signer = signer
        self._limits = limits
        self._clock = clock
        self._asks_nobody = True  # as far as is known

    @property
    def is_instant(self) -> bool:
        """Whether decoding asks nobody, and so needs no task of its own."""
        return self._codec.asks_nobody

    def objection(self, entry: StreamEntry) -> str | None:
        """Why the entry cannot be a request whatever it contains: it is too large or not rightly signed. None when
        nothing is wrong with it.
        """
        if self._is_too_large(entry):
            return (
                f"The entry has {entry.size_bytes} bytes, the limit is {self._limits.max_request_bytes}: raise the "
                "batcher's max_request_bytes, or store large data elsewhere and write its address."
            )
        return self._signer.objection(entry.fields, self._clock.now_ms()) if self._signer else None

    async def decode_at_once(self, entries: Iterable[StreamEntry]) -> dict[str, Decoded]:
        """Decode entries one after the other, as far as that gets within `AT_ONCE_WITHIN`: a codec that asks nobody
        needs no longer, and tasks for each entry would take longer than it does. Returns what `decode` would return or
        raise, by entry id; what is missing has to be decoded by it. Once this took too long, it is not tried again.
        """
        decoded: dict[str, Decoded] = {}
        if not self._asks_nobody:
            return decoded
        task = asyncio.create_task(self._decode_all(entries, decoded), name="decode at once")
        try:
            await asyncio.wait({task}, timeout=AT_ONCE_WITHIN.total_seconds())
            self._asks_nobody = task.done() and not task.cancelled() and task.result()
        finally:
            task.cancel()  # not awaited, as in `decode`
            task.add_done_callback(_forget)
        return dict(decoded)

    async def _decode_all(self, entries: Iterable[StreamEntry], decoded: dict[str, Decoded]) -> bool:
        """Returns whether there was time for all."""
        clock = asyncio.get_running_loop().time
        end = clock() + AT_ONCE_WITHIN.total_seconds()
        for entry in entries:
            if clock() > end:  # the codec computes for long: the heartbeat must have its turn
                return False
            try:
                decoded[entry.entry_id] = await self._codec.decode(entry.fields)
            except (InvalidEntry, CodecUnavailable) as error:
                decoded[entry.entry_id] = error
        return True

    async def decode(self, entry: StreamEntry) -> WriteRequest:
        """Return the write request of an entry.

        Raises `InvalidEntry` when it is none, and `CodecUnavailable` when it cannot be decoded now, or not within
        `DECODE_LIMIT`.
        """
        if self.is_instant:
            return await self._codec.decode(entry.fields)
        task = asyncio.create_task(self._codec.decode(entry.fields), name="decode")
        try:
            await asyncio.wait({task}, timeout=DECODE_LIMIT.total_seconds())
            if not task.done():
                raise CodecUnavailable(f"The payload codec gave no answer within {DECODE_LIMIT.total_seconds():g} s.")
            if task.cancelled():
                raise CodecUnavailable("The payload codec was interrupted.")
            return task.result()
        finally:
            # Not awaited: a codec that ignores its cancellation must hold up nobody.
            task.cancel()
            task.add_done_callback(_forget)

    def _is_too_large(self, entry: StreamEntry) -> bool:
        return entry.size_bytes > self._limits.max_request_bytes + RESERVED_BYTES


def _forget(task: "asyncio.Task[WriteRequest] | asyncio.Task[bool]") -> None:
    if not task.cancelled():
        task.exception()  # or asyncio would log that nobody asked for it
