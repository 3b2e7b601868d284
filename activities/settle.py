"""Settling: withdraw writes, or learn their outcomes. For callers, but run by the batcher's workers, which reach the
database.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from write_batcher.activities.queue_guard import check_queue
from write_batcher.errors import InvalidRequest, SinkUnavailable, WrongSink
from write_batcher.models import QueueRef, Settled, Submission, WriteReceipt, WriteRequest
from write_batcher.queue.contract import Contract
from write_batcher.queue.record_encoding import with_hash
from write_batcher.sinks.protocol import Sink, identity_of

SETTLED_AT_ONCE = 4  # each takes a connection to the database, which has 5 for this process
TIME_TO_ANSWER = 0.7  # of what an attempt has: above the 10 s that the default sink takes at most for a request


class SettleActivities:
    """Settles requests of one queue, through the ledger of its `sink`. `contract` returns the latest contract of the
    queue that is known.
    """

    def __init__(self, queue: QueueRef, sink: Sink, contract: Callable[[], Contract]) -> None:
        self._queue = queue
        self._sink = sink
        self._contract = contract
        self._slots = asyncio.Semaphore(SETTLED_AT_ONCE)

    @activity.defn
    async def settle_write(self, submission: Submission) -> list[Settled]:
        """Withdraw each request unless its outcome is decided already; returns one answer for each, in order.

        `withdrawn` means that it was not written and, for this attempt, never will be. A request that cannot be settled
        now does not keep the others from their receipts: whatever is known is returned well before the attempt times
        out. Fails, and is retried, when that is nothing. Fails with type `WrongSink`, not to be retried, when this
        worker's sink is not the queue's: its ledger knows nothing of the requests.
        """
        check_queue(submission.queue, served=self._queue.name)
        self._check_sink()
        results = await self._settle_all(submission.requests, _time_to_answer())
        errors = [result for result in results if isinstance(result, Exception)]
        if errors and len(errors) == len(results):
            raise next((error for error in errors if not isinstance(error, _NotAsked)), errors[0])
        if errors:
            activity.logger.warning(
                "%s of %s requests cannot be settled now", len(errors), len(results), exc_info=errors[0]
            )
        return list(map(_answer, results))

    async def _settle_all(self, requests: Sequence[WriteRequest], limit: timedelta) -> list[WriteReceipt | Exception]:
        """Return, within `limit`, the receipt of each request or why it has none."""
        tasks: dict[int, asyncio.Task[WriteReceipt]] = {}
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit.total_seconds()):
                    # In another order in every attempt: those that wait for a lock keep their slots for seconds, and
                    # the ones behind them must not be the same every time.
                    for number in random.sample(range(len(requests)), len(requests)):
                        await self._slots.acquire()
                        tasks[number] = asyncio.create_task(self._settle(requests[number]))
                        tasks[number].add_done_callback(lambda _: self._slots.release())
                    await asyncio.wait(tasks.values())
        finally:
            # Not awaited: a sink may finish its transaction first. Until then the request keeps its slot.
            for task in tasks.values():
                task.cancel()
        return [_result_of(tasks.get(number), limit) for number in range(len(requests))]

    async def _settle(self, request: WriteRequest) -> WriteReceipt:
        try:
            hashed = with_hash(request)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"The record of request {request.request_id!r} is not JSON: {error}.") from error
        receipt = await self._sink.settle(hashed, queue=str(self._queue))
        return replace(receipt, queue=self._queue.name)

    def _check_sink(self) -> None:
        wanted = self._contract().sink_id
        own, _tables = identity_of(self._sink)
        if own != wanted:
            raise ApplicationError(
                f"Queue {str(self._queue)!r} is written to the sink {wanted!r}, and this worker's is {own!r}: stop "
                "this worker, or give it the database of the queue.",
                type=WrongSink.__name__,
                non_retryable=True,
            )


def _time_to_answer() -> timedelta:
    """How long this attempt may take, so that its answer arrives before the attempt, or the activity, times out."""
    info = activity.info()
    limits = [info.start_to_close_timeout or timedelta.max]
    if info.schedule_to_close_timeout:
        limits.append(info.scheduled_time + info.schedule_to_close_timeout - info.started_time)
    return TIME_TO_ANSWER * min(limits)


class _NotAsked(SinkUnavailable):
    """There was no time to ask the sink about the request."""


def _result_of(task: "asyncio.Task[WriteReceipt] | None", limit: timedelta) -> WriteReceipt | Exception:
    seconds = f"{limit.total_seconds():.1f} s"
    if task is None:
        return _NotAsked(f"The database was not asked within {seconds}: it is slow, or others wait for locks.")
    if not task.done() or task.cancelled():
        return SinkUnavailable(
            f"It was not settled within {seconds}: the database is slow, or another transaction has locked its row in "
            "the table write_batcher_ledger."
        )
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error or task.result()


def _answer(result: WriteReceipt | Exception) -> Settled:
    if isinstance(result, Exception):
        return Settled(reason=str(result), asked=not isinstance(result, _NotAsked))
    return Settled(receipt=result)
