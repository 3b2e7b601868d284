"""Counts how a process uses its database, whichever code does it, by the events of SQLAlchemy's engines."""

import json
import os
import signal
from dataclasses import asdict, dataclass
from typing import Any, Self

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

STDOUT = 1


@dataclass(slots=True, kw_only=True)
class DatabaseUse:
    """What a process, or several together, did to the database."""

    transactions: int = 0
    """Committed or rolled back; savepoints do not count."""
    connections_opened: int = 0
    connections_peak: int = 0
    errors: int = 0
    """Refused statements and refused connections."""

    def plus(self, other: Self) -> Self:
        """Return the sum of both. The sum of two peaks is an upper bound: they may not have been simultaneous."""
        mine, others = asdict(self), asdict(other)
        return type(self)(**{name: mine[name] + others[name] for name in mine})


class DatabaseMeter:
    """Counts for all engines of the process, from its creation until `stop`."""

    def __init__(self) -> None:
        self._open = 0
        self._use = DatabaseUse()
        self._listeners: list[tuple[Any, str, Any]] = [
            (Engine, "commit", self._end),
            (Engine, "rollback", self._end),
            # A refused connection comes here as well: it is an error, and not an opened connection.
            (Engine, "handle_error", self._fail),
            (Pool, "connect", self._connect),
            (Pool, "close", self._close),
        ]
        for listener in self._listeners:
            event.listen(*listener)

    def stop(self) -> None:
        """Stop counting."""
        for listener in self._listeners:
            event.remove(*listener)

    def take(self) -> DatabaseUse:
        """Return what was counted and start again from zero. Connections that are still open stay in the peak."""
        use, self._use = self._use, DatabaseUse(connections_peak=self._open)
        return use

    def report_on_signal(self) -> None:
        """At each SIGUSR1, write what was counted to stdout as `{"database": ...}` and start again from zero."""

        def report(_number: int, _frame: object) -> None:
            # One write that bypasses Python's buffers: this handler may have interrupted a write to them.
            os.write(STDOUT, json.dumps({"database": asdict(self.take())}).encode() + b"\n")

        signal.signal(signal.SIGUSR1, report)

    def _end(self, _connection: object) -> None:
        self._use.transactions += 1

    def _fail(self, _context: object) -> None:
        self._use.errors += 1

    def _connect(self, _connection: object, _record: object) -> None:
        self._open += 1
        self._use.connections_opened += 1
        self._use.connections_peak = max(self._use.connections_peak, self._open)

    def _close(self, _connection: object, _record: object) -> None:
        self._open -= 1
