"""Counts what a process does to its database, whichever code does it: by the events of SQLAlchemy's engines."""

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
    """`transactions` committed or rolled back, savepoints not among them; `errors`: statements that the database
    refused, and refused connections.
    """

    transactions: int = 0
    connections_opened: int = 0
    connections_peak: int = 0
    errors: int = 0

    def plus(self, other: Self) -> Self:
        """Of two processes together. The peaks may not have been at the same time."""
        mine, others = asdict(self), asdict(other)
        return type(self)(**{name: mine[name] + others[name] for name in mine})


class DatabaseMeter:
    """Counts from its making on, for all engines of the process."""

    def __init__(self) -> None:
        self._open = 0
        self._use = DatabaseUse()
        self._listeners: list[tuple[Any, str, Any]] = [
            (Engine, "commit", self._end),
            (Engine, "rollback", self._end),
            # Of a connection that is refused, too: then there is an error, and no connection.
            (Engine, "handle_error", self._fail),
            (Pool, "connect", self._connect),
            (Pool, "close", self._close),
        ]
        for listener in self._listeners:
            event.listen(*listener)

    def stop(self) -> None:
        """Count no more."""
        for listener in self._listeners:
            event.remove(*listener)

    def take(self) -> DatabaseUse:
        """What has been counted, which begins anew; open connections stay open."""
        use, self._use = self._use, DatabaseUse(connections_peak=self._open)
        return use

    def tell_on_signal(self) -> None:
        """At each SIGUSR1, write what has been counted to stdout as `{"database": ...}`, and begin anew."""

        def tell(_number: int, _frame: object) -> None:
            # One write, past Python's buffers, which this handler may have interrupted.
            os.write(STDOUT, json.dumps({"database": asdict(self.take())}).encode() + b"\n")

        signal.signal(signal.SIGUSR1, tell)

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
