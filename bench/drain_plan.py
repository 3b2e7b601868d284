"""What a benchmark of the drain is to measure."""

from dataclasses import dataclass
from typing import Literal

from write_batcher.bench.cases import TRAITS, Case, CaseTraits

Kind = Literal["sqlite", "postgresql"]
"""Of databases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPlan:
    """One case on some databases."""

    case: Case
    databases: tuple[Kind, ...]
    rounds: int
    """How often everybody is measured."""
    requests: int
    """In the stream of each measurement."""
    batch_size: int

    @property
    def traits(self) -> CaseTraits:
        return TRAITS[self.case]
