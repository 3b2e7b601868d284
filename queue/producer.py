"""Appending write requests to a queue: encoded, bounded in size, routed to the partition of their key."""

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.errors import InvalidRequest
from write_batcher.models import Submission
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.routing import partition_of
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Codec, Fields


class Producer:
    """Appends through one Redis client. A stream takes at most `max_backlog` entries, and an encoded request has at
    most `max_request_bytes`.
    """

    def __init__(
        self, redis: Redis, data_converter: DataConverter, *, max_backlog: int, max_request_bytes: int
    ) -> None:
        self._redis = redis
        self._codec = Codec(data_converter)
        self._max_backlog = max_backlog
        self._max_request_bytes = max_request_bytes

    async def append(self, submission: Submission) -> str:
        """Append the request unless it is queued already. Returns `<partition>/<entry id>` of its entry.

        Raises `InvalidRequest` when the request can never be queued, `QueueFull` when the stream holds `max_backlog`
        entries or Redis is out of memory, and `QueueUnavailable` when Redis cannot be asked or the queue has no batcher
        yet.
        """
        fields = await self._encoded(submission)
        count = await Partitions(self._redis, submission.queue).count()
        partition = partition_of(submission.key, count)
        queue = WriteQueue(self._redis, submission.queue, partition)
        entry_id = await queue.append(fields, max_backlog=self._max_backlog)
        return f"{partition}/{entry_id}"

    async def _encoded(self, submission: Submission) -> Fields:
        fields = await self._codec.encode(submission.request)
        size = sum(len(name) + len(value) for name, value in fields.items())
        if size > self._max_request_bytes:
            raise InvalidRequest(
                f"Request {submission.request.request_id!r} has {size} bytes encoded, the limit is "
                f"{self._max_request_bytes}: store large data elsewhere and write its address, "
                "or raise WRITE_BATCHER_MAX_REQUEST_BYTES for callers and batcher."
            )
        return fields
