"""What the command shows: progress and tables where a person looks, plain lines where the output is piped."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    pass

Rows = Sequence[tuple[str, object]]


def progress_bars(console: Console) -> Progress:
    """Bars with a description, how many of how many, and the time; only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def make_console() -> Console:
    """Writes to stdout: lines as long as they are, nothing interpreted but what is marked."""
    return Console(soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """One line of a command's answer."""
    print(text)  # noqa: T201


def complain(text: str) -> None:
    """One line on why the command did not do what it was asked for."""
    print(f"write-batcher: {text}", file=sys.stderr)  # noqa: T201


def one_line(text: str) -> str:
    """`text` without anything that a terminal would obey: a foreign entry may hold whatever its producer liked."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def print_rows(console: Console, rows: Rows) -> None:
    """A label and a value each: a table on a terminal, `label: value` elsewhere."""
    if not console.is_terminal:
        for label, value in rows:
            console.print(f"{label}: {value}", markup=False)
        return
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, Text(str(value)))
    console.print(table)
