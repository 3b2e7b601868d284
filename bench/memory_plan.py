"""What a benchmark of the memory is to measure."""

from dataclasses import dataclass

OURS, FLOOR = "ours", "executemany"
CONTESTANTS = (OURS, FLOOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How much is drained."""

    rounds: int
    requests: int
    batch_size: int

    @property
    def measurements(self) -> int:
        return self.rounds * len(CONTESTANTS)
