"""The activities of the batcher workflow: write a batch in one transaction, or settle one that is given up."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from write_batcher import (
    Batch,
    BatchTooLarge,
    FlushReason,
    Held,
    Outcome,
    QueueRef,
    ReplyAddress,
    Sink,
    SinkUnavailable,
    WriteReceipt,
    WriteRequest,
    with_hash,
)
from write_batcher.compare.signal_batcher.wire import SignalledWrite

HEARTBEAT_EVERY = timedelta(seconds=2)
MAX_ERROR_CHARS = 300  # the answers to all requests of a batch must fit into the result of one activity

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalledBatch:
    """Requests for one transaction; their ids differ."""

    batch_id: str
    flush_reason: FlushReason
    requests: tuple[SignalledWrite, ...]
    attempt: int = 1
    """Counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUpBatch:
    """A batch that could not be written, and why."""

    batch: SignalledBatch
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request."""

    batch_id: str
    """The batch that wrote it, or that was the last to try; empty when there was none."""
    error: str | None = None
    """None when it is in the database."""
    is_certain: bool = True
    """False when the database could not be asked: the request may be written although there is an error."""


class BatchActivities:
    """Writes the requests of a queue to one table of a sink."""

    def __init__(self, sink: Sink, queue: QueueRef, table: str) -> None:
        self._sink = sink
        self._queue = str(queue)
        self._table = table

    @activity.defn
    async def write_batch(self, batch: SignalledBatch) -> list[Answer]:
        """Write a batch and return one answer per request, in order.

        Raises `ApplicationError` when the sink is unavailable, and when it cannot decide about one of the requests: the
        batch must be tried again. Requests that were written then are answered as such.
        """
        started = time.monotonic()
        requests = tuple(map(self._request, batch.requests))
        to_write = Batch(batch_id=batch.batch_id, queue=self._queue, flush_reason=batch.flush_reason, requests=requests)
        try:
            receipts = _all_decided(await _with_heartbeats(self._sink.write(to_write)))
        except (SinkUnavailable, BatchTooLarge) as error:
            logger.warning("batch %s is not written after %d attempts: %s", batch.batch_id, batch.attempt, error)
            raise ApplicationError(str(error), type=type(error).__name__) from error
        write_ms = round((time.monotonic() - started) * 1000)
        _log(batch, receipts, f"written in {write_ms} ms", write_ms=write_ms)
        return [_answer(batch.batch_id, receipt) for _, receipt in zip(requests, receipts, strict=True)]

    @activity.defn
    async def settle_batch(self, given_up: GivenUpBatch) -> list[Answer]:
        """Settle a batch that is given up, and return one answer per request, in order.

        An attempt may have been committed without anyone learning of it: such requests are answered as written. All
        others are rejected in the ledger, so that an attempt that is still running somewhere cannot write them either.
        """
        batch = given_up.batch

        async def settle() -> list[WriteReceipt]:
            return [
                await self._sink.settle(self._request(request), queue=self._queue, refused=given_up.reason)
                for request in batch.requests
            ]

        receipts = await _with_heartbeats(settle())
        _log(batch, receipts, f"given up: {given_up.reason}", level=logging.ERROR)
        return [_answer(batch.batch_id, receipt) for receipt in receipts]

    def _request(self, request: SignalledWrite) -> WriteRequest:
        # A rejection is binding for this attempt only: an operator may repair the cause and reset the caller.
        reply = ReplyAddress(workflow_id=request.workflow_id, run_id="", attempt=request.attempt_key)
        write = WriteRequest(
            request_id=request.request_id,
            table=self._table,
            record=request.data,
            reply=reply,
            asked_ms=request.submitted_ms,
        )
        try:
            return with_hash(write)
        except ValueError:  # a record that has no encoding, which the sink rejects
            return write


def _all_decided(answers: list[WriteReceipt | Held]) -> list[WriteReceipt]:
    """Raise `SinkUnavailable` unless all requests are decided: this design has no answer for some of a batch."""
    for answer in answers:
        if isinstance(answer, Held):
            raise SinkUnavailable(f"Request {answer.request_id!r} is held: {answer.reason}")
    return [answer for answer in answers if isinstance(answer, WriteReceipt)]


def _log(
    batch: SignalledBatch, receipts: list[WriteReceipt], end: str, *, write_ms: int = 0, level: int = logging.INFO
) -> None:
    outcomes = Counter(receipt.outcome.value for receipt in receipts)
    figures = {"batch_id": batch.batch_id, "size": len(receipts), "flush_reason": batch.flush_reason.value}
    logger.log(
        level,
        "batch %s of %d (%s) %s: %s",
        batch.batch_id,
        len(receipts),
        batch.flush_reason,
        end,
        dict(outcomes),
        extra={
            "batch": figures | {"write_ms": write_ms} | {outcome.value: outcomes[outcome.value] for outcome in Outcome}
        },
    )


def _answer(batch_id: str, receipt: WriteReceipt) -> Answer:
    if receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE):
        return Answer(batch_id=receipt.batch_id or batch_id)
    return Answer(batch_id=batch_id, error=(receipt.error or receipt.outcome.value)[:MAX_ERROR_CHARS])


async def _with_heartbeats(work: Coroutine[Any, Any, T]) -> T:
    """Heartbeat during `work`, so that a worker that dies is replaced within seconds.

    The first heartbeat is late: most batches are written before it, and each one that reaches the server is billed.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=HEARTBEAT_EVERY.total_seconds())
            if not task.done():
                activity.heartbeat()
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})  # a commit that has begun cannot be undone
        raise
    return task.result()
