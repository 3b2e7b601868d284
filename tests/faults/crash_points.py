"""Named points in a write's life at which a test kills the worker process or freezes it.

The tests' own worker process wraps them around the product's methods, so the product contains no trace of them.

| point            | state when it is reached                                                       |
|------------------|--------------------------------------------------------------------------------|
| `before_append`  | requests are about to be appended                                              |
| `after_append`   | they are in the stream; their activity has not returned yet                    |
| `before_write`   | a batch has been read and closed; nothing of it is in the database             |
| `before_commit`  | all statements of a batch's transaction have been executed, or are being sent  |
| `after_commit`   | the batch is in the database; no caller has been confirmed                     |
| `mid_confirm`    | one caller of the batch has been confirmed, others have not                    |
| `before_ack`     | all callers of the batch have been confirmed; its entries are still pending    |
| `after_ack`      | its entries are gone                                                           |
| `before_dead`    | the caller of a refused record has been told; the dead letter is not stored    |
| `after_settle`   | the ledger has a withdrawal; the caller has not been told                      |
| `before_parked`  | a drain with nothing to do reads no more; workers believe that it still does   |
| `after_parked`   | workers know that nobody reads; Temporal does not know that the drain returns  |
"""

import functools
import os
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from signal import SIGKILL, Signals
from typing import Any, Self

import aiosqlite
import psycopg
from sqlalchemy import Engine, event

from write_batcher.activities.drain.receipt_sender import ReceiptSender
from write_batcher.queue.stream import WriteQueue
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.sqlite import SqliteDialect

POINTS = (
    *("before_append", "after_append", "before_write", "before_commit", "after_commit", "mid_confirm"),
    *("before_ack", "after_ack", "before_dead", "after_settle", "before_parked", "after_parked"),
)

Method = Callable[..., Awaitable[Any]]


@dataclass
class CrashPoint:
    """Sends the process the signal `sends` when `point` is reached for the `times`-th time."""

    point: str
    times: int = 1
    sends: Signals = SIGKILL

    @classmethod
    def parse(cls, text: str, *, sends: Signals = SIGKILL) -> Self:
        """Parse `POINT`, or `POINT:3` for the third time it is reached."""
        point, _, times = text.partition(":")
        if point not in POINTS:
            raise ValueError(f"Crash point {point!r} does not exist: use one of {', '.join(POINTS)}.")
        return cls(point=point, times=int(times or 1), sends=sends)

    def reached(self) -> None:
        self.times -= 1
        if self.times == 0:
            os.kill(os.getpid(), self.sends)


def arm(crash: CrashPoint) -> None:
    """Wrap the method in which the point lies."""
    match crash.point:
        case "before_append":
            _wrap(WriteQueue, "append_all", before=crash.reached)
        case "after_append":
            _wrap(WriteQueue, "append_all", after=crash.reached)
        case "before_write":
            _wrap(SqlSink, "write", before=crash.reached)
        case "before_commit":
            _before_commit_of_a_batch(crash.reached)
        case "after_commit":
            _wrap(SqlSink, "write", after=crash.reached)
        case "mid_confirm":
            _wrap(ReceiptSender, "deliver", after=crash.reached)
        case "before_ack":
            _wrap(WriteQueue, "acknowledge", before=crash.reached)
        case "after_ack":
            _wrap(WriteQueue, "acknowledge", after=crash.reached)
        case "before_dead":
            _wrap(WriteQueue, "dead_letter", before=crash.reached)
        case "after_settle":
            _wrap(SqlSink, "settle", after=crash.reached)
        case "before_parked":
            _wrap(WriteQueue, "forget_reader", before=crash.reached)
        case "after_parked":
            _wrap(WriteQueue, "forget_reader", after=crash.reached)


def _before_commit_of_a_batch(reached: Callable[[], None]) -> None:
    # Not before commits of transactions that look up tables, settle or prune, which may run at the same time.
    writing = ContextVar("writing", default=False)
    _wrap(SqlSink, "write", before=lambda: writing.set(True))
    event.listen(Engine, "commit", lambda _connection: reached() if writing.get() else None)
    _before_commit_in_one_call(reached)


def _before_commit_in_one_call(reached: Callable[[], None]) -> None:
    # SQLAlchemy does not see what a database gets in one call. That of SQLite runs in a thread of its own.
    in_call = threading.Event()
    for dialect in (SqliteDialect, PostgresDialect):
        _wrap(dialect, "write_in_one_call", before=in_call.set, after=in_call.clear)
    _wrap(psycopg.AsyncConnection, "commit", before=lambda: reached() if in_call.is_set() else None)

    def note(statement: str) -> None:
        if statement == "COMMIT" and in_call.is_set():
            reached()

    def trace(connection: Any, _record: Any) -> None:
        if isinstance(connection.driver_connection, aiosqlite.Connection):
            connection.run_async(lambda driver: driver.set_trace_callback(note))

    event.listen(Engine, "connect", trace)


def _wrap(
    owner: type, name: str, *, before: Callable[[], object] | None = None, after: Callable[[], None] | None = None
) -> None:
    method: Method = getattr(owner, name)

    @functools.wraps(method)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            before()
        result = await method(*args, **kwargs)
        if after:
            after()
        return result

    setattr(owner, name, wrapped)
