"""What one write costs, as measured on one machine: the file from which a capacity plan is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

from write_batcher.bench.bench_results import first_mistake
from write_batcher.bench.json_result import JsonResult
from write_batcher.errors import ConfigurationError
from write_batcher.models import ConfirmBy

VERSION = 1
FILE_NAME = "capacity_costs.json"
PACKAGE = "write_batcher.bench"
MEASURE_AGAIN = "measure again with `write-batcher bench capacity --measure --out DIR`"

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """A cost of which each row has its own part and each batch another, which its rows share."""

    per_row: Amount
    per_batch: Amount

    def at(self, items: float) -> float:
        """Return the cost of one row in batches of `items` requests, one row each; `items` must be above 0."""
        return self.per_row + self.per_batch / items

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> Self:
        """Return the straight line through two measurements: items of a batch, and the cost of a row then.

        `small` has fewer items. Where batches of more items do not cost less per row, a batch costs nothing, and a row
        the mean of both: what is below the noise of a measurement is not told from it.
        """
        (few, costly), (many, cheap) = small, large
        per_batch = (costly - cheap) / (1 / few - 1 / many)
        if per_batch <= 0:
            return cls(per_row=(costly + cheap) / 2, per_batch=0.0)
        return cls(per_row=max(cheap - per_batch / many, 0.0), per_batch=per_batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCosts:
    """What the drain of one partition costs, without confirmations."""

    batcher_cpu_us: BatchCost
    """CPU time of the batcher's process, in microseconds."""
    batcher_wait_us: BatchCost
    """For how long it was ready to run, and all cores were taken."""
    redis_cpu_us: BatchCost
    database_cpu_us: BatchCost
    redis_commands: BatchCost
    """Those that scripts run included."""
    wal_bytes: BatchCost
    """Of the database's write-ahead log, for the record and its ledger row with their indexes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendCosts:
    """What appending one request costs in Redis, and what it occupies there until it is written."""

    redis_cpu_us: Amount
    redis_commands: Amount
    """Those that scripts run included."""
    entry_bytes: Amount
    """Memory of its entry in the stream, for a record of `record_bytes`."""
    marker_bytes: Amount
    """Memory of its marker, by which a resubmission finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalCosts:
    """What one write of one workflow costs in Temporal and around it, without the workflow itself."""

    server_cpu_ms: Amount
    """CPU time of a development server, which keeps its data in memory."""
    caller_cpu_ms: Amount
    """CPU time of the worker that runs the calling workflows."""
    confirm_cpu_us: Amount
    """CPU time of the batcher's process for one confirmation."""
    actions: Amount
    """Billable ones."""
    events: Amount
    """In the history of the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCosts(JsonResult):
    """Everything that a plan is computed from."""

    measured_at: str
    """ISO 8601, UTC."""
    seconds: float
    """For how long was measured."""
    machine: dict[str, str]
    versions: dict[str, str]
    record_bytes: Annotated[int, Field(ge=1)]
    """Mean size of a measured record as JSON."""
    batch_sizes: tuple[int, int]
    """With which the drain was measured."""
    drain: DrainCosts
    append: AppendCosts
    ledger_bytes: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Of one row of the write ledger on disk, with its indexes."""
    temporal: Mapping[ConfirmBy, TemporalCosts]
    version: int = VERSION

    @property
    def file_name(self) -> str:
        return FILE_NAME


def load_costs(file: Path | None) -> CapacityCosts:
    """Read a costs file; without one, the costs that came with this package.

    Raises `ConfigurationError` when it cannot be read, is of another version, or lacks a cost.
    """
    shown = FILE_NAME if file is None else str(file)
    try:
        text = (files(PACKAGE) / FILE_NAME if file is None else file).read_text("utf-8")
        costs = TypeAdapter(CapacityCosts).validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise ConfigurationError(f"Costs file {shown} cannot be read ({reason}): {MEASURE_AGAIN}.") from error
    except ValidationError as error:
        raise ConfigurationError(f"Costs file {shown}: {first_mistake(error)}: {MEASURE_AGAIN}.") from None
    if costs.version != VERSION:
        raise ConfigurationError(f"Costs file {shown} has version {costs.version}, not {VERSION}: {MEASURE_AGAIN}.")
    if missing := _lacking(costs.temporal):
        raise ConfigurationError(f"Costs file {shown} lacks temporal.{missing[0]}: {MEASURE_AGAIN}.")
    return costs


def _lacking(temporal: Mapping[ConfirmBy, TemporalCosts]) -> Sequence[ConfirmBy]:
    return [mode for mode in ConfirmBy if mode not in temporal]
