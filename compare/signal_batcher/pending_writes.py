"""Requests of a batcher, before and after they are written: pure bookkeeping, without clock and without Temporal."""

import json
from collections import deque
from collections.abc import Iterable, Mapping

from write_batcher import FlushReason
from write_batcher.compare.signal_batcher.batcher_limits import (
    MAX_BATCH_BYTES,
    MAX_CARRIED_ID_BYTES,
    MAX_REMEMBERED_IDS,
    BatcherLimits,
)
from write_batcher.compare.signal_batcher.batcher_state import QueuedWrite
from write_batcher.compare.signal_batcher.wire import SignalledWrite


class PendingWrites:
    """Requests that wait for a batch, in the order of their arrival."""

    def __init__(self, requests: Iterable[QueuedWrite] = ()) -> None:
        self._requests: deque[QueuedWrite] = deque()
        self.size_bytes = 0
        for request in requests:
            self.append(request)

    def __len__(self) -> int:
        return len(self._requests)

    def append(self, request: QueuedWrite) -> None:
        """Append the newest request."""
        self._requests.append(request)
        self.size_bytes += request.size_bytes

    def drop_newest(self) -> QueuedWrite:
        """Remove and return the newest request. Raises `IndexError` when there is none."""
        newest = self._requests.pop()
        self.size_bytes -= newest.size_bytes
        return newest

    def oldest_first(self) -> list[QueuedWrite]:
        """Return all requests, the oldest first."""
        return list(self._requests)

    def closes_in_s(self, limits: BatcherLimits, now_s: float) -> float | None:
        """Return the seconds until the next batch must be written, 0 when it is due; None without requests."""
        if not self._requests:
            return None
        if len(self._requests) >= limits.max_items or self.size_bytes >= MAX_BATCH_BYTES:
            return 0.0
        return max(self._requests[0].received_s + limits.max_wait_s - now_s, 0.0)

    def take(self, limits: BatcherLimits) -> tuple[FlushReason, list[QueuedWrite]]:
        """Remove and return the next batch, and which limit closed it.

        The request ids of a batch differ. A request that repeats an id of the batch stays first for the next batch,
        where the database answers it.
        """
        batch: list[QueuedWrite] = []
        repeated: list[QueuedWrite] = []
        ids: set[str] = set()
        size_bytes = 0
        reason = FlushReason.WAIT
        while self._requests:
            head = self._requests[0]
            if head.request.request_id in ids:
                repeated.append(self._requests.popleft())
                continue
            if batch and size_bytes + head.size_bytes > MAX_BATCH_BYTES:
                reason = FlushReason.BYTES
                break
            batch.append(self._requests.popleft())
            ids.add(head.request.request_id)
            size_bytes += head.size_bytes
            if len(batch) == limits.max_items:
                reason = FlushReason.SIZE
                break
        self._requests.extendleft(reversed(repeated))
        self.size_bytes -= size_bytes
        return reason, batch


class WrittenRequests:
    """The newest request ids that were written. Requests under older ids are answered by the database."""

    def __init__(self, attempt_keys: Mapping[str, str] | None = None, *, capacity: int = MAX_REMEMBERED_IDS) -> None:
        self._attempt_keys = dict(attempt_keys or {})
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._attempt_keys)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._attempt_keys

    def has_answered(self, request: SignalledWrite) -> bool:
        """Whether the same signal was delivered before. A caller that asks again has no answer yet, or was reset."""
        return self._attempt_keys.get(request.request_id) == request.attempt_key

    def add(self, request: SignalledWrite) -> None:
        """Add a request that was written; the oldest is forgotten when there is no room."""
        self._attempt_keys.pop(request.request_id, None)
        self._attempt_keys[request.request_id] = request.attempt_key
        while len(self._attempt_keys) > self._capacity:
            del self._attempt_keys[next(iter(self._attempt_keys))]

    def newest(self, max_bytes: int = MAX_CARRIED_ID_BYTES) -> dict[str, str]:
        """Return the attempt keys of the newest ids, as many as fit into `max_bytes`, in their order."""
        kept: list[tuple[str, str]] = []
        for request_id, attempt_key in reversed(self._attempt_keys.items()):
            max_bytes -= len(json.dumps({request_id: attempt_key}))
            if max_bytes < 0:
                break
            kept.append((request_id, attempt_key))
        return dict(reversed(kept))
