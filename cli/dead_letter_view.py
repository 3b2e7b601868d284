"""How dead letters are shown: tables on a terminal, plain lines in a pipe, or JSON."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from write_batcher.cli.console import print_rows
from write_batcher.cli.queue_view import age
from write_batcher.escaping import escaped
from write_batcher.workers.operating.dead_letter_repair import Letter


def letter_json(letter: Letter) -> str:
    """Encode one dead letter as a line of `dead-letters list --json`."""
    return json.dumps(
        {
            "id": str(letter.letter_id),
            "age_ms": round(_age_s(letter) * 1000),
            "request_id": letter.dead.request_id,
            "table": letter.table,
            "workflow_id": letter.reply.workflow_id if letter.reply else None,
            "reason": letter.dead.reason,
        }
    )


def letter_line(letter: Letter) -> str:
    """Format one dead letter as a line for a pipe: columns separated by tabs."""
    return "\t".join(_columns(letter))


def print_letters(console: Console, letters: Iterable[Letter]) -> None:
    """Print dead letters as a table for a terminal."""
    table = Table("id", "age", "request", "table", "reason")
    for letter in letters:
        table.add_row(*map(Text, _columns(letter)))
    console.print(table, soft_wrap=False)


def print_letter(console: Console, letter: Letter) -> None:
    """Print everything about one dead letter, including its record."""
    died_at = datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds")
    rows: list[tuple[str, object]] = [
        ("id", letter.letter_id),
        ("reason", escaped(letter.dead.reason)),
        ("dead since", f"{died_at} ({age(_age_s(letter))})"),
        ("request id", escaped(letter.dead.request_id)),
        ("bytes", letter.dead.size_bytes),
    ]
    if letter.reply:
        caller = {name: value for name, value in asdict(letter.reply).items() if value is not None}
        rows += [(name.replace("_", " "), escaped(str(value))) for name, value in caller.items()]
    else:
        rows.append(("caller", "none known"))
    if letter.request:
        rows.append(("table", escaped(letter.request.table)))
        rows.append(("record", escaped(json.dumps(letter.request.record, ensure_ascii=False))))
    else:
        rows.append(("record", f"cannot be decoded: {escaped(letter.undecodable or '')}"))
        rows += [(f"field {escaped(_text(name))}", repr(value)) for name, value in letter.dead.fields.items()]
    print_rows(console, rows)


def _columns(letter: Letter) -> tuple[str, ...]:
    return (
        str(letter.letter_id),
        age(_age_s(letter)),
        escaped(letter.dead.request_id) or "-",
        escaped(letter.table or "-"),
        escaped(letter.dead.reason),
    )


def _age_s(letter: Letter) -> float:
    return max(time.time() - letter.died_at, 0.0)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
