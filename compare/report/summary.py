"""The summary: a table of all measures, for the page and for the terminal."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from write_batcher.compare.report.figures import Figures, Spread
from write_batcher.compare.report.formatting import ABSENT, SCENARIOS, format_figure, format_range
from write_batcher.compare.report.measures import MEASURES, Measure
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.verdict import judge
from write_batcher.compare.results import Contender, Results

BEST_MARK = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A measure of one contender: the median over all rounds, or the sum of a harm."""

    text: str
    spread: str = ""
    """Lowest to highest value; empty when they are equal."""
    is_best: bool = False
    is_bad: bool = False
    """Whether the contender did harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measure of all contenders, in the order of the columns."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A scenario on a database."""

    title: str
    rows: tuple[Row, ...]


def summarize(results: Results, price: Price = LIST_PRICE) -> tuple[list[Contender], list[Section]]:
    """Return columns and sections. A measure that no run has gets no row."""
    figures = Figures(results)
    columns = figures.contenders()
    sections = []
    for scenario in figures.scenarios():
        for database in figures.databases(scenario):
            rows: list[Row] = []
            for measure in MEASURES:
                if measure.scenario is scenario and figures.spreads(measure, database):
                    rows += _rows(figures, measure, columns, database, price)
            if rows:
                sections.append(Section(title=f"{SCENARIOS[scenario]}, {database}", rows=tuple(rows)))
    return columns, sections


def _rows(figures: Figures, measure: Measure, columns: list[Contender], database: str, price: Price) -> list[Row]:
    spreads = figures.spreads(measure, database)
    best = figures.best(measure, database)
    cells = tuple(_cell(measure.kind, spreads.get(name), name in best, is_harm=measure.is_harm) for name in columns)
    rows = [Row(label=measure.label, cells=cells)]
    if measure.figure == "actions_per_write":
        costs = {name: _cost(spread, price) for name, spread in spreads.items()}
        rows.append(
            Row(
                label="List price per million writes",
                cells=tuple(_cell("usd", costs.get(name), name in best, is_harm=False) for name in columns),
            )
        )
    return rows


def _cost(spread: Spread, price: Price) -> Spread:
    low, middle, high = (price.of_million_writes(value) for value in (spread.low, spread.middle, spread.high))
    return Spread(low=low, middle=middle, high=high)


def _cell(kind: str, spread: Spread | None, is_best: bool, *, is_harm: bool) -> Cell:
    if spread is None:
        return Cell(text=ABSENT)
    text, low, high = (format_figure(value, kind) for value in (spread.middle, spread.low, spread.high))
    return Cell(
        text=text,
        spread="" if is_harm or low == high else format_range(low, high),
        is_best=is_best,
        is_bad=is_harm and spread.middle > 0,
    )


def print_summary(console: Console, results: Results, price: Price = LIST_PRICE) -> None:
    """Print the summary, as a table on a terminal and as lines elsewhere. The verdict comes last."""
    verdict = judge(results, price)
    columns, sections = summarize(results, price)
    if not console.is_terminal:
        for section in sections:
            for row in section.rows:
                cells = ", ".join(f"{name} {_plain(cell)}" for name, cell in zip(columns, row.cells, strict=True))
                console.print(Text(f"{section.title}: {row.label}: {cells}"))
    elif sections:
        console.print(_table(columns, sections))
    for alarm in verdict.alarms:
        console.print(Text(f"ALARM: {alarm}", style="bold red"))
    for warning in verdict.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    console.print(Text(f"{verdict.headline} {verdict.reason}".strip(), style="bold"))
    for missing in verdict.missing:
        console.print(Text(missing))


def _table(columns: list[Contender], sections: list[Section]) -> Table:
    table = Table(caption=f"Medians over all rounds, failures summed; {BEST_MARK} best in its row")
    table.add_column("")
    for name in columns:
        table.add_column(str(name), justify="right")
    for section in sections:
        table.add_row(Text(section.title, style="bold"))
        for row in section.rows:
            styles = ["bold red" if cell.is_bad else "bold" if cell.is_best else "" for cell in row.cells]
            table.add_row(
                Text(row.label),
                *(Text(_plain(cell), style=style) for cell, style in zip(row.cells, styles, strict=True)),
            )
        table.add_section()
    return table


def _plain(cell: Cell) -> str:
    return f"{cell.text} {BEST_MARK}" if cell.is_best else cell.text
