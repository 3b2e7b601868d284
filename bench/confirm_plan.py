"""What a benchmark of confirming is to measure."""

from dataclasses import dataclass

from write_batcher.models import ConfirmBy

MODES = (ConfirmBy.SIGNAL, ConfirmBy.COMPLETION)
CONCURRENCIES = (8, 16, 32, 64)
"""Of the floors: calls to Temporal at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmPlan:
    """How many callers are confirmed."""

    rounds: int
    callers: int
    """In each measurement; each waits for one receipt."""
    batch_size: int
    """Requests in a batch that ours confirms."""

    @property
    def measurements(self) -> int:
        return self.rounds * len(MODES) * (1 + len(CONCURRENCIES))
