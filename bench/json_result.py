"""Results that are printed as JSON and saved as a file."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonResult(ABC):
    """The base of dataclasses with results."""

    @property
    @abstractmethod
    def file_name(self) -> str:
        """The name of its file."""

    def members(self) -> dict[str, Any]:
        """Return what the JSON has, by name."""
        return asdict(self)

    def as_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.members())

    def as_file(self) -> str:
        """Return the text of its file, without the end of the last line."""
        return json.dumps(self.members(), indent=1)

    def save(self, folder: Path) -> Path:
        """Write its file into `folder` and return the path. Raises `OSError` when it cannot."""
        path = folder / self.file_name
        path.write_text(self.as_file() + "\n", "utf-8")
        return path
