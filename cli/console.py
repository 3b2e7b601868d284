"""Output of the command: progress bars and tables on a terminal, plain lines in a pipe."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from write_batcher.escaping import escaped

Rows = Sequence[tuple[str, object]]


def progress_bars(console: Console) -> Progress:
    """Make progress bars with description, count, total and time; they show only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class ProgressScreen:
    """Shows progress bars while the context is open."""

    def __init__(self, console: Console) -> None:
        self._progress = progress_bars(console)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def make_console() -> Console:
    """Make a console for stdout that neither wraps lines nor highlights anything."""
    return Console(soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print one line of a command's answer."""
    print(text)  # noqa: T201


def print_error(text: str) -> None:
    """Print to stderr why the command did not do what it was asked for."""
    lines = map(escaped, text.split("\n"))  # several only when they quote the output of a process
    print("write-batcher: " + "\n".join(lines), file=sys.stderr)  # noqa: T201


def print_rows(console: Console, rows: Rows) -> None:
    """Print labels and values: a table on a terminal, lines `label: value` in a pipe."""
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
