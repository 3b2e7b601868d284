"""How the signal batcher is shown: a table on a terminal, plain lines in a pipe, or JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from write_batcher.compare.signal_batcher.batcher_monitor import BatcherView
from write_batcher.compare.signal_batcher.wire import BatcherStats
from write_batcher.escaping import escaped

LABELS = {
    "pending_writes": "pending requests",
    "processed_batches": "processed batches",
    "session_signals_received": "signals of this run",
    "processed_request_ids_count": "remembered request ids",
    "continue_as_new_cycle": "continue-as-new cycle",
    "batch_size_limit": "batch size limit",
    "is_continue_suggested": "new run suggested",
}


def batchers_json(views: Sequence[BatcherView]) -> str:
    """Encode all batchers as one line of JSON: state, run, and the figures of the query `get_stats`, null without an
    answer.
    """
    no_stats = dict.fromkeys(field.name for field in fields(BatcherStats))
    return json.dumps(
        {
            "batchers": [
                {
                    "batcher": view.batcher,
                    "state": view.state,
                    "run_id": view.run_id,
                    "previous_run_id": view.previous_run_id,
                    "problem": view.problem,
                    **(asdict(view.stats) if view.stats else no_stats),
                }
                for view in views
            ]
        }
    )


def print_batchers(console: Console, views: Sequence[BatcherView]) -> None:
    """Print all batchers: a table on a terminal, in a pipe lines that begin with the batcher."""
    for note in _notes(views):
        console.print(note, markup=False)
    if console.is_terminal:
        console.print(_table(views), soft_wrap=False)
        return
    for view in views:
        for label, value in _rows(view):
            console.print(f"{view.batcher} {label}: {value}", markup=False)


def live_batchers(views: Sequence[BatcherView], followed: Sequence[str], problem: str | None) -> RenderableType:
    """Make the live view: `problem`, which says why it is not up to date, the latest changes of runs, and the table."""
    parts: list[RenderableType] = [Text(f"{datetime.now(UTC).astimezone():%H:%M:%S}, Ctrl-C ends", style="dim")]
    if problem:
        parts.append(Text(problem, style="bold red"))
    parts += [Text(note) for note in followed]
    parts += [Text(escaped(view.problem)) for view in views if view.problem]
    if views:
        parts.append(_table(views))
    return Group(*parts)


def runs_followed(views: Sequence[BatcherView]) -> Iterator[str]:
    """Yield a line for each batcher that is in another run than at the last look."""
    for view in views:
        if view.previous_run_id is not None:
            yield f"{view.batcher} has a new run: {view.run_id}, before {view.previous_run_id}"


def _notes(views: Sequence[BatcherView]) -> Iterator[str]:
    yield from runs_followed(views)
    for view in views:
        if view.problem:
            yield f"warning: {escaped(view.problem)}"


def _table(views: Sequence[BatcherView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("", style="bold")
    for view in views:
        table.add_column(Text(view.batcher), justify="right", overflow="fold")
    for row in zip(*map(_rows, views), strict=True):
        table.add_row(row[0][0], *(Text(value) for _label, value in row))
    return table


def _rows(view: BatcherView) -> list[tuple[str, str]]:
    stats = asdict(view.stats) if view.stats else {}
    return [
        ("state", view.state),
        ("run", view.run_id or "-"),
        *((label, _shown(stats.get(name))) for name, label in LABELS.items()),
    ]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
