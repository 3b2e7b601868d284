"""Caller side: append a write request to its partition."""

import random
from dataclasses import replace
from datetime import timedelta

from redis.asyncio import Redis
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from write_batcher.errors import InvalidRequest, QueueFull, QueueUnavailable
from write_batcher.models import ConfirmBy, Submission, WriteRequest
from write_batcher.queue.codec import Codec
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.routing import partition_of
from write_batcher.queue.stream import WriteQueue

FULL_RETRY_DELAY = timedelta(seconds=2)


class EnqueueActivities:
    """Appends through one Redis client. `max_backlog` entries per stream, `max_request_bytes` per encoded request."""

    def __init__(self, redis: Redis, *, max_backlog: int, max_request_bytes: int) -> None:
        self._redis = redis
        self._max_backlog = max_backlog
        self._max_request_bytes = max_request_bytes

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> str:
        """Append the request unless it is queued already; returns `<partition>/<entry id>`.

        A request that asks for `ConfirmBy.COMPLETION` gets this activity as its reply address, and the activity stays
        open until the drain completes it with the receipt.

        Fails without retry for a request that can never be queued (type `InvalidRequest`); everything else heals.
        """
        request = _with_activity(submission.request)
        try:
            fields = await Codec(activity.client().data_converter).encode(request)
            size = sum(len(name) + len(value) for name, value in fields.items())
            if size > self._max_request_bytes:
                raise InvalidRequest(
                    f"request {request.request_id} is {size} bytes encoded, the limit is "
                    f"{self._max_request_bytes}: store large data elsewhere and write its address, "
                    "or raise WRITE_BATCHER_MAX_REQUEST_BYTES for callers and batcher"
                )
        except InvalidRequest as error:
            raise ApplicationError(str(error), type="InvalidRequest", non_retryable=True) from error
        try:
            count = await Partitions(self._redis, submission.queue).count()
            partition = partition_of(submission.key, count)
            queue = WriteQueue(self._redis, submission.queue, partition)
            entry_id = await queue.append(fields, max_backlog=self._max_backlog)
        except QueueUnavailable as error:
            # Jittered, or all refused callers come back in the same moment. Benign: an outage needs one alarm, not a
            # traceback for every caller.
            full = isinstance(error, QueueFull)
            raise ApplicationError(
                str(error),
                type=type(error).__name__,
                next_retry_delay=FULL_RETRY_DELAY * random.uniform(0.5, 1.5) if full else None,  # noqa: S311
                category=ApplicationErrorCategory.BENIGN,
            ) from None
        if request.reply and request.reply.mode is ConfirmBy.COMPLETION:
            activity.raise_complete_async()
        return f"{partition}/{entry_id}"


def _with_activity(request: WriteRequest) -> WriteRequest:
    if request.reply is None or request.reply.mode is not ConfirmBy.COMPLETION:
        return request
    # The run of the activity, which after a reset is not the run that the workflow's code began in.
    info = activity.info()
    reply = replace(request.reply, run_id=info.workflow_run_id or "", activity_id=info.activity_id)
    return replace(request, reply=reply)
