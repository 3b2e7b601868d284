"""What a capacity plan is asked for, and what its costs are measured by."""

from dataclasses import dataclass

from write_batcher.models import ConfirmBy

COST_BATCH_SIZES = (100, 1_000)
"""Items of a batch when the drain's costs are measured: a straight line through both gives those of row and batch."""

PARTITIONS = (1, 2, 4, 8)
"""Side by side in one process when the model is checked."""

SHARED_BY_ALL = max(PARTITIONS) * max(COST_BATCH_SIZES)
"""The fewest requests of which every partition of a check gets a full batch of the largest size."""

MOST_DEVIATION_PERCENT = 25.0
"""Of a prediction from what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityDemand:
    """What is to be carried, and by servers of which size."""

    writes_per_s: int
    record_bytes: int
    """Mean size of a record as JSON."""
    confirm_by: ConfirmBy
    batch_size: int
    """Most requests in a batch."""
    max_wait_s: float
    """Seconds after which a batch closes that is not full; above 0."""
    outage_s: float
    """Seconds for which writes are to wait in Redis while the database is away; 0 for none."""
    deduplication_window_s: float
    cores: int
    """Of one server or worker machine, whatever runs on it."""
    memory_bytes: int
    """Of one Redis server."""
    disk_bytes: int
    """Of one database server."""
    usd_per_million_actions: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsPlan:
    """How much is measured for a costs file."""

    rounds: int
    requests: int
    """In the stream of each measurement of a drain; a multiple of the largest batch."""
    workflows: int
    """Callers in each measurement of Temporal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan:
    """How much is measured to check the model."""

    rounds: int
    requests: int
    """In all partitions together, in each measurement; a multiple of `SHARED_BY_ALL`."""

    @property
    def measurements(self) -> int:
        return self.rounds * len(PARTITIONS) * len(COST_BATCH_SIZES)
