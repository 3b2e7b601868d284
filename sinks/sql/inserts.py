"""Checked records into their tables: few statements, and a record that the database refuses costs only itself."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Integer, literal_column
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.sinks.sql.dialect import Dialect, Refusal
from write_batcher.sinks.sql.tables import CheckedRecord

SEARCHES = 5
"""Refused records of a group that are searched for, in about 2 log n statements each; beyond, row by row needs fewer.
"""

SEARCHES_AGAIN = 1
"""The same for what has been refused before: all of it may be accepted now, but when one is not, most are not."""

MAX_SAVEPOINTS = 32
"""Inside each other. PostgreSQL caches 64 subtransactions of a transaction; SQLite and it keep memory for each."""

Group = list[CheckedRecord]


async def insert_records(
    connection: AsyncConnection, dialect: Dialect, records: Sequence[CheckedRecord]
) -> dict[str, Refusal]:
    """Write what the database accepts: inserts in order within each table and set of columns, upserts in order within
    each key.

    Returns why the others are refused, by request id. One refusal among n records costs at most 2 log n + 5 statements
    more than none. Raises the driver's error when something else than a record is at fault.
    """
    inserter = _Inserter(connection, dialect)
    final: dict[str, Refusal] = {}
    pending = list(records)
    searches = SEARCHES
    while True:
        refusals: dict[str, Refusal] = {}
        for group in _groups(pending):
            refusals |= await inserter.insert(group, searches)
        searches = SEARCHES_AGAIN
        again = _worth_another_try(pending, refusals)
        final |= refusals
        if not again:
            return final
        for record in again:
            del final[record.request_id]
        pending = again


def _worth_another_try(written: Sequence[CheckedRecord], refusals: Mapping[str, Refusal]) -> list[CheckedRecord]:
    """What a foreign key or a trigger looked for may have come later: grouping and searching change the order."""
    if len(refusals) == len(written):
        return []
    again: list[CheckedRecord] = []
    keys: set[Hashable] = set()
    for record in reversed(written):
        if record.request_id not in refusals:
            keys.add(record.key)
        elif not record.target.upsert or record.key not in keys:  # else it would overwrite a later one
            again.append(record)
    return again[::-1]


def _groups(records: Iterable[CheckedRecord]) -> list[Group]:
    """Records that one statement can write. PostgreSQL updates no row twice in a statement, and the later upsert of a
    row must win: each goes into a later group than the one before.
    """
    groups: dict[Any, Group] = {}
    earlier: dict[Any, int] = {}
    for record in records:
        turn = 0
        if record.target.upsert:
            turn = earlier[record.key] = earlier.get(record.key, -1) + 1
        groups.setdefault((turn, record.shape), []).append(record)
    # Stable: tables keep the order of their first records.
    return [groups[name] for name in sorted(groups, key=lambda name: name[0])]


class _Inserter:
    """Statements of one transaction, each of which can be undone alone."""

    def __init__(self, connection: AsyncConnection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect
        self._savepoints = 0
        self._protected = False  # whether the latest savepoint has nothing behind it that must stay

    async def insert(self, group: Group, searches: int) -> dict[str, Refusal]:
        statement = _statement(self._dialect, group[0])
        refusals: dict[str, Refusal] = {}
        rest = group
        while rest:
            refusal = await self._try(statement, rest)
            if refusal is None:
                break
            if len(refusals) == searches:
                refusals |= await self._insert_one_by_one(statement, rest)
                break
            accepted, refusal = await self._insert_up_to_first_refused(statement, rest, refusal)
            refusals[rest[accepted].request_id] = refusal
            rest = rest[accepted + 1 :]
        return refusals

    async def _insert_one_by_one(self, statement: Executable, records: Group) -> dict[str, Refusal]:
        answers = {record.request_id: await self._try(statement, [record]) for record in records}
        return {request_id: refusal for request_id, refusal in answers.items() if refusal is not None}

    async def _insert_up_to_first_refused(
        self, statement: Executable, records: Group, refusal: Refusal
    ) -> tuple[int, Refusal]:
        """Given that all records together are refused, insert those before the first that is at fault.

        Returns its position and why it is refused.
        """
        accepted, refused = 0, len(records)
        while refused - accepted > 1:
            middle = (accepted + refused) // 2
            answer = await self._try(statement, records[accepted:middle])
            if answer is None:
                accepted = middle
            else:
                refused, refusal = middle, answer
        return accepted, refusal

    async def _try(self, statement: Executable, records: Group) -> Refusal | None:
        await self._protect()
        if self._dialect.locks_rows and records[0].target.upsert:
            # Two transactions that update the same rows in opposite orders would deadlock. The result is the same:
            # no row is updated twice in a statement.
            records = sorted(records, key=lambda record: repr(record.key))
        try:
            await self._connection.execute(statement, [record.values for record in records])
        except (StatementError, OverflowError, TypeError, ValueError) as error:
            refusal = self._dialect.refusal(error)
            if refusal is None:
                raise
        else:
            self._protected = False
            return None
        # Outside of `try`: on a connection that is gone this fails, and no record is blamed for it.
        await self._connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT batch_{self._savepoints}")
        return refusal

    async def _protect(self) -> None:
        """Keep what has been written. Savepoints go inside each other, because releasing each is a statement more."""
        if self._protected:
            return
        if self._savepoints == MAX_SAVEPOINTS:
            await self._connection.exec_driver_sql("RELEASE SAVEPOINT batch_1")  # and all inside it
            self._savepoints = 0
        self._savepoints += 1
        await self._connection.exec_driver_sql(f"SAVEPOINT batch_{self._savepoints}")
        self._protected = True


def _statement(dialect: Dialect, record: CheckedRecord) -> Executable:
    insert = dialect.insert(record.target.table)
    if record.target.upsert:
        key = list(record.target.table.primary_key.columns)
        changed = {name: insert.excluded[name] for name in record.values if name not in record.target.key}
        if changed:
            insert = insert.on_conflict_do_update(index_elements=key, set_=changed)
        else:
            insert = insert.on_conflict_do_nothing(index_elements=key)
    # RETURNING makes SQLAlchemy send rows as multi-row VALUES, cut at the limit of parameters.
    statement: Executable = insert.returning(literal_column("1", Integer))
    return statement
