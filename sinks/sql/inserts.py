"""Inserting checked records with few statements, such that a record the database refuses costs no other one."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Integer, literal_column
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.sinks.sql.dialect import Dialect, Refusal
from write_batcher.sinks.sql.tables import CheckedRecord

MAX_SEARCHES = 5  # for refused records of a group, about 2 log n statements each; for more, row by row is cheaper
MAX_SEARCHES_ON_RETRY = 1  # of records that were refused before: either all are accepted now, or most are refused again
MAX_SAVEPOINTS = 32  # nested. PostgreSQL caches 64 subtransactions; both databases need memory for each

Group = list[CheckedRecord]


async def insert_records(
    connection: AsyncConnection, dialect: Dialect, records: Sequence[CheckedRecord]
) -> dict[str, Refusal]:
    """Insert the records that the database accepts: inserts in order within each table and set of columns, upserts in
    order within each primary key.

    Returns why the other records are refused, by request id. One refusal among n records costs at most 2 log n + 5
    statements more than none. Raises the driver's error when something other than a record is at fault.
    """
    inserter = _Inserter(connection, dialect)
    final: dict[str, Refusal] = {}
    pending = list(records)
    max_searches = MAX_SEARCHES
    while True:
        refusals: dict[str, Refusal] = {}
        for group in _groups(pending):
            refusals |= await inserter.insert(group, max_searches)
        max_searches = MAX_SEARCHES_ON_RETRY
        retried = _worth_retrying(pending, refusals)
        final |= refusals
        if not retried:
            return final
        for record in retried:
            del final[record.request_id]
        pending = retried


def _worth_retrying(tried: Sequence[CheckedRecord], refusals: Mapping[str, Refusal]) -> list[CheckedRecord]:
    """Refused records that may be accepted now: the row that a foreign key or a trigger looked for may have been
    inserted later, because grouping and searching change the order.
    """
    if len(refusals) == len(tried):
        return []
    retried: list[CheckedRecord] = []
    accepted_keys: set[Hashable] = set()
    for record in reversed(tried):
        if record.request_id not in refusals:
            accepted_keys.add(record.key)
        elif not record.target.upsert or record.key not in accepted_keys:  # else it would overwrite a later upsert
            retried.append(record)
    return retried[::-1]


def _groups(records: Iterable[CheckedRecord]) -> list[Group]:
    """Groups of records that one statement can write. PostgreSQL refuses to update a row twice in a statement, and the
    later upsert of a row must win: each upsert of a row goes into a later group than the one before.
    """
    groups: dict[Any, Group] = {}
    last_turns: dict[Any, int] = {}
    for record in records:
        turn = 0
        if record.target.upsert:
            turn = last_turns[record.key] = last_turns.get(record.key, -1) + 1
        groups.setdefault((turn, record.shape), []).append(record)
    # The sort is stable: tables stay in the order of their first records.
    return [groups[name] for name in sorted(groups, key=lambda name: name[0])]


class _Inserter:
    """Runs the statements of one transaction such that each can be undone alone."""

    def __init__(self, connection: AsyncConnection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect
        self._savepoints = 0
        self._savepoint_is_fresh = False  # nothing has been written since the latest savepoint

    async def insert(self, group: Group, max_searches: int) -> dict[str, Refusal]:
        statement = _statement(self._dialect, group[0])
        refusals: dict[str, Refusal] = {}
        rest = group
        while rest:
            refusal = await self._try(statement, rest)
            if refusal is None:
                break
            if len(refusals) == max_searches:
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
        """Given that `records` are refused together, insert those before the first that is at fault. Returns its
        position and why it is refused.
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
        await self._set_savepoint()
        if self._dialect.locks_rows and records[0].target.upsert:
            # Two transactions that update the same rows in opposite orders would deadlock. Sorting does not change the
            # result, because no row is updated twice in a statement.
            records = sorted(records, key=lambda record: repr(record.key))
        try:
            await self._connection.execute(statement, [record.values for record in records])
        except (StatementError, OverflowError, TypeError, ValueError) as error:
            refusal = self._dialect.refusal(error)
            if refusal is None:
                raise
        else:
            self._savepoint_is_fresh = False
            return None
        # Outside of `try`: on a lost connection this fails, and no record must be blamed for that.
        await self._connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT batch_{self._savepoints}")
        return refusal

    async def _set_savepoint(self) -> None:
        """Protect what has been written from the next rollback. Savepoints are nested, because releasing each one would
        cost another statement.
        """
        if self._savepoint_is_fresh:
            return
        if self._savepoints == MAX_SAVEPOINTS:
            await self._connection.exec_driver_sql("RELEASE SAVEPOINT batch_1")  # and all inside it
            self._savepoints = 0
        self._savepoints += 1
        await self._connection.exec_driver_sql(f"SAVEPOINT batch_{self._savepoints}")
        self._savepoint_is_fresh = True


def _statement(dialect: Dialect, record: CheckedRecord) -> Executable:
    insert = dialect.insert(record.target.table)
    if record.target.upsert:
        key = list(record.target.table.primary_key.columns)
        changed = {name: insert.excluded[name] for name in record.values if name not in record.target.key}
        if changed:
            insert = insert.on_conflict_do_update(index_elements=key, set_=changed)
        else:
            insert = insert.on_conflict_do_nothing(index_elements=key)
    # With RETURNING, SQLAlchemy sends the rows as multi-row VALUES, split at the limit of parameters.
    statement: Executable = insert.returning(literal_column("1", Integer))
    return statement
