"""What the picture of the drain shows: our bars beside those of the floor and of an earlier commit, by case."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from write_batcher.bench.before_figures import BeforeFigures
from write_batcher.bench.bench_results import BenchResults, load_results, surroundings
from write_batcher.bench.cases import Case
from write_batcher.bench.drain_plan import Kind
from write_batcher.bench.duel_figures import Duel, Spread
from write_batcher.errors import ConfigurationError

CASES = (Case.PLAIN, Case.WIDE, Case.RECEIPTS, Case.CODEC)  # in this order; the others are compared with no floor
MOST = 1e9  # of any figure: far above what can be measured
MEASURE = "measure with `write-batcher bench drain --out DIR`"

Side = Literal["floor", "ours", "before"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One side's figures."""

    side: Side
    rows_per_s: float
    low: float
    """Of the slowest round."""
    high: float
    """Of the fastest round."""
    cpu_us_per_row: float | None
    ratio: float | None = None
    """Of ours: rows per second by those of the floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseBars:
    """One database in one case."""

    database: Kind
    floor: str
    """The way in which the best floor inserts."""
    bars: tuple[Bar, ...]

    def rows_per_s(self, side: Side) -> float | None:
        return next((bar.rows_per_s for bar in self.bars if bar.side == side), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseBars:
    """One case with one batch size."""

    case: Case
    batch_size: int
    databases: tuple[DatabaseBars, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPicture:
    """Everything that is drawn."""

    cases: tuple[CaseBars, ...]
    """At least one, with at least one database."""
    surroundings: str
    date: str
    """On which the first of them was measured."""
    rounds: tuple[int, int]
    """The fewest and the most of a case."""
    before: BeforeFigures | None
    """None also when nothing was measured that it can stand beside."""


def load_picture(folder: Path, before: BeforeFigures | None = None) -> DrainPicture:
    """Read the results of `bench drain` that are in `folder` or in folders inside it. `before` is shown beside the case
    `plain` with the same batch size.

    Raises `ConfigurationError` when there are none, when one is broken, or when they do not belong together.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"Folder {folder} does not exist: give one with results, or {MEASURE}.")
    found = [(file, load_results(file)) for file in sorted(folder.rglob("drain-*.json"))]
    shown = {file: results for file, results in found if results.case in CASES}
    _check_batches(shown)
    ordered = sorted(shown.items(), key=lambda one: (CASES.index(Case(one[1].case)), one[1].settings["batch_size"]))
    cases = [(results, _case(file, results, before)) for file, results in ordered]
    cases = [(results, case) for results, case in cases if case.databases]
    if not cases:
        raise ConfigurationError(
            f"Folder {folder} holds no results of bench drain with the case {', '.join(CASES)}: give another, or "
            f"{MEASURE}."
        )
    measured = [results for results, _ in cases]
    drawn = tuple(case for _, case in cases)
    return DrainPicture(
        cases=drawn,
        surroundings=_surroundings(folder, measured),
        date=min(results.started_at for results in measured)[:10],
        rounds=(min(results.rounds for results in measured), max(results.rounds for results in measured)),
        before=before if any(one.rows_per_s("before") for case in drawn for one in case.databases) else None,
    )


def _check_batches(shown: Mapping[Path, BenchResults]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    for file, results in shown.items():
        size = results.settings.get("batch_size", 0)
        if not 0 < size < MOST:
            raise ConfigurationError(f"Results {file} are broken (no batch_size in settings): {MEASURE}.")
        if other := seen.get((results.case, size)):
            raise ConfigurationError(
                f"Results {other} and {file} are both of {results.case} with batches of {size:,}: give the folder of "
                "one measurement."
            )
        seen[results.case, size] = file


def _case(file: Path, results: BenchResults, before: BeforeFigures | None) -> CaseBars:
    case, size = Case(results.case), results.settings["batch_size"]
    comparable = before if before and (case, size) == (Case.PLAIN, before.batch_size) else None
    databases = [
        DatabaseBars(
            database=database,
            floor=results.groups[database].floor,
            bars=(*_bars(file, results.groups[database]), *_before(database, comparable)),
        )
        for database in get_args(Kind)
        if database in results.groups
    ]
    return CaseBars(case=case, batch_size=size, databases=tuple(databases))


def _bars(file: Path, duel: Duel) -> Iterator[Bar]:
    sides: tuple[tuple[Side, Mapping[str, Spread], float | None], ...] = (
        ("floor", duel.floors.get(duel.floor, {}), None),
        ("ours", duel.ours, duel.ratio),
    )
    for side, figures, ratio in sides:
        rows, cpu = figures.get("rows_per_s"), figures.get("cpu_us_per_row")
        if not (rows and 0 < rows.min <= rows.median <= rows.max < MOST and 0 <= (ratio or 0) < MOST):
            raise ConfigurationError(f"Results {file} are broken (rows_per_s of {side}): {MEASURE}.")
        shown_cpu = cpu.median if cpu and math.isfinite(cpu.median) and abs(cpu.median) < MOST else None
        yield Bar(side=side, rows_per_s=rows.median, low=rows.min, high=rows.max, cpu_us_per_row=shown_cpu, ratio=ratio)


def _before(database: Kind, before: BeforeFigures | None) -> Iterator[Bar]:
    if before and (rows := before.rows_per_s.get(database)):
        cpu = before.cpu_us_per_row.get(database)
        yield Bar(side="before", rows_per_s=rows, low=rows, high=rows, cpu_us_per_row=cpu)


def _surroundings(folder: Path, measured: Sequence[BenchResults]) -> str:
    """What is true of all of them; the time of an fsync is that of the first."""
    machine, versions = measured[0].machine, measured[0].versions
    for results in measured:  # one that left out PostgreSQL does not know its version
        if _differ(machine, results.machine) or _differ(versions, results.versions):
            raise ConfigurationError(
                f"Results in {folder} come from different machines or versions, which one picture cannot compare: give "
                "the folder of one measurement."
            )
        versions = versions | results.versions
    try:
        text = surroundings(machine, versions)
    except KeyError as error:
        raise ConfigurationError(f"Results in {folder} are broken (no {error} of the machine): {MEASURE}.") from None
    return f"{text}, write-batcher {versions.get('write-batcher', 'of unknown version')}"


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(one[name] != other[name] for name in one.keys() & other.keys() - {"fsync"})
