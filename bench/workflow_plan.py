"""What the benchmarks of whole workflows are to measure."""

from dataclasses import dataclass
from enum import StrEnum

from write_batcher.bench.drain_plan import Kind
from write_batcher.compare.results import Contender

OURS = {"signal": Contender.QUEUE, "completion": Contender.QUEUE_COMPLETION}
"""By the mode of confirmation."""
CONTESTANTS = (Contender.DIRECT, *OURS.values())


class Load(StrEnum):
    """How callers come: the name of a benchmark."""

    LATENCY = "latency"
    """A few at a time, each starting when another has ended: far below what anything can take."""
    END_TO_END = "end-to-end"
    """All at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPlan:
    """Workflows with one write each."""

    load: Load
    databases: tuple[Kind, ...]
    rounds: int
    workflows: int
    """In each measurement."""
    at_once: int
    """How many of them run at a time with `Load.LATENCY`."""

    @property
    def measurements(self) -> int:
        return self.rounds * len(self.databases) * len(CONTESTANTS)
