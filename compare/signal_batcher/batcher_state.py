"""What a run of a batcher workflow hands over to the next one.

The names of the fields are part of recorded histories.
"""

import json
from dataclasses import dataclass, field

from write_batcher import FlushReason
from write_batcher.compare.signal_batcher.batcher_limits import BatcherLimits
from write_batcher.compare.signal_batcher.wire import FIELDS_BYTES, Confirmation, SignalledWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedWrite:
    """A request that waits to be written."""

    request: SignalledWrite
    received_s: float
    """Seconds since the epoch."""
    size_bytes: int
    """As Temporal encodes it."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal when the same signal is delivered twice."""
        return (self.request.request_id, self.request.requesting_workflow, self.request.attempt_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInFlight:
    """A batch that was taken from the pending writes and is not written yet."""

    batch_id: str
    flush_reason: FlushReason
    items: int
    """Its requests are the first `items` of `BatcherState.waiting`."""
    attempts: int
    """Failed attempts so far."""
    retry_at_s: float
    """Seconds since the epoch, before which it is not tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsentConfirmation:
    """A confirmation that was not sent to its caller yet."""

    caller: str
    confirmation: Confirmation

    @property
    def size_bytes(self) -> int:
        """Return an upper bound, close to the size that it takes in `BatcherState`."""
        confirmation = self.confirmation
        texts = (self.caller, confirmation.request_id, confirmation.batch_id, confirmation.error)
        return FIELDS_BYTES + len(json.dumps(texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherState:
    """The input of a run, from the run before it or from whoever starts a batcher."""

    limits: BatcherLimits = field(default_factory=BatcherLimits)
    waiting: list[QueuedWrite] = field(default_factory=list)
    """The requests of the batch in flight, if there is one, then those that are pending."""
    remembered: dict[str, str] = field(default_factory=dict)
    """For request ids that were written, the attempt key of the last request."""
    processed_batches: int = 0
    cycle: int = 0
    """Runs before this one."""
    idle_runs: int = 0
    """Runs in a row, up to the one before this one, that had no signal and no batch."""
    tried: BatchInFlight | None = None
    untold: list[UnsentConfirmation] = field(default_factory=list)
