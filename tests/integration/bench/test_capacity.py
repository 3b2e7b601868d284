"""The capacity model on real servers: the shape of its measurements, not their figures."""

import json
from pathlib import Path

import pytest

from tests.support.command import run_command
from write_batcher.bench.capacity_costs import load_costs
from write_batcher.bench.capacity_plan import COST_BATCH_SIZES, MOST_DEVIATION_PERCENT, PARTITIONS, SHARED_BY_ALL
from write_batcher.models import ConfirmBy

pytestmark = pytest.mark.thorough  # these measure for a minute each


async def test_bench_capacity_check_compares_each_prediction_with_its_measurement(tmp_path: Path) -> None:
    status, output, errors = await run_command(
        *("bench", "capacity", "--check", "--rounds", "1", "--requests", str(SHARED_BY_ALL)),
        *("--json", "--out", str(tmp_path)),
        within_s=110,
    )
    found = json.loads(output)
    assert json.loads((tmp_path / "capacity-check.json").read_text()) == found
    checked = found["checked"]
    assert [(one["partitions"], one["batch_size"]) for one in checked] == [
        (partitions, size) for size in COST_BATCH_SIZES for partitions in PARTITIONS
    ]
    assert all(one["predicted_rows_per_s"] > 0 and one["measured_rows_per_s"] > 0 for one in checked)
    # So little is chance: the status must agree with what was found, whatever that is.
    worst = max(abs(one["deviation_percent"]) for one in checked)
    assert status == (1 if worst > MOST_DEVIATION_PERCENT else 0), errors


@pytest.mark.timeout(300)
async def test_bench_capacity_measure_makes_a_costs_file_that_plans(tmp_path: Path) -> None:
    status, output, errors = await run_command(
        *("bench", "capacity", "--measure", "--rounds", "1", "--requests", "2000", "--workflows", "20"),
        *("--json", "--out", str(tmp_path)),
        within_s=280,
    )
    assert status == 0, errors
    file = tmp_path / "capacity_costs.json"
    assert json.loads(file.read_text()) == json.loads(output)
    costs = load_costs(file)
    assert costs.append.entry_bytes > costs.record_bytes
    assert costs.temporal[ConfirmBy.SIGNAL].actions > costs.temporal[ConfirmBy.COMPLETION].actions >= 1
    status, output, errors = await run_command(
        "bench", "capacity", "--writes-per-second", "100", "--costs", str(file), within_s=30
    )
    assert status == 0, errors
    assert output.startswith("100 writes/s: ")
