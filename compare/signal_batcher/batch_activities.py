"""Writes a batch that the batcher workflow has collected: one activity, one transaction."""

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

from write_batcher import Batch, FlushReason, Outcome, ReplyAddress, Sink, SinkUnavailable, WriteReceipt, WriteRequest
from write_batcher.compare.signal_batcher.wire import SignalledWrite

HEARTBEAT_EVERY = timedelta(seconds=2)
MAX_ERROR_CHARS = 300  # the answers of a batch must fit into the result of its activity

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalledBatch:
    """Requests for one transaction; their ids differ. `attempt` counts from 1."""

    batch_id: str
    flush_reason: FlushReason
    requests: tuple[SignalledWrite, ...]
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUpBatch:
    """A batch that could not be written, and why."""

    batch: SignalledBatch
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request: `error` is None when it is in the database, written by the batch named."""

    batch_id: str
    error: str | None = None
    is_certain: bool = True


class BatchActivities:
    """Writes to one table of one `sink`."""

    def __init__(self, sink: Sink, table: str) -> None:
        self._sink = sink
        self._table = table

    @activity.defn
    async def write_batch(self, batch: SignalledBatch) -> list[Answer]:
        """One answer per request, in order. Fails when nothing was committed, or when nobody knows."""
        started = time.monotonic()
        requests = tuple(map(self._request, batch.requests))
        try:
            receipts = await _with_heartbeats(
                self._sink.write(Batch(batch_id=batch.batch_id, flush_reason=batch.flush_reason, requests=requests))
            )
        except SinkUnavailable as error:
            logger.warning("batch %s is not written, tried %d times: %s", batch.batch_id, batch.attempt, error)
            raise ApplicationError(str(error), type=type(error).__name__) from error
        _log(batch, receipts, f"written in {(time.monotonic() - started) * 1000:.0f} ms")
        return [_answer(batch.batch_id, receipt) for _, receipt in zip(requests, receipts, strict=True)]

    @activity.defn
    async def settle_batch(self, given_up: GivenUpBatch) -> list[Answer]:
        """One answer per request, in order: an attempt may have been committed although nobody learned of it. What was
        not written is not written by an attempt that still runs somewhere, either.
        """
        batch = given_up.batch

        async def settle() -> list[WriteReceipt]:
            return [
                await self._sink.settle(self._request(request), refused=given_up.reason) for request in batch.requests
            ]

        receipts = await _with_heartbeats(settle())
        _log(batch, receipts, f"given up: {given_up.reason}", level=logging.ERROR)
        return [_answer(batch.batch_id, receipt) for receipt in receipts]

    def _request(self, request: SignalledWrite) -> WriteRequest:
        # A rejection binds the try that got it: an operator may repair the cause and reset the caller.
        reply = ReplyAddress(workflow_id=request.workflow_id, run_id="", attempt=request.this_try)
        return WriteRequest(
            request_id=request.request_id,
            table=self._table,
            record=request.data,
            reply=reply,
            asked_ms=request.submitted_ms,
        )


def _log(batch: SignalledBatch, receipts: list[WriteReceipt], end: str, *, level: int = logging.INFO) -> None:
    outcomes = Counter(receipt.outcome.value for receipt in receipts)
    logger.log(
        level, "batch %s of %d (%s) %s: %s", batch.batch_id, len(receipts), batch.flush_reason, end, dict(outcomes)
    )


def _answer(batch_id: str, receipt: WriteReceipt) -> Answer:
    if receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE):
        return Answer(batch_id=receipt.batch_id or batch_id)
    return Answer(batch_id=batch_id, error=(receipt.error or receipt.outcome.value)[:MAX_ERROR_CHARS])


async def _with_heartbeats(work: Coroutine[Any, Any, T]) -> T:
    """So that a worker that dies is replaced in seconds. The first comes late: most batches are written before it, and
    each that reaches the server is a billable action.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=HEARTBEAT_EVERY.total_seconds())
            if not task.done():
                activity.heartbeat()
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})  # a commit that has begun cannot be taken back
        raise
    return task.result()
