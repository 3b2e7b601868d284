"""The seam between the drain and whatever a batch is written to."""

from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from write_batcher.models import Batch, WriteReceipt, WriteRequest


class Sink(Protocol):
    """What batches are written to.

    `SqlSink` writes exactly once. A sink without a ledger is at-least-once: it may get a request again after a crash,
    and deduplicates by the request id.
    """

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        """Write all requests of `batch` and return one receipt per request, in the same order.

        Returning means committed. Raises `SinkUnavailable` when nothing was committed and the same batch may succeed
        later: the drain holds the batch and tries again. Any other error ends the drain as a crash would.
        """
        ...

    async def settle(self, request: WriteRequest, *, refused: str | None = None) -> WriteReceipt:
        """Decide the outcome of a request whose caller no longer waits: withdraw it if it has not been written, or,
        with `refused`, reject it for that reason.

        Returns `withdrawn` (or `rejected`) when the request has not been written and never will be for its attempt.
        When the outcome was decided before, returns that: `written` with the batch that wrote it, or `rejected`. Waits
        briefly for a batch that is being written. Raises `SinkUnavailable` when the outcome cannot be decided now.
        """
        ...

    async def close(self) -> None:
        """Release connections. Called once, after the last write has returned."""
        ...


@runtime_checkable
class PrunableSink(Sink, Protocol):
    """A sink with a ledger, which grows for ever unless it is pruned."""

    async def prune(self, older_than: timedelta, *, now: datetime | None = None) -> int:
        """Forget requests whose outcome is older than `older_than`. Returns how many.

        `now` is the time by the clock that dates requests (default: this process's clock). An outcome must be too old
        by that clock and by the sink's own: if only one of them has jumped ahead, nothing is forgotten and no request
        is written twice. Raises `SinkUnavailable` when the ledger cannot be pruned now.
        """
        ...
