"""The quick way to write a batch, for the usual case: all request ids are new, and the database accepts all records.

It commits all of a batch or nothing, and decides about no single request: whatever is unusual is left to `BatchWrite`.
"""

from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from write_batcher.models import WriteRequest
from write_batcher.sinks.sql import ledger
from write_batcher.sinks.sql.bulk_insert import BulkInsert, Row, Statements
from write_batcher.sinks.sql.dialect import Dialect, Fault, StatementTimedOut
from write_batcher.sinks.sql.inserts import (
    ROW_LOCK_WAIT,
    Group,
    groups_of,
    insert_statement,
    values_of,
)
from write_batcher.sinks.sql.ledger_row import expiry
from write_batcher.sinks.sql.tables import CheckedRecord
from write_batcher.sinks.sql.time_budget import SEARCH_LIMIT, TimeBudget

MAX_STATEMENTS = 1_000  # that are kept: one for each set of columns that records of a table have

Claims = Callable[[datetime], list[Row]]
"""Returns the rows that claim the ids of a batch, at this time by the database's clock."""


class QuickWriter:
    """Writes whole batches for one queue's sink. It keeps its statements from batch to batch."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect, deduplication_window: timedelta) -> None:
        self._engine = engine
        self._dialect = dialect
        self._window = deduplication_window
        self._claim = ledger.bulk_claim(dialect)
        self._inserts: dict[Hashable, BulkInsert] = {}

    async def write(
        self,
        requests: Sequence[WriteRequest],
        records: Sequence[CheckedRecord],
        *,
        queue: str,
        batch_id: str,
        budget: TimeBudget,
    ) -> bool:
        """Write all, in one transaction, and return True; False when anything is unusual, and then nothing is written.

        Raises `BatchTooLarge` when it takes too long, and the driver's error when the database is away.
        """
        claims = partial(self._claims, requests, queue, batch_id)
        inserts = [(self._insert_for(group), values_of(self._dialect, group)) for group in groups_of(records)]
        async with self._engine.connect() as connection:
            try:
                if all(map(self._dialect.takes_in_one_call, [self._claim, *(insert for insert, _ in inserts)])):
                    return await self._write_in_one_call(connection, claims, inserts, budget)
                return await self._write(connection, len(requests), claims, inserts, budget)
            except StatementTimedOut as error:
                if error.rows > 1:
                    raise budget.exceeded(str(error)) from error
                budget.restart()
                return False

    async def _write_in_one_call(
        self, connection: AsyncConnection, claims: Claims, inserts: Statements, budget: TimeBudget
    ) -> bool:
        def statements(now: datetime) -> Statements:
            budget.check()
            return [(self._claim, claims(now)), *inserts]

        is_written = await self._dialect.write_in_one_call(
            connection, statements, lock_wait=ROW_LOCK_WAIT, statement_timeout=SEARCH_LIMIT
        )
        _tell_listeners(connection, is_written)
        return is_written

    async def _write(
        self, connection: AsyncConnection, size: int, claims: Claims, inserts: Statements, budget: TimeBudget
    ) -> bool:
        try:
            async with connection.begin() as transaction:
                # A batch with a slower statement would not be pursued anyway.
                now = await self._dialect.begin(connection, lock_wait=ROW_LOCK_WAIT, statement_timeout=SEARCH_LIMIT)
                if await self._claim.run(connection, claims(now)) < size:
                    await transaction.rollback()
                    return False
                budget.check()
                for insert, values in inserts:
                    size = len(values)
                    await insert.run(connection, values)
                    budget.check()
        except Exception as error:
            refusal = self._dialect.refusal(error)
            if refusal is None:
                raise
            if refusal.fault is Fault.TIMEOUT:
                raise StatementTimedOut(refusal.text, size) from error
            return False
        return True

    def _claims(self, requests: Sequence[WriteRequest], queue: str, batch_id: str, now: datetime) -> list[Row]:
        expires_at = expiry(max(now, datetime.now(UTC)), self._window)
        return ledger.values_of_written(requests, queue=queue, batch_id=batch_id, expires_at=expires_at)

    def _insert_for(self, group: Group) -> BulkInsert:
        first = group[0]
        if first.shape not in self._inserts:
            if len(self._inserts) >= MAX_STATEMENTS:
                self._inserts.clear()
            table = first.target.table
            columns = [table.columns[key] for key in first.values]
            self._inserts[first.shape] = self._dialect.bulk_insert(
                insert_statement(self._dialect, first), table, columns, is_reflected=first.target.is_reflected
            )
        return self._inserts[first.shape]


def _tell_listeners(connection: AsyncConnection, is_written: bool) -> None:
    """Let those who listen to SQLAlchemy's transactions know of one that went past it."""
    sync = connection.sync_connection
    if sync is not None:
        end = sync.dispatch.commit if is_written else sync.dispatch.rollback
        end(sync)
