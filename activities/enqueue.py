"""Appending write requests to their partitions; run by the callers' workers."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from redis.asyncio import Redis
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from write_batcher.errors import InvalidRequest, NotAccepted, QueueUnavailable
from write_batcher.models import Appended, ConfirmBy, Submission, WriteRequest
from write_batcher.queue.producer import Producer

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 10.0


class EnqueueActivities:
    """Appends through one Redis client; with a `signing_key`, for batchers that have the same key."""

    def __init__(self, redis: Redis, *, signing_key: str | None = None) -> None:
        self._redis = redis
        self._signing_key = signing_key
        self._producers: dict[Client, Producer] = {}

    @activity.defn
    async def enqueue_write(self, submission: Submission) -> list[Appended]:
        """Append the requests unless they are queued already; returns one answer for each, in order.

        With `ConfirmBy.COMPLETION` there must be one request. This activity becomes its reply address, and stays open
        until the drain completes it with the receipt; it returns only when the request is refused.

        Fails, and is retried, while Redis or the payload codec cannot be asked, or nothing is accepted yet.
        """
        _check(submission)
        certain = _is_first_try(submission)
        submission = replace(submission, requests=[_with_run(request) for request in submission.requests])
        waited = datetime.now(UTC) - activity.info().scheduled_time
        try:
            answers = await self._producer(activity.client()).append(submission, waited=waited)
        except QueueUnavailable as error:
            # Benign, because an outage needs one alarm, not a traceback for every caller.
            raise ApplicationError(
                str(error), type=type(error).__name__, category=ApplicationErrorCategory.BENIGN
            ) from None
        if all(answer.refused is not None and answer.later for answer in answers) and not (
            certain and answers[0].no_batcher
        ):
            raise _not_accepted(answers[0].refused or "")
        if answers[0].entry is not None and _stays_open(submission):
            activity.raise_complete_async()
        return [replace(answer, certain=certain) for answer in answers]

    def _producer(self, client: Client) -> Producer:
        # A worker has one client; several workers may share these activities.
        if client not in self._producers:
            self._producers[client] = Producer(
                self._redis, client.data_converter, namespace=client.namespace, signing_key=self._signing_key
            )
        return self._producers[client]


def _check(submission: Submission) -> None:
    completed = sum(
        1 for request in submission.requests if request.reply and request.reply.mode is ConfirmBy.COMPLETION
    )
    if not submission.requests or (completed and len(submission.requests) > 1):
        raise ApplicationError(
            f"The submission has {len(submission.requests)} requests, {completed} of them by completion: use at least "
            "one, and with completion exactly one.",
            type=InvalidRequest.__name__,
            non_retryable=True,
        )


def _is_first_try(submission: Submission) -> bool:
    """Whether no earlier try of this activity can have appended any request."""
    info = activity.info()
    # Not the number of the attempt, which is 1 again when an operator resets the activity. When the workflow was reset,
    # the run in which it began is not the one that this activity belongs to.
    return info.current_attempt_scheduled_time == info.scheduled_time and all(
        request.reply is None or request.reply.run_id == info.workflow_run_id for request in submission.requests
    )


def _stays_open(submission: Submission) -> bool:
    """Whether this activity is to be completed with the receipt of its one request."""
    reply = submission.requests[0].reply
    return reply is not None and reply.mode is ConfirmBy.COMPLETION


def _with_run(request: WriteRequest) -> WriteRequest:
    """The request with the run of this activity as its reply address, and the activity itself if it stays open."""
    if request.reply is None:
        return request
    info = activity.info()
    completed = request.reply.mode is ConfirmBy.COMPLETION
    reply = replace(
        request.reply, run_id=info.workflow_run_id or "", activity_id=info.activity_id if completed else None
    )
    return replace(request, reply=reply)


def _not_accepted(reason: str) -> ApplicationError:
    # The jitter keeps the refused callers from all coming back at the same moment. Each retry is a billable action.
    longest = min(FIRST_RETRY_S * 2 ** (activity.info().attempt - 1), LONGEST_RETRY_S)
    return ApplicationError(
        reason,
        type=NotAccepted.__name__,
        next_retry_delay=timedelta(seconds=longest * random.uniform(0.5, 1.0)),  # noqa: S311
        category=ApplicationErrorCategory.BENIGN,
    )
