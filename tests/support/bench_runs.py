"""Running a benchmark as a user does."""

import json
from pathlib import Path
from typing import Any

from tests.support.command import run_command


async def bench(out: Path, name: str, *arguments: str, within_s: float = 100) -> dict[str, Any]:
    """Run `write-batcher bench NAME`, and return its results, which must be what it saved in `out`, too."""
    status, output, errors = await run_command(
        *("bench", name, *arguments, "--json", "--out", str(out)), within_s=within_s
    )
    assert status == 0, errors
    results: dict[str, Any] = json.loads(output)
    assert json.loads(_only_file(out, name)) == results
    assert results["machine"]["fsync"]
    assert "write-batcher" in results["versions"]
    return results


def _only_file(folder: Path, name: str) -> str:
    [saved] = folder.iterdir()
    assert saved.name.startswith(name)
    return saved.read_text()


def figures_of(duel: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the names of the figures of ours, and of the floor that counts."""
    return set(duel["ours"]), set(duel["floors"][duel["floor"]])
