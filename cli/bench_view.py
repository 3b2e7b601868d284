"""How a benchmark is shown: a progress bar while it runs, then a table and the machine."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console

from write_batcher.bench.bench_results import BenchResults, surroundings
from write_batcher.bench.duel_figures import Duel, Spread
from write_batcher.bench.turns import label
from write_batcher.cli.console import ProgressScreen


class BenchProgress(ProgressScreen):
    """Shows on a terminal's stderr how many measurements have been made, while the context is open."""

    def __init__(self, runs: int) -> None:
        super().__init__(Console(stderr=True))
        self._task = self._progress.add_task("starting", total=runs)

    def measured(self, phrase: str) -> None:
        """Count one measurement, which `phrase` is about."""
        self._progress.update(self._task, advance=1, description=phrase)


def results_as_text(results: BenchResults) -> str:
    """Return the table, the notes, and what it was measured on, in lines."""
    duels = list(results.groups.values())
    # Some groups have figures that others lack: SQLite has no process whose CPU time could be told.
    others = dict.fromkeys(name for duel in duels for name in duel.ours if name != duel.compared)
    compared = label(duels[0].compared)
    headings = (results.grouped_by, f"ours {compared}", "against", f"its {compared}", "ratio", *map(label, others))
    rows = [_row(group, duel, others) for group, duel in results.groups.items()]
    settings = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in results.settings.items())
    measured = "one round" if results.rounds == 1 else f"median of {results.rounds} rounds (lowest-highest)"
    legend = f"{results.name}: {measured}, {settings}; ratio: ours by its, round by round; other columns: ours / its"
    return "\n".join(
        [*aligned([headings, *rows]), legend, *results.notes, surroundings(results.machine, results.versions)]
    )


def _row(group: str, duel: Duel, others: Iterable[str]) -> Sequence[str]:
    floor = duel.floors[duel.floor]
    return (
        group,
        _spread(duel.ours[duel.compared]),
        duel.floor,
        _spread(floor[duel.compared]),
        f"{duel.ratio:.2f} ({duel.ratio_spread.min:.2f}-{duel.ratio_spread.max:.2f})",
        *(_both(duel.ours, floor, name) for name in others),
    )


def _both(ours: Mapping[str, Spread], its: Mapping[str, Spread], name: str) -> str:
    return f"{_median(ours, name)} / {_median(its, name)}" if name in ours else "-"


def _spread(spread: Spread) -> str:
    return f"{number(spread.median)} ({number(spread.min)}-{number(spread.max)})"


def _median(figures: Mapping[str, Spread], name: str) -> str:
    return number(figures[name].median) if name in figures else "-"


def number(value: float) -> str:
    """Return three significant digits or more, whatever the unit."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, its columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
