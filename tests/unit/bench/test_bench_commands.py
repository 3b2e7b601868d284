"""What the command makes of its arguments, and how it shows results."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.cases import TRAITS, Case
from write_batcher.bench.duel_figures import Duel
from write_batcher.bench.sample import Sample
from write_batcher.bench.turns import label
from write_batcher.cli.bench_commands import append_command, confirm_command, drain_command, partitions_command
from write_batcher.cli.bench_options import parse_count
from write_batcher.cli.bench_process_commands import (
    end_to_end_command,
    latency_command,
    memory_command,
    recovery_command,
)
from write_batcher.cli.bench_view import results_as_text
from write_batcher.errors import ConfigurationError


def results() -> BenchResults:
    ours = Sample(count=1_000, seconds=0.5, cpu_s=0.25, servers_cpu_s={"redis": 0.1}).readings("row")
    floor = Sample(count=1_000, seconds=0.1, cpu_s=0.02, servers_cpu_s={}).readings("row")
    return BenchResults(
        benchmark="drain",
        case="receipts",
        started_at="2026-01-01T00:00:00+00:00",
        seconds=3.0,
        rounds=1,
        settings={"requests": 1_000, "batch_size": 100},
        notes=["Signals return at once."],
        grouped_by="database",
        groups={"sqlite": Duel.of([ours], {"executemany": [floor]}, compared="rows_per_s")},
        machine={"cores": "2", "cpu": "Some", "os": "Linux", "python": "3.11", "fsync": "0.20 ms"},
        versions={"Valkey": "9.1", "SQLite": "3.40"},
    )


@pytest.mark.parametrize("text", ["0", "11", "-1", "x", "1.5", ""])
def test_count_outside_of_its_limits_is_refused_with_them(text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Option --rounds '?{text}'? is .* from|outside of 1 to 10"):
        parse_count("--rounds", text, 1, 10)


def test_count_within_its_limits_is_taken() -> None:
    assert [parse_count("--rounds", text, 1, 10) for text in ("1", "10")] == [1, 10]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (drain_command, {"case": "nice"}, r"no case 'nice': choose from plain, wide"),
        (drain_command, {"database": "oracle"}, r"no database 'oracle': choose from sqlite, postgresql, both"),
        (drain_command, {"rounds": "0"}, r"--rounds 0 is outside of 1 to 1000"),
        (drain_command, {"requests": "2000000"}, r"--requests 2000000 is outside of 1 to 1000000"),
        (drain_command, {"batch_size": "20000"}, r"--batch-size 20000 is outside of 1 to 10000"),
        (drain_command, {"case": "one-bad", "batch_size": "1"}, r"--batch-size 1 is outside of 2 to 10000"),
        (append_command, {"tasks": "0"}, r"--tasks 0 is outside of 1 to 1000"),
        (confirm_command, {"callers": "many"}, r"--callers 'many' is not a whole number: give one from 1 to 10000"),
        (partitions_command, {"requests": "7"}, r"--requests 7 is outside of 8 to 1000000"),
        (memory_command, {"requests": "0"}, r"--requests 0 is outside of 1 to 1000000"),
        (recovery_command, {"rounds": "-1"}, r"--rounds -1 is outside of 1 to 1000"),
        (latency_command, {"at_once": "0"}, r"--at-once 0 is outside of 1 to 1000"),
        (end_to_end_command, {"database": "oracle"}, r"no database 'oracle'"),
    ],
)
def test_wrong_argument_is_refused_before_anything_starts(
    command: Callable[..., None], arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        command(**arguments)


def test_every_case_has_its_traits() -> None:
    assert list(TRAITS) == list(Case)


def test_table_shows_both_sides_notes_and_machine() -> None:
    header, row, legend, *rest = results_as_text(results()).splitlines()
    assert header.split("  ")[0] == "database"
    assert row.split() == [
        *("sqlite", "2,000", "(2,000-2,000)", "executemany", "10,000", "(10,000-10,000)"),
        *("0.20", "(0.20-0.20)", "250", "/", "20", "100", "/", "-"),
    ]
    assert legend.startswith("drain-receipts: one round, requests 1,000, batch size 100;")
    assert rest == [
        "Signals return at once.",
        "2 cores (Some), Linux, fsync 0.20 ms, Python 3.11, Valkey 9.1, SQLite 3.40",
    ]


def test_table_has_a_column_for_each_figure_of_any_group() -> None:
    ours = {"rows_per_s": 10.0, "database_cpu_us_per_row": 40.0}
    duel = Duel.of([ours], {"COPY": [{**ours, "database_cpu_us_per_row": 20.0}]}, compared="rows_per_s")
    both = replace(results(), groups={**results().groups, "postgresql": duel})
    header, sqlite, postgresql, *_ = results_as_text(both).splitlines()
    assert header.endswith("database CPU µs/row")
    assert sqlite.split()[-4:] == ["100", "/", "-", "-"]
    assert postgresql.split()[-5:] == ["-", "-", "40", "/", "20"]


def test_figures_are_labelled_for_people() -> None:
    figures = ("rows_per_s", "cpu_us_per_row", "redis_cpu_us_per_append", "p99_ms")
    assert [label(figure) for figure in figures] == ["rows/s", "CPU µs/row", "Redis CPU µs/append", "p99 ms"]


def test_results_are_saved_under_benchmark_and_case(tmp_path: Path) -> None:
    path = results().save(tmp_path)
    assert path.name == "drain-receipts.json"
    assert '"ratio": 0.2' in path.read_text()
    assert replace(results(), case="").save(tmp_path).name == "drain.json"
