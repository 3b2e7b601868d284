"""What the command makes of its arguments and of costs files, and how it shows plans and checks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from write_batcher.bench.capacity_check import CapacityCheck, Checked, compare
from write_batcher.bench.capacity_costs import BatchCost, CapacityCosts, DrainCosts, load_costs
from write_batcher.bench.capacity_plan import COST_BATCH_SIZES, PARTITIONS
from write_batcher.cli.bench_capacity_commands import capacity_command
from write_batcher.cli.bench_capacity_view import check_as_text
from write_batcher.errors import ConfigurationError, WrongWork

REPOSITORY = Path(__file__).parents[3]
COST = BatchCost(per_row=100.0, per_batch=0.0)
CHEAP = BatchCost(per_row=1.0, per_batch=0.0)
NONE = BatchCost(per_row=0.0, per_batch=0.0)
COSTS = DrainCosts(
    batcher_cpu_us=COST,
    batcher_wait_us=NONE,
    redis_cpu_us=CHEAP,
    database_cpu_us=CHEAP,
    redis_commands=CHEAP,
    wal_bytes=CHEAP,
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"--writes-per-second N\[,N\.\.\.\], --measure and --check are three ways .*: give one"),
        ({"measure": True, "check": True}, "give one of them"),
        ({"writes_per_second": "0"}, r"--writes-per-second 0 is outside of 1 to 10000000"),
        ({"writes_per_second": "5,many"}, r"--writes-per-second 'many' is not a whole number: give one from 1"),
        ({"writes_per_second": "1", "record_bytes": "300000"}, r"--record-bytes 300000 is outside of 1 to 262144"),
        (
            {"writes_per_second": "1", "confirm_by": "fax"},
            r"mode of confirmation 'fax': choose from signal, completion",
        ),
        ({"writes_per_second": "1", "batch_size": "0"}, r"--batch-size 0 is outside of 1 to 10000"),
        ({"writes_per_second": "1", "max_wait": "20"}, r"--max-wait '20' is not a duration; write a number and a unit"),
        ({"writes_per_second": "1", "max_wait": "0s"}, r"--max-wait 0s is outside of 0\.001s to 86400s"),
        ({"writes_per_second": "1", "outage": "8d"}, r"--outage 8d is outside of 0s to 604800s"),
        ({"writes_per_second": "1", "cores": "0"}, r"--cores 0 is outside of 1 to 1024"),
        ({"writes_per_second": "1", "memory": "much"}, r"--memory 'much' is not a size: write a number and a unit"),
        ({"writes_per_second": "1", "disk": "0B"}, r"--disk 0B is outside of 1B to 10,000TB"),
        ({"writes_per_second": "1", "disk": "64"}, "--disk '64' is not a size: write a number and a unit"),
        ({"writes_per_second": "1", "price_per_million_actions": "x"}, r"--price-per-million-actions 'x' is not a num"),
        ({"writes_per_second": "1", "price_per_million_actions": "nan"}, r"nan is outside of 0 to 10000"),
        ({"check": True, "requests": "7999"}, r"--requests 7999 is outside of 8000 to 1000000"),
        ({"measure": True, "requests": "999"}, r"--requests 999 is outside of 1000 to 1000000"),
        ({"measure": True, "workflows": "0"}, r"--workflows 0 is outside of 1 to 10000"),
        ({"check": True, "rounds": "0"}, r"--rounds 0 is outside of 1 to 1000"),
    ],
)
def test_wrong_argument_is_refused_before_anything_starts(
    arguments: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        capacity_command(**arguments)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_plan_names_the_first_limit_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    capacity_command(writes_per_second="100000")
    first, empty, header, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("100,000 writes/s: the first limit is: ")
    assert empty == ""
    assert header.split("  ")[0] == "needed for"
    assert any(row.startswith("partitions = worker processes") for row in rows)
    assert any(row.startswith("Temporal Cloud: price of 30 days") and "$" in row for row in rows)


def test_plan_of_several_loads_has_a_column_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    capacity_command(writes_per_second="1, 1000000", cores="1024", memory="1TB", disk="100TB")
    small, large, _, header, *_ = capsys.readouterr().out.splitlines()
    assert small.startswith("1 writes/s: no limit is reached. The first will be: ")
    assert large.startswith("1 million writes/s: the first limit is: ")
    assert header.split("  ")[-1].strip() == "1 million writes/s"


def test_plan_is_printed_as_json_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capacity_command(writes_per_second="1000", as_json=True, out=tmp_path)
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "capacity.json").read_text()) == found
    [plan] = found["plans"]
    assert plan["demand"]["writes_per_s"] == 1_000
    assert plan["limits"][0]["part"]


def test_costs_that_came_with_the_package_are_complete() -> None:
    costs = load_costs(None)
    assert costs.machine
    assert costs.versions["write-batcher"]
    assert 0 < costs.drain.batcher_cpu_us.at(1_000) <= costs.drain.batcher_cpu_us.at(100)


def test_costs_are_read_as_they_were_saved(tmp_path: Path) -> None:
    costs = load_costs(None)
    assert load_costs(costs.save(tmp_path)) == costs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-3], "the whole file: invalid JSON"),
        (lambda text: text.replace('"ledger_bytes"', '"ledger"'), r"ledger_bytes: field required"),
        (lambda text: text.replace('"per_row": ', '"per_row": -', 1), r"drain\.batcher_cpu_us\.per_row: input should"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "has version 2, not 1"),
        (lambda text: text.replace('"completion"', '"fax"'), "temporal.fax"),
    ],
    ids=["cut", "missing", "negative", "version", "mode"],
)
def test_wrong_costs_file_is_refused_with_the_cure(change: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(change(load_costs(None).as_file()))  # type: ignore[operator]
    with pytest.raises(
        ConfigurationError, match=rf"{message}.*measure again with `write-batcher bench capacity"
    ) as said:
        load_costs(file)
    assert str(file) in str(said.value)


def test_costs_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read \(No such file or directory\): measure again"):
        load_costs(tmp_path / "costs.json")


def test_costs_of_a_mode_that_is_missing_are_asked_for(tmp_path: Path) -> None:
    costs: CapacityCosts = load_costs(None)
    without = replace(costs, temporal={mode: cost for mode, cost in costs.temporal.items() if mode != "none"})
    with pytest.raises(ConfigurationError, match=r"lacks temporal\.none"):
        load_costs(without.save(tmp_path))


def check(rows_per_s: float) -> CapacityCheck:
    readings = [{"rows_per_s": 1.0, "other_cores": 1.5}, {"rows_per_s": rows_per_s, "other_cores": 0.25}]
    found = {(partitions, size): readings for size in COST_BATCH_SIZES for partitions in PARTITIONS}
    return CapacityCheck(
        started_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        rounds=2,
        requests=8_000,
        costs=COSTS,
        checked=compare(COSTS, found, cores=2),
        cores=2,
        machine={"cores": "2", "cpu": "Some", "os": "Linux", "python": "3.11", "fsync": "0.20 ms"},
        versions={"Valkey": "9.1", "PostgreSQL": "18"},
    )


def test_check_shows_predictions_beside_quiet_rounds() -> None:
    header, row, *_ = check_as_text(check(9_500)).splitlines()
    assert header.split("  ")[0] == "partitions"
    assert row.split() == [
        *("1", "100", "10,000", "batcher", "process"),
        *("9,500", "(1-9,500)", "+5", "%", "0.25", "cores"),
    ]


def test_check_with_a_prediction_that_is_wrong_fails_with_the_worst() -> None:
    check(9_500).raise_if_wrong()
    worst: Checked = check(5_000).worst
    assert worst.deviation_percent == pytest.approx(100.0, abs=2.0)
    with pytest.raises(
        WrongWork, match=r"deviates by \+100 %, the limit is 25 %\. Other programs used 0\.25 of 2 cores"
    ):
        check(5_000).raise_if_wrong()


def test_docs_show_plans_as_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs/scale.md").read_text("utf-8")
    capacity_command(writes_per_second="1000,10000,100000,1000000")
    assert f"```\n{capsys.readouterr().out}```\n" in page
