"""The seam between the drain and whatever a batch is written to."""

from datetime import datetime
from typing import Protocol, runtime_checkable

from write_batcher.models import Batch, Held, WriteReceipt, WriteRequest


class Sink(Protocol):
    """What batches are written to.

    `SqlSink` writes exactly once. A sink without a ledger is at-least-once: it may get a request again after a crash,
    and deduplicates by the queue and the request id.
    """

    async def write(self, batch: Batch) -> list[WriteReceipt | Held]:
        """Write the requests of `batch` and return one answer per request, in the same order.

        A receipt means decided for good, and committed. `Held` means that nothing has been decided, and that the
        request may be written later: all later requests of the batch with the same `order_key` must be held too, and
        no others should be. Receipts carry the request id, the hash and the attempt of their own request.

        Raises `SinkUnavailable` when nothing can be written now, whatever it is: the drain tries the same batch again.
        Raises `BatchTooLarge` when a smaller batch may succeed; never for one request. If something of the batch was
        written before either, it is answered as a duplicate when the request comes again. Any other error is the sink's
        bug: the drain then writes the requests one by one, and gives up those that fail again and again.
        """
        ...

    async def settle(self, request: WriteRequest, *, queue: str, refused: str | None = None) -> WriteReceipt:
        """Decide the outcome of a request whose caller no longer waits: withdraw it if it has not been written, or,
        with `refused`, reject it for that reason. `queue` is that of its batch, `<namespace>/<queue>`.

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

    async def prune(self, *, now: datetime | None = None) -> int:
        """Forget requests whose time is over. Each row of the ledger says itself until when it is kept: no worker
        forgets what another one has promised to remember. Returns how many.

        `now` is the time by the clock that dates requests (default: this process's clock). A row's time must be over by
        that clock and by the sink's own: if only one of them has jumped ahead, nothing is forgotten and no request is
        written twice. Raises `SinkUnavailable` when the ledger cannot be pruned now.
        """
        ...


@runtime_checkable
class IdentifiedSink(Sink, Protocol):
    """A sink that can be told from others: a queue is written to one sink, and a worker with another one is refused."""

    @property
    def sink_id(self) -> str:
        """A name that stays with the target, and that no other target has."""
        ...

    @property
    def tables(self) -> dict[str, str]:
        """How records are written (`insert`, `upsert`), by the tables that the sink accepts."""
        ...


def identity_of(sink: Sink) -> tuple[str, dict[str, str]]:
    """Return the sink's id and its tables; both are empty for a sink without an identity."""
    return (sink.sink_id, dict(sink.tables)) if isinstance(sink, IdentifiedSink) else ("", {})
