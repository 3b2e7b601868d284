"""What a benchmark found, as `--json` prints it and `--out` saves it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from write_batcher.bench.duel_figures import Duel

VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResults:
    """One benchmark with everything that is needed to read its figures."""

    benchmark: str
    """The name of its command: `drain`."""
    case: str = ""
    """Empty for a benchmark that has only one."""
    started_at: str
    """ISO 8601, UTC."""
    seconds: float
    """Of the whole benchmark, starting the servers included."""
    rounds: int
    settings: Mapping[str, int]
    """How much was measured, and the limits that matter, by name: `requests`, `batch_size`."""
    notes: list[str]
    """Sentences for whoever reads the figures."""
    grouped_by: str
    """What the keys of `groups` are: `database`."""
    groups: Mapping[str, Duel]
    machine: dict[str, str]
    versions: dict[str, str]
    version: int = VERSION

    @property
    def name(self) -> str:
        return f"{self.benchmark}-{self.case}" if self.case else self.benchmark

    def as_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    def save(self, folder: Path) -> Path:
        """Write `<benchmark>-<case>.json` into `folder` and return its path. Raises `OSError` when it cannot."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path
