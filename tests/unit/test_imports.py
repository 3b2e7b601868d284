"""Workflow code imports no driver, because sandboxes load it; `queue/` does not hide the standard library's `queue`."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DRIVERS = ("aiosqlite", "psycopg", "redis", "sqlalchemy")


def python(program: str, *, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "write_batcher",
        "write_batcher.workflows",
        "write_batcher.workflows.batched_writes",
        "write_batcher.workflows.batcher",
        "write_batcher.workflows.main",
        "write_batcher.compare.signal_batcher.batcher_workflow",
        "write_batcher.compare.signal_batcher.caller_workflow",
        "write_batcher.queue.record_encoding",
        "write_batcher.queue.routing",
    ],
)
def test_import_loads_no_driver(module: str, tmp_path: Path) -> None:
    program = f"import {module}, sys; print([name for name in {DRIVERS} if name in sys.modules])"
    assert python(program, cwd=tmp_path) == "[]"


@pytest.mark.parametrize(
    "names",
    ["BatchedWrites, WriteOptions, OnRejected, ConfirmBy", "WriteReceipt, Outcome, WriteRejected, WriteNotConfirmed"],
)
def test_public_names_of_workflows_load_no_driver(names: str, tmp_path: Path) -> None:
    program = (
        f"from write_batcher import {names}; import sys; print([name for name in {DRIVERS} if name in sys.modules])"
    )
    assert python(program, cwd=tmp_path) == "[]"


def test_queue_of_the_standard_library_is_visible_in_the_repository() -> None:
    # `python -c` and `python -m` put the current folder first on the path.
    program = "import asyncio, queue; print(queue.__file__, issubclass(queue.Empty, Exception))"
    file, has_members = python(program, cwd=REPOSITORY).split()
    assert not Path(file).is_relative_to(REPOSITORY)
    assert has_members == "True"


def test_queue_of_this_package_is_importable_too() -> None:
    program = (
        "import queue, write_batcher.queue.stream as stream; print(stream.WriteQueue.__name__, queue.Queue.__name__)"
    )
    assert python(program, cwd=REPOSITORY) == "WriteQueue Queue"
