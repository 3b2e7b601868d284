"""The table of all measures, for the page and for the terminal."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from write_batcher.compare.report.figures import Figures, Spread
from write_batcher.compare.report.formatting import ABSENT, SCENARIOS, figure, spanned
from write_batcher.compare.report.measures import MEASURES, Measure
from write_batcher.compare.report.prices import LIST_PRICE, Price
from write_batcher.compare.report.verdict import judge
from write_batcher.compare.results import Contender, Results

BEST_MARK = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A median, or the sum of what went wrong, and how far the rounds lie apart."""

    text: str
    spread: str = ""
    is_best: bool = False
    is_bad: bool = False
    """A write went wrong that should not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measure of every contender, in the order of the columns."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A scenario on a database."""

    title: str
    rows: tuple[Row, ...]


def summarize(results: Results, price: Price = LIST_PRICE) -> tuple[list[Contender], list[Section]]:
    """Columns and sections; what nobody measured has no row."""
    figures = Figures(results)
    columns = figures.contenders()
    sections = []
    for scenario in figures.scenarios():
        for database in figures.databases(scenario):
            rows: list[Row] = []
            for row in MEASURES:
                if row.scenario is scenario and figures.spreads(row, database):
                    rows += _rows(figures, row, columns, database, price)
            if rows:
                sections.append(Section(title=f"{SCENARIOS[scenario]}, {database}", rows=tuple(rows)))
    return columns, sections


def _rows(figures: Figures, row: Measure, columns: list[Contender], database: str, price: Price) -> list[Row]:
    spreads = figures.spreads(row, database)
    best = figures.best(row, database)
    cells = tuple(_cell(row.kind, spreads.get(one), one in best, is_harm=row.is_harm) for one in columns)
    rows = [Row(label=row.label, cells=cells)]
    if row.figure == "actions_per_write":
        paid = {one: _paid(spread, price) for one, spread in spreads.items()}
        rows.append(
            Row(
                label="List price per million writes",
                cells=tuple(_cell("usd", paid.get(one), one in best, is_harm=False) for one in columns),
            )
        )
    return rows


def _paid(spread: Spread, price: Price) -> Spread:
    low, middle, high = (price.of_million_writes(value) for value in (spread.low, spread.middle, spread.high))
    return Spread(low=low, middle=middle, high=high)


def _cell(kind: str, spread: Spread | None, is_best: bool, *, is_harm: bool) -> Cell:
    if spread is None:
        return Cell(text=ABSENT)
    text, low, high = (figure(value, kind) for value in (spread.middle, spread.low, spread.high))
    return Cell(
        text=text,
        spread="" if is_harm or low == high else spanned(low, high),
        is_best=is_best,
        is_bad=is_harm and spread.middle > 0,
    )


def print_summary(console: Console, results: Results, price: Price = LIST_PRICE) -> None:
    """The medians, as a table on a terminal and as a line per measure elsewhere; then the verdict, where one looks."""
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
    table = Table(caption=f"Medians of all rounds, failures as sums; {BEST_MARK} best of its row")
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
