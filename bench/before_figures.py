"""How fast the drain was at an earlier commit: a file written by hand, with which the picture of the drain compares."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date as Date
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from write_batcher.bench.bench_results import first_mistake
from write_batcher.bench.drain_plan import Kind
from write_batcher.errors import ConfigurationError

EXAMPLE = (
    '{"commit": "0d56c08", "date": "2026-11-27", "machine": "2 cores", "rows_per_s": {"sqlite": 1000}, '
    '"cpu_us_per_row": {"sqlite": 200}, "how": "Median of three rounds."}'
)

Amount = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=300)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeFigures:
    """What the case `plain` of `write-batcher bench drain` found at an earlier commit."""

    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,40}$")]
    date: Date
    """Of the measurement."""
    machine: Text
    rows_per_s: Annotated[Mapping[Kind, Amount], Field(min_length=1)]
    cpu_us_per_row: Mapping[Kind, Amount]
    how: Text
    """One sentence about the measurement."""
    batch_size: Annotated[int, Field(gt=0)] = 100


def load_before(file: Path) -> BeforeFigures:
    """Read such a file. Raises `ConfigurationError` when it cannot be read, or is not of this form."""
    cure = f"write it like {EXAMPLE}, or leave out --before"
    try:
        return TypeAdapter(BeforeFigures).validate_python(json.loads(file.read_text("utf-8")))
    except OSError as error:
        raise ConfigurationError(f"Figures {file} cannot be read ({error.strerror}): {cure}.") from error
    except ValidationError as error:
        raise ConfigurationError(f"Figures {file} are broken ({first_mistake(error)}): {cure}.") from None
    except ValueError:
        raise ConfigurationError(f"Figures {file} are broken (no JSON): {cure}.") from None
