"""The check of the capacity model: rows per second as computed from one partition's costs, and as measured."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from write_batcher.bench.capacity_costs import DrainCosts
from write_batcher.bench.capacity_drains import COMPARED, capacity_drains, drain_costs
from write_batcher.bench.capacity_model import DrainPrediction, predict_drain
from write_batcher.bench.capacity_others import OTHER_CORES, quiet_median
from write_batcher.bench.capacity_plan import COST_BATCH_SIZES, MOST_DEVIATION_PERCENT, PARTITIONS, CheckPlan
from write_batcher.bench.duel_figures import Readings, Spread
from write_batcher.bench.json_result import JsonResult
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.errors import WrongWork

ALONE = 1
CORES = os.cpu_count() or 1
FILE_NAME = "capacity-check.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A prediction beside its measurement."""

    partitions: int
    batch_size: int
    predicted_rows_per_s: float
    bound_by: str
    measured_rows_per_s: float
    """Median of the quiet rounds, see `quiet_median`."""
    rounds: Spread
    """Rows per second in all rounds."""
    other_cores: float
    """That other programs used in those rounds. The model leaves them out."""
    deviation_percent: float
    """Of the prediction from the measurement; positive when it promises too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCheck(JsonResult):
    """All predictions of one check."""

    started_at: str
    """ISO 8601, UTC."""
    seconds: float
    rounds: int
    requests: int
    """In each measurement."""
    costs: DrainCosts
    """As measured in this check, with one partition."""
    checked: tuple[Checked, ...]
    cores: int
    """That the machine has."""
    machine: dict[str, str]
    versions: dict[str, str]

    @property
    def worst(self) -> Checked:
        """The prediction that deviates most."""
        return max(self.checked, key=lambda one: abs(one.deviation_percent))

    @property
    def file_name(self) -> str:
        return FILE_NAME

    def raise_if_wrong(self) -> None:
        """Raise `WrongWork` when a prediction deviates by more than `MOST_DEVIATION_PERCENT`."""
        worst = self.worst
        if abs(worst.deviation_percent) > MOST_DEVIATION_PERCENT:
            raise WrongWork(
                f"For {_name(worst.partitions, worst.batch_size)}, the prediction deviates by "
                f"{worst.deviation_percent:+.0f} %, the limit is {MOST_DEVIATION_PERCENT:g} %. Other programs used "
                f"{worst.other_cores:.2f} of {self.cores} cores meanwhile: check again when they do not, with more "
                "--rounds; if it stays, plan by measurements of your own."
            )


async def check_capacity(plan: CheckPlan, measured: Measured) -> CapacityCheck:
    """Measure the costs of one partition, predict how fast several are in one process, and measure that.

    The costs are CPU times; how fast one partition was is no part of them. Of several rounds the quiet ones count, for
    costs and measurements alike.

    Raises what `Server.start` raises, and `WrongWork` when not exactly the records of the streams were written.
    """
    occasion = Occasion()
    async with capacity_drains() as drains:
        queues = [await drains.filled(count, plan.requests) for count in PARTITIONS]
        contestants: dict[str, Measure] = {
            _name(queue.partitions, size): partial(drains.measure, queue, size)
            for size in COST_BATCH_SIZES
            for queue in queues
        }
        found = await take_turns(contestants, rounds=plan.rounds, shown=COMPARED, measured=measured)
    by_size = {
        (partitions, size): found[_name(partitions, size)] for size in COST_BATCH_SIZES for partitions in PARTITIONS
    }
    costs = drain_costs({size: by_size[ALONE, size] for size in COST_BATCH_SIZES})
    return CapacityCheck(
        started_at=occasion.started_at,
        seconds=time.monotonic() - occasion.began,
        rounds=plan.rounds,
        requests=plan.requests,
        costs=costs,
        checked=compare(costs, by_size, cores=CORES),
        cores=CORES,
        machine=drains.machine,
        versions=drains.versions,
    )


def compare(
    costs: DrainCosts, found: Mapping[tuple[int, int], Sequence[Readings]], *, cores: int
) -> tuple[Checked, ...]:
    """Return predictions for a machine with so many cores, beside what was found in all rounds by number of partitions
    and size of batches.
    """
    return tuple(
        _checked(predict_drain(costs, items=size, partitions=partitions, cores=cores), partitions, size, rounds)
        for (partitions, size), rounds in found.items()
    )


def _checked(predicted: DrainPrediction, partitions: int, batch_size: int, rounds: Sequence[Readings]) -> Checked:
    measured = quiet_median(rounds, COMPARED)
    return Checked(
        partitions=partitions,
        batch_size=batch_size,
        predicted_rows_per_s=predicted.rows_per_s,
        bound_by=predicted.bound_by,
        measured_rows_per_s=measured,
        rounds=Spread.of([one[COMPARED] for one in rounds]),
        other_cores=quiet_median(rounds, OTHER_CORES),
        deviation_percent=(predicted.rows_per_s / measured - 1) * 100,
    )


def _name(partitions: int, batch_size: int) -> str:
    return f"{partitions} partition{'s' if partitions > 1 else ''}, batches of {batch_size:,}"
