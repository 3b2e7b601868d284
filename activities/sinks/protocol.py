"""The seam between the drain and whatever a batch is written to."""

from typing import Protocol

from write_batcher.models import Batch, WriteReceipt, WriteRequest


class Sink(Protocol):
    """Writes batches. `SqlSink` does so exactly once; a sink without a ledger is at-least-once and has the
    request ids to deduplicate by itself.
    """

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        """Write all requests of `batch` and return one receipt per request, in their order.

        Returning means committed. Raises `SinkUnavailable` when nothing was committed and the same batch may
        succeed later; the drain holds the batch and tries again.
        """
        ...

    async def settle(self, request: WriteRequest) -> WriteReceipt:
        """Give the request up if it has not been written: the receipt is `withdrawn`, and it will not be written for
        its attempt any more. Otherwise the receipt is the outcome that stands already. Raises `SinkUnavailable`.
        """
        ...

    async def close(self) -> None:
        """Release connections. Called once, after the last write has returned."""
        ...
