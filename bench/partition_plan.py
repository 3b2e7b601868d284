"""What a benchmark of partitions is to measure."""

from dataclasses import dataclass

from write_batcher.bench.drain_plan import Kind

ALONE = 1
COUNTS = (2, 4, 8)
"""Partitions that are drained side by side; each is compared with one that is drained alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """Some databases, each with every number of partitions."""

    databases: tuple[Kind, ...]
    rounds: int
    requests: int
    """In all partitions together; a multiple of the most partitions."""
    batch_size: int

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.databases) * (1 + len(COUNTS))
