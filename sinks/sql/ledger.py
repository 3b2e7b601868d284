"""The write ledger: one row per request id with its outcome, in the target database and in the data's transaction."""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import BigInteger, Column, DateTime, MetaData, RowMapping, Table, Text, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.errors import InvalidRequest
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.dialect import Dialect
from write_batcher.sinks.sql.records import printable

MAX_BOUND_PARAMETERS = 32_766
"""Per statement: SQLITE_MAX_VARIABLE_NUMBER, sqlite.org/limits.html. PostgreSQL's protocol allows 65,535.
SQLAlchemy itself keeps multi-row inserts below the limit; a select is cut here."""

PRUNE_ROWS = 1_000
"""Ledger rows deleted in one transaction: a batch that must wait for it hardly notices."""

MAX_ID_BYTES = 2_000
"""PostgreSQL indexes at most 2,704 bytes. Temporal's workflow ids, which request ids begin with, end at 1,000."""

MAX_ATTEMPTS = 100
"""Attempts whose outcome a row remembers. Each has waited for its whole timeout before the next began."""

LEDGER = Table(
    "write_batcher_ledger",
    MetaData(),
    Column("request_id", Text, primary_key=True),
    Column("record_hash", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("batch_id", Text),
    Column("workflow_id", Text),
    Column("attempt", Text),
    Column("asked_ms", BigInteger),
    Column("error", Text),
    Column("written_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who asked for a write, and when; None where no caller is known."""

    name: str | None
    workflow_id: str | None = None
    asked_ms: int | None = None

    def binds(self, later: "Attempt") -> bool:
        """Whether what this attempt was told holds for another: for itself, and for those that its workflow made
        before. Their entries may still be on their way.
        """
        if later.name == self.name:
            return True
        if self.workflow_id is None or self.workflow_id != later.workflow_id:
            return False
        return self.asked_ms is not None and later.asked_ms is not None and later.asked_ms < self.asked_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """What became of a request id. `attempts` are those that are bound by it, the latest last; a request that comes has
    one. `batch_id` is None when the request was withdrawn.
    """

    request_id: str
    record_hash: str
    outcome: Outcome
    batch_id: str | None
    attempts: tuple[Attempt, ...]
    error: str | None

    @classmethod
    def of(cls, request: WriteRequest, *, outcome: Outcome, batch_id: str | None) -> Self:
        """The row of a request, unless the database decides otherwise.

        Raises `InvalidRequest` for a request that the ledger cannot hold.
        """
        workflow_id = request.reply.workflow_id if request.reply else None
        for name, value in (
            ("request id", request.request_id),
            ("workflow id", workflow_id),
            ("attempt", request.attempt),
        ):
            if value is not None and not _is_storable(value):
                raise InvalidRequest(
                    f"The {name} {value[:80]!r} cannot be kept: use up to {MAX_ID_BYTES} bytes of UTF-8 without NUL."
                )
        if request.attempt is not None and "\n" in request.attempt:
            raise InvalidRequest(f"The attempt {request.attempt[:80]!r} cannot be kept: use a single line.")
        return cls(
            request_id=request.request_id,
            record_hash=record_hash(request),
            outcome=outcome,
            batch_id=batch_id,
            attempts=(Attempt(request.attempt, workflow_id, request.asked_ms),),
            error=None,
        )

    def binds(self, later: "LedgerRow") -> bool:
        """Whether this row, which is in the ledger, decides about another request of the same id that comes now.

        `written` binds everybody. A refusal or a withdrawal binds the attempts that got it, so that a reset workflow
        gets a new try.
        """
        (asker,) = later.attempts
        return self.outcome is Outcome.WRITTEN or any(attempt.binds(asker) for attempt in self.attempts)

    def after(self, earlier: "LedgerRow | None") -> Self:
        """This row as it replaces `earlier`: what was told to the attempts before still binds them."""
        if earlier is None or self.outcome is Outcome.WRITTEN:
            return self
        told = [attempt for attempt in earlier.attempts if attempt.name is not None]
        own = [attempt for attempt in self.attempts if attempt.name is not None or not told]
        return replace(self, attempts=(*told, *own)[-MAX_ATTEMPTS:])

    def receipt(self) -> WriteReceipt:
        return WriteReceipt(
            request_id=self.request_id,
            outcome=self.outcome,
            batch_id=self.batch_id,
            error=self.error,
            attempt=self.attempts[-1].name,
        )

    def receipt_for(self, later: "LedgerRow", *, written_as: Outcome) -> WriteReceipt:
        """The receipt of a later request of the same id that this row binds."""
        if self.record_hash != later.record_hash:
            error = printable(
                f"Conflict: request id {later.request_id!r} was already used for another record; "
                "give each record a request id of its own."
            )
            return replace(later, outcome=Outcome.REJECTED, error=error).receipt()
        outcome = written_as if self.outcome is Outcome.WRITTEN else self.outcome
        return replace(self, outcome=outcome, attempts=later.attempts).receipt()


def record_hash(request: WriteRequest) -> str:
    """SHA-256 over the canonical JSON of table and record, as they came. Raises `InvalidRequest` if that isn't JSON."""
    try:
        text = json.dumps([request.table, request.record], sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The record for table {request.table!r} is not JSON: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()


async def claim(
    connection: AsyncConnection, dialect: Dialect, rows: Collection[LedgerRow]
) -> tuple[set[str], dict[str, LedgerRow]]:
    """Insert the rows whose request id is new. Returns these ids, and the rows that the ledger has of the others.

    An id that another transaction has just inserted is waited for. Rows that were there are locked until the
    transaction ends, where a database locks rows.
    """
    claimed: set[str] = set()
    known: dict[str, LedgerRow] = {}
    missing = {row.request_id: row for row in rows}
    # Twice only when a row was deleted between the two statements.
    while missing:
        claimed |= await _insert_new(connection, dialect, missing.values())
        known |= await _find(connection, missing.keys() - claimed)
        missing = {name: row for name, row in missing.items() if name not in claimed and name not in known}
    return claimed, known


async def replace_rows(connection: AsyncConnection, dialect: Dialect, rows: Iterable[LedgerRow]) -> None:
    """Overwrite the rows of the same request ids."""
    insert = dialect.insert(LEDGER)
    changed: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in LEDGER.columns if not column.primary_key
    }
    changed["written_at"] = func.now()
    await connection.execute(
        insert.on_conflict_do_update(index_elements=[LEDGER.c.request_id], set_=changed), _parameters(rows)
    )


async def forget_rejected(
    connection: AsyncConnection, dialect: Dialect, request_id: str, attempt: str | None, asked_ms: int | None
) -> bool:
    """No longer bind this attempt, which asked then, if the row of this id says `rejected`; the others that were told
    so stay bound. False when the row does not say so, or is not there.
    """
    row = (await _find(connection, [request_id])).get(request_id)
    if row is None or row.outcome is not Outcome.REJECTED:
        return False
    others = [other for other in row.attempts if other.name not in (None, attempt)]
    if others:
        workflows = {known.workflow_id for known in row.attempts if known.name == attempt}
        bound = tuple(
            other if workflows and other.workflow_id not in workflows else _until(other, asked_ms) for other in others
        )
        await replace_rows(connection, dialect, [replace(row, attempts=bound)])
    else:
        await connection.execute(delete(LEDGER).where(LEDGER.c.request_id == request_id))
    return True


def _until(attempt: Attempt, asked_ms: int | None) -> Attempt:
    """`attempt` without a hold on those of its workflow that asked then or later."""
    if attempt.asked_ms is None or asked_ms is None:
        return attempt
    return replace(attempt, asked_ms=min(attempt.asked_ms, asked_ms))


async def prune(connection: AsyncConnection, dialect: Dialect, older_than: timedelta, now: datetime) -> int:
    """Delete up to `PRUNE_ROWS` rows of that age by the database's clock and by the one that says `now`, in UTC; return
    how many. Rows that are in use stay.
    """
    old = (
        select(LEDGER.c.request_id)
        .where(LEDGER.c.written_at < dialect.older_than(older_than))
        .where(LEDGER.c.written_at < now - older_than)
        .limit(PRUNE_ROWS)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(delete(LEDGER).where(LEDGER.c.request_id.in_(old)))).rowcount


async def _insert_new(connection: AsyncConnection, dialect: Dialect, rows: Iterable[LedgerRow]) -> set[str]:
    insert = dialect.insert(LEDGER).on_conflict_do_nothing(index_elements=[LEDGER.c.request_id])
    result = await connection.execute(insert.returning(LEDGER.c.request_id), _parameters(rows))
    return set(result.scalars())


async def _find(connection: AsyncConnection, request_ids: Iterable[str]) -> dict[str, LedgerRow]:
    wanted = sorted(request_ids)
    columns = [column for column in LEDGER.columns if column is not LEDGER.c.written_at]
    query = select(*columns).order_by(LEDGER.c.request_id).with_for_update()
    found: dict[str, LedgerRow] = {}
    for start in range(0, len(wanted), MAX_BOUND_PARAMETERS):
        chunk = wanted[start : start + MAX_BOUND_PARAMETERS]
        result = await connection.execute(query.where(LEDGER.c.request_id.in_(chunk)))
        for row in result.mappings():
            found[row["request_id"]] = _row(row)
    return found


def _parameters(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    # One order for everybody: two transactions that insert the same ids in opposite orders would deadlock.
    return [
        {
            "request_id": row.request_id,
            "record_hash": row.record_hash,
            "outcome": row.outcome.value,
            "batch_id": row.batch_id,
            "workflow_id": row.attempts[-1].workflow_id,
            "attempt": _text(row.attempts),
            "asked_ms": row.attempts[-1].asked_ms,
            "error": row.error,
        }
        for row in sorted(rows, key=lambda row: row.request_id)
    ]


def _row(columns: RowMapping) -> LedgerRow:
    return LedgerRow(
        request_id=columns["request_id"],
        record_hash=columns["record_hash"],
        outcome=Outcome(columns["outcome"]),
        batch_id=columns["batch_id"],
        attempts=_attempts(columns["attempt"], columns["workflow_id"], columns["asked_ms"]),
        error=columns["error"],
    )


def _text(attempts: tuple[Attempt, ...]) -> str | None:
    """The column `attempt`: a line with the name of each. Who asked and when stands in the line after, as JSON; for the
    latest it has columns of its own. Older batchers, which know lines of names alone, take it for one more name.
    """
    *before, latest = attempts
    if latest.name is None:
        return None
    lines: list[str] = []
    for attempt in before:
        lines.append(attempt.name or "")
        if attempt.workflow_id is not None and attempt.asked_ms is not None:
            lines.append(json.dumps([attempt.workflow_id, attempt.asked_ms]))
    return "\n".join([*lines, latest.name])


def _attempts(text: str | None, workflow_id: str | None, asked_ms: int | None) -> tuple[Attempt, ...]:
    if text is None:
        return (Attempt(None, workflow_id, asked_ms),)
    *lines, latest = text.split("\n")
    before: list[Attempt] = []
    for line in lines:
        if before and (asker := _asker(line)) is not None:
            before[-1] = Attempt(before[-1].name, *asker)
        else:
            before.append(Attempt(line))
    return (*before, Attempt(latest, workflow_id, asked_ms))


def _asker(line: str) -> tuple[str, int] | None:
    """Of a line that isn't a name."""
    try:
        match json.loads(line):
            case [str(workflow_id), int(asked_ms)]:
                return workflow_id, asked_ms
    except (ValueError, RecursionError):
        pass
    return None


def _is_storable(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_ID_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False
