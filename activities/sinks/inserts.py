"""Checked records into their tables: few statements, and a record that the database refuses costs only itself."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, Table, insert, literal_column
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.activities.sinks.records import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRecord:
    """Values that fit the columns of `table`."""

    request_id: str
    table: Table
    values: dict[str, Any]


async def insert_records(connection: AsyncConnection, records: Sequence[CheckedRecord]) -> dict[str, str]:
    """Insert what the database accepts, in order within each table and set of columns.

    Returns the database's reasons for what it refuses, by request id; k refusals among n records cost
    O(k log n) statements. Raises the driver's error when something else than a record is at fault.
    """
    pending = records
    while True:
        groups: dict[tuple[Table, frozenset[str]], list[CheckedRecord]] = {}
        for record in pending:
            groups.setdefault((record.table, frozenset(record.values)), []).append(record)
        refusals: dict[str, str] = {}
        for (table, _), group in groups.items():
            refusals |= await _insert_group(connection, table, group)
        if not refusals or len(groups) == 1 or len(refusals) == len(pending):
            return refusals
        # Grouping has changed the order: a foreign key may refer to a row that came with a later group.
        pending = [record for record in pending if record.request_id in refusals]


async def _insert_group(connection: AsyncConnection, table: Table, records: list[CheckedRecord]) -> dict[str, str]:
    # RETURNING makes SQLAlchemy send rows as multi-row VALUES, cut at the limit of parameters.
    # OR ABORT: a conflict clause in the table's definition could drop a row silently, or end the transaction.
    statement = insert(table).prefix_with("OR ABORT", dialect="sqlite").returning(literal_column("1", Integer))
    savepoint = await connection.begin_nested()
    try:
        await connection.execute(statement, [record.values for record in records])
    except (StatementError, OverflowError, UnicodeError) as error:
        if not is_item_error(error):
            raise
        refusal = reason(error)
    else:
        await savepoint.commit()
        return {}
    # Outside of `try`: on a connection that is gone this fails, and no record is blamed for it.
    await savepoint.rollback()
    if len(records) == 1:
        return {records[0].request_id: refusal}
    middle = len(records) // 2
    refusals = await _insert_group(connection, table, records[:middle])
    return refusals | await _insert_group(connection, table, records[middle:])


def is_item_error(error: BaseException) -> bool:
    """Whether a statement failed because of the records in it, so that others may be written without them."""
    match error:
        case IntegrityError() | DataError():
            return True
        case DBAPIError():
            # A value of a type that the driver cannot bind: SQLite itself was not asked, so there is no code.
            return isinstance(error.orig, sqlite3.ProgrammingError) and not hasattr(error.orig, "sqlite_errorcode")
        case StatementError():
            # Raised by a column's own type when it binds a value. SQLAlchemy's own errors are ours, not the record's.
            return not isinstance(error.orig, SQLAlchemyError)
        case _:
            return isinstance(error, (OverflowError, UnicodeError))


def reason(error: BaseException) -> str:
    """The driver's own words, without the statement and its parameters that SQLAlchemy adds."""
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    return printable(str(cause))
