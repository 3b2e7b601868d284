"""How requests that wait in a queue are shown: a table on a terminal, plain lines in a pipe, or JSON."""

import json
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from write_batcher.cli.queue_view import age
from write_batcher.escaping import escaped
from write_batcher.workers.operating.queued_requests import QueuedRequest


def request_json(request: QueuedRequest) -> str:
    """Encode one request as a line of `queue list --json`."""
    return json.dumps(
        {
            "id": str(request.entry_id),
            "age_ms": request.age_ms,
            "request_id": request.request_id,
            "table": request.table,
            "workflow_id": request.reply.workflow_id if request.reply else None,
            "size_bytes": request.size_bytes,
            "held_ms": request.held_ms,
            "reason": request.held.reason if request.held else None,
            "order": request.order.order.value if request.order else None,
        }
    )


def request_line(request: QueuedRequest) -> str:
    """Format one request as a line for a pipe: columns separated by tabs."""
    return "\t".join(_columns(request))


def print_requests(console: Console, requests: Iterable[QueuedRequest]) -> None:
    """Print requests as a table for a terminal."""
    table = Table("id", "age", "request", "table", "bytes", "held for", "reason")
    for request in requests:
        table.add_row(*map(Text, _columns(request)))
    console.print(table, soft_wrap=False)


def more_note(limit: int) -> None:
    """Say on stderr that there are more than the `limit` that was shown."""
    print(f"only the first {limit} are shown: raise --limit to see more", file=sys.stderr)  # noqa: T201


def _columns(request: QueuedRequest) -> tuple[str, ...]:
    held = request.held
    ordered = f" ({request.order.order.value} ordered)" if request.order else ""
    return (
        str(request.entry_id),
        age(request.age_ms / 1000),
        escaped(request.request_id) or "-",
        escaped(request.table or "-"),
        str(request.size_bytes),
        "-" if request.held_ms is None else age(request.held_ms / 1000),
        (escaped(held.reason) if held else "-") + ordered,
    )
