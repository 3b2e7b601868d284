"""What a benchmark found, as `--json` prints it and `--out` saves it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from write_batcher.bench.duel_figures import Duel
from write_batcher.bench.json_result import JsonResult
from write_batcher.errors import ConfigurationError

VERSION = 3
GROUPS_IN_JSON = {"database": "databases"}  # what `groups` are called there, by `grouped_by`
SERVERS = ("Temporal server", "Valkey", "Redis", "SQLite", "PostgreSQL")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResults(JsonResult):
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

    @property
    def file_name(self) -> str:
        """`<benchmark>-<case>.json`."""
        return f"{self.name}.json"

    def members(self) -> dict[str, Any]:
        """Return what the JSON has. Groups that are databases have that name there: `databases`."""
        groups = GROUPS_IN_JSON.get(self.grouped_by, "groups")
        return {groups if name == "groups" else name: value for name, value in asdict(self).items()}


def load_results(file: Path) -> BenchResults:
    """Read what `save` has written. Raises `ConfigurationError` when it cannot be read, is of another version, or lacks
    a figure.
    """
    cure = "measure again with `write-batcher bench`, or give another folder"
    try:
        found = json.loads(file.read_text("utf-8"))
        if not isinstance(found, dict) or found.get("version") != VERSION:
            version = found.get("version") if isinstance(found, dict) else None
            raise ConfigurationError(f"Results {file} have version {version!r}, not {VERSION}: {cure}.")
        for name in found.keys() & set(GROUPS_IN_JSON.values()):
            found["groups"] = found.pop(name)
        return TypeAdapter(BenchResults).validate_python(found)
    except OSError as error:
        raise ConfigurationError(f"Results {file} cannot be read ({error.strerror}): {cure}.") from error
    except ValidationError as error:
        raise ConfigurationError(f"Results {file} are broken ({first_mistake(error)}): {cure}.") from None
    except ValueError:
        raise ConfigurationError(f"Results {file} are broken (no JSON): {cure}.") from None


def first_mistake(error: ValidationError) -> str:
    """Return which value of a file is wrong, and why."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"])) or "the whole file"
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def surroundings(machine: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return the line that says on what was measured."""
    servers = [f"{name} {versions[name]}" for name in SERVERS if name in versions]
    return ", ".join(
        [
            f"{machine['cores']} cores ({machine['cpu']})",
            machine["os"],
            f"fsync {machine['fsync']}",
            f"Python {machine['python']}",
            *servers,
        ]
    )
