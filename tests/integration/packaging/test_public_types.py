"""What a user's type checker says about the public names."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """\
from write_batcher import *
from write_batcher import BatchedWrite

BatchedWrites().send
"""


def test_mypy_knows_public_names_and_reports_misspelt_ones(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    misspelt, unknown, _summary = checked.stdout.splitlines()
    assert misspelt.startswith('program.py:2: error: Module "write_batcher" has no attribute "BatchedWrite"')
    assert unknown.startswith('program.py:4: error: "BatchedWrites" has no attribute "send"')
