"""The seam between the drain and whatever a batch is written to."""

from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

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

    async def settle(self, request: WriteRequest, *, refused: str | None = None) -> WriteReceipt:
        """Decide what became of a request whose caller waits no longer: withdraw it if it has not been written, or
        reject it for the reason `refused`.

        Returns `withdrawn` when it has not been written and never will be for its attempt, else what was decided
        before: `written` with the batch that wrote it, or `rejected`. Waits, not for long, for a batch that is being
        written. Raises `SinkUnavailable` when nobody can tell right now.
        """
        ...

    async def close(self) -> None:
        """Release connections. Called once, after the last write has returned."""
        ...


@runtime_checkable
class PrunableSink(Sink, Protocol):
    """A sink with a ledger that would grow for ever."""

    async def prune(self, older_than: timedelta, *, now: datetime | None = None) -> int:
        """Forget requests whose outcome is older than that; returns how many. Raises `SinkUnavailable`.

        `now` is the time by the clock that tells the age of requests. An outcome has to be old by it as well as by the
        sink's own clock: one of them that jumps ahead must not let a request be written twice.
        """
        ...
