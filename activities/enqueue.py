"""Appending a write request to its partition; run by the callers' workers."""

import random
from dataclasses import replace
from datetime import timedelta

from redis.asyncio import Redis
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from write_batcher.errors import InvalidRequest, QueueFull, QueueUnavailable
from write_batcher.models import ConfirmBy, Submission, WriteRequest
from write_batcher.queue.producer import Producer

FULL_RETRY_DELAY = timedelta(seconds=2)


class EnqueueActivities:
    """Appends through one Redis client: at most `max_backlog` entries per stream, `max_request_bytes` per encoded
    request.
    """

    def __init__(self, redis: Redis, *, max_backlog: int, max_request_bytes: int) -> None:
        self._redis = redis
        self._max_backlog = max_backlog
        self._max_request_bytes = max_request_bytes

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> str:
        """Append the request unless it is queued already; returns `<partition>/<entry id>` of its entry.

        With `ConfirmBy.COMPLETION` this activity becomes the reply address, and stays open until the drain completes it
        with the receipt.

        Fails with type `InvalidRequest`, not to be retried, when the request can never be queued. Every other failure
        heals, and is retried.
        """
        submission = replace(submission, request=_with_activity(submission.request))
        producer = Producer(
            self._redis,
            activity.client().data_converter,
            max_backlog=self._max_backlog,
            max_request_bytes=self._max_request_bytes,
        )
        try:
            entry = await producer.append(submission)
        except InvalidRequest as error:
            raise ApplicationError(str(error), type="InvalidRequest", non_retryable=True) from error
        except QueueUnavailable as error:
            # The jitter keeps the refused callers from all coming back at the same moment. Benign, because an outage
            # needs one alarm, not a traceback for every caller.
            full = isinstance(error, QueueFull)
            raise ApplicationError(
                str(error),
                type=type(error).__name__,
                next_retry_delay=FULL_RETRY_DELAY * random.uniform(0.5, 1.5) if full else None,  # noqa: S311
                category=ApplicationErrorCategory.BENIGN,
            ) from None
        reply = submission.request.reply
        if reply and reply.mode is ConfirmBy.COMPLETION:
            activity.raise_complete_async()
        return entry


def _with_activity(request: WriteRequest) -> WriteRequest:
    if request.reply is None or request.reply.mode is not ConfirmBy.COMPLETION:
        return request
    # The run of this activity: after a reset it is not the run that the workflow began in.
    info = activity.info()
    reply = replace(request.reply, run_id=info.workflow_run_id or "", activity_id=info.activity_id)
    return replace(request, reply=reply)
