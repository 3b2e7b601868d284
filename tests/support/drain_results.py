"""Small results of `bench drain`, made by hand."""

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.duel_figures import Duel

MACHINE = {"cores": "2", "cpu": "Some", "os": "Linux", "python": "3.11", "fsync": "0.20 ms"}
VERSIONS = {"Valkey": "9.1", "SQLite": "3.40", "write-batcher": "1.2.3"}


def readings(rows_per_s: float) -> dict[str, float]:
    return {"rows_per_s": rows_per_s, "cpu_us_per_row": 400_000 / rows_per_s}


def drain_results(
    case: str = "plain",
    *,
    batch_size: int = 100,
    databases: tuple[str, ...] = ("sqlite", "postgresql"),
    floor: str = "COPY",
    machine: dict[str, str] = MACHINE,
) -> BenchResults:
    """Two rounds, in which ours writes 4,000 and 6,000 rows per second, and the floor 20,000."""
    duel = Duel.of(
        [readings(4_000), readings(6_000)], {floor: [readings(20_000), readings(20_000)]}, compared="rows_per_s"
    )
    return BenchResults(
        benchmark="drain",
        case=case,
        started_at="2026-01-02T03:04:05+00:00",
        seconds=1.0,
        rounds=2,
        settings={"requests": 1_000, "batch_size": batch_size},
        notes=[],
        grouped_by="database",
        groups=dict.fromkeys(databases, duel),
        machine=machine,
        versions=VERSIONS,
    )
