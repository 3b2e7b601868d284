"""How a queue and its partitions are shown: tables on a terminal, plain lines in a pipe, or JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from write_batcher.cli.console import Rows
from write_batcher.config import rate_as_text
from write_batcher.escaping import escaped
from write_batcher.queue.contract import Contract
from write_batcher.queue.latencies import Latency
from write_batcher.workers.operating.monitor import PartitionView

# Characters.
LABEL_WIDTH = 24
PARTITION_WIDTH = 14
COLUMN_GAP = 3

MAX_NOTES = 8  # in the live view, which must fit on the screen
BATCHES_BY = "batches by "

_AGES = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def age(seconds: float) -> str:
    """Format a duration in its largest unit, rounded down: `850ms`, `12s`, `3m`, `5h`, `7d`."""
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{int(seconds // unit)}{name}"
    return f"{max(seconds, 0) * 1000:.0f}ms"


def views_json(queue: str, views: Sequence[PartitionView]) -> str:
    """Encode all partitions as one line of JSON; README lists its most used keys."""
    return json.dumps({"queue": queue, "partitions": [_view_dict(view) for view in views]})


def print_views(console: Console, views: Sequence[PartitionView]) -> None:
    """Print all partitions: tables as wide as the terminal, or in a pipe lines that begin with the partition."""
    if not console.is_terminal:
        for view in views:
            for label, value in _rows(view):
                console.print(f"{view.partition} {label}: {value}", markup=False)
        for note in _notes(views):
            console.print(note, markup=False)
        return
    for note in _notes(views):
        console.print(note, markup=False)
    per_table = _fitting_columns(console)
    for first in range(0, len(views), per_table):
        console.print(_table(views[first : first + per_table]), soft_wrap=False)


def live_view(console: Console, views: Sequence[PartitionView], problem: str | None) -> RenderableType:
    """Make a view of the partitions that fit on the terminal, those with warnings and old requests first.

    `problem` says why the view is not up to date.
    """
    by_urgency = sorted(views, key=lambda view: (view.warning is None, -view.oldest_ms))
    shown = sorted(by_urgency[: _fitting_columns(console)], key=lambda view: view.partition.partition)
    parts: list[RenderableType] = [Text(f"{datetime.now(UTC).astimezone():%H:%M:%S}, Ctrl-C ends", style="dim")]
    if problem:
        parts.append(Text(problem, style="bold red"))
    parts += [Text(note) for note in list(_notes(by_urgency))[:MAX_NOTES]]
    if len(shown) < len(views):
        parts.append(Text(f"{len(shown)} of {len(views)} partitions: `write-batcher monitor --once` shows all"))
    if shown:
        parts.append(_table(shown))  # last, because a terminal with too few lines cuts off the end
    return Group(*parts)


def _fitting_columns(console: Console) -> int:
    return max((console.width - LABEL_WIDTH) // PARTITION_WIDTH, 1)


def _table(views: Sequence[PartitionView]) -> Table:
    """A column per partition, and a row per figure, except flush reasons that no partition has had."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(views[0].partition.queue, style="bold", overflow="fold", max_width=LABEL_WIDTH)
    for view in views:
        table.add_column(
            str(view.partition.partition),
            justify="right",
            style="red" if view.warning else "",
            overflow="fold",
            max_width=PARTITION_WIDTH - COLUMN_GAP,
        )
    for row in zip(*map(_rows, views), strict=True):
        label, values = row[0][0], [value for _label, value in row]
        if not label.startswith(BATCHES_BY) or any(values):
            table.add_row(label, *map(str, values))
    return table


def _rows(view: PartitionView) -> Rows:
    host = view.host
    state = f"{host.state.value} ({host.closed_as})" if host.closed_as else host.state.value
    return [
        ("batcher", state),
        ("drain attempt", _or_dash(host.attempt)),
        ("drains returned", _or_dash(host.drains)),
        ("backlog", view.backlog),
        ("oldest", age(view.oldest_ms / 1000) if view.backlog else "-"),
        ("pending", view.pending),
        ("in flight", _or_dash(view.in_flight)),
        ("held", view.held),
        ("dead letters", view.dead_letters),
        ("dead letters trimmed", view.dead_letters_trimmed),
        *((f"{BATCHES_BY}{reason}", number) for reason, number in view.batches.items()),
        *_limits(view),
        ("batch fill", "-" if view.fill is None else f"{view.fill:.0%}"),
        ("queued p50 / p99 below", _latency(view.queued)),
        ("write p50 / p99 below", _latency(view.write)),
        ("confirm p50 / p99 below", _latency(view.confirm)),
        ("appended", view.appended),
        ("written", view.written),
        ("duplicate", view.duplicate),
        ("rejected", view.rejected),
        ("withdrawn", view.withdrawn),
        ("undecodable", view.undecodable),
        ("confirmed", view.confirmed),
        ("confirmations retried", view.confirmations_retried),
        ("without caller", view.without_caller),
    ]


def limits_text(contract: Contract) -> str:
    """The limits of a queue in one line: `pace 50/s (set), max rate -, ...`."""
    return ", ".join(f"{label} {value}" for label, value in _limits(contract))


def _limits(found: Contract | PartitionView) -> Rows:
    texts = {
        "pace": found.pace and rate_as_text(found.pace),
        "max_rate": found.max_rate and rate_as_text(found.max_rate),
        "target_latency_ms": found.target_latency_ms and age(found.target_latency_ms / 1000),
        "max_items": found.max_items,
        "max_wait_ms": found.max_wait_ms and age(found.max_wait_ms / 1000),
    }
    return [
        (
            name.removesuffix("_ms").replace("_", " "),
            f"{'-' if text is None else text}{' (set)' if name in found.set_live else ''}",
        )
        for name, text in texts.items()
    ]


def _notes(views: Iterable[PartitionView]) -> Iterator[str]:
    for view in views:
        if view.warning:
            yield f"warning: {escaped(view.warning)}"
        elif view.host.progress and view.host.progress.holding:
            yield f"{view.partition}: nothing is written: {escaped(view.host.progress.holding)}"
        elif view.host.progress and view.host.progress.throttled:
            yield f"{view.partition}: throttled: {view.host.progress.throttled}"
        elif view.host.last_failure:
            yield f"{view.partition}: the previous attempt of its drain failed: {escaped(view.host.last_failure)}"


def _view_dict(view: PartitionView) -> dict[str, object]:
    values = {name: value for name, value in asdict(view).items() if name not in ("partition", "host")}
    host = view.host
    return {
        "partition": view.partition.partition,
        "batcher": host.state.value,
        "closed_as": host.closed_as,
        "drains": host.drains,
        "attempt": host.attempt,
        "holding": host.progress.holding if host.progress else None,
        "throttled": host.progress.throttled if host.progress else None,
        "last_failure": host.last_failure,
        **values,
    }


def _latency(latency: Latency | None) -> str:
    return "-" if latency is None else f"{age(latency.p50_ms / 1000)} / {age(latency.p99_ms / 1000)}"


def _or_dash(value: int | None) -> int | str:
    return "-" if value is None else value
