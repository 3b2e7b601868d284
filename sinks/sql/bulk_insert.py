"""Inserting many rows with one call of the driver: the quick way, which does not tell which row is refused."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from operator import itemgetter
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect as SqlAlchemyDialect,
    Table,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
    types,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

# Columns of these types hold the same whether PostgreSQL takes a value from JSON or from a parameter. Others do not: of
# JSON it would keep other characters, and REAL it would round once instead of twice.
SAME_IN_JSON = (
    types.String,
    types.Integer,
    types.Numeric,
    types.Boolean,
    types.DateTime,
    types.Date,
    types.Time,
    types.Uuid,
    types.LargeBinary,
    JSONB,
)
DIFFERENT_IN_JSON = (types.Enum, types.REAL)

Row = dict[str, Any]
Statements = Sequence[tuple["BulkInsert", Sequence[Row]]]


class BulkInsert(ABC):
    """One insert statement, for rows that have values for the same columns."""

    @abstractmethod
    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> int:
        """Insert all rows; return how many the database has inserted or updated.

        Raises the driver's error when any row is refused, and Python's errors for a value that cannot be sent.
        """


class AnyValues(BulkInsert):
    """Leaves all to SQLAlchemy, which knows every type of column, and fills in the defaults that only it knows."""

    def __init__(self, insert: Any) -> None:
        self._statement = in_few_statements(insert)

    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> int:
        return len((await connection.execute(self._statement, rows)).all())


class Executemany(BulkInsert):
    """Runs the statement row by row in one call of a driver whose database is in the same process. SQLAlchemy, which
    would take longer than the database, is asked once.
    """

    def __init__(self, insert: Any, columns: Sequence[Column[Any]]) -> None:
        self._insert = insert
        self._columns = {one.key: one for one in columns}
        self._sql = ""
        self._processors: list[tuple[str, Callable[[Any], Any] | None]] = []

    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> int:
        return (await connection.exec_driver_sql(*self.prepared(connection.dialect, rows))).rowcount

    def prepared(self, dialect: SqlAlchemyDialect, rows: Sequence[Row]) -> tuple[str, list[tuple[Any, ...]]]:
        """Return the statement and its parameters, as the driver's `executemany` takes them."""
        if not self._sql:
            self._prepare(dialect)
        # Column by column: most need no processing, and what is the same in all rows is processed once.
        columns = [_processed(process, map(itemgetter(key), rows)) for key, process in self._processors]
        return self._sql, list(zip(*columns, strict=True))

    def _prepare(self, dialect: SqlAlchemyDialect) -> None:
        compiled = self._insert.compile(dialect=dialect, column_keys=list(self._columns))
        self._processors = [
            (key, self._columns[key].type.dialect_impl(dialect).bind_processor(dialect)) for key in compiled.positiontup
        ]
        self._sql = str(compiled)


class JsonRecordset(BulkInsert):
    """Sends all rows as one JSON parameter, which PostgreSQL turns into rows of the table's own type: one round trip,
    without a limit of parameters.
    """

    def __init__(self, insert: Any, row_type: str, columns: Sequence[Column[Any]]) -> None:
        """`row_type` is the name of the table, as SQL. Each column must have its name and its type in the database."""
        names = [one.name for one in columns]
        row_type = row_type.replace(":", "\\:")
        rows = text(f"json_populate_recordset(CAST(NULL AS {row_type}), CAST(:rows AS JSON)) AS wb_rows")
        inserting = insert.from_select(names, select(*map(column, names)).select_from(rows))
        # With RETURNING, as the careful way has it: or a table with rules would take here what it refuses there.
        written = inserting.returning(literal_column("1", types.Integer).label("one")).cte("wb_written")
        self._statement = select(func.count()).select_from(written)
        self._all_or_error = select(_all_or_error(func.count())).select_from(written)
        self._compiled: dict[bool, tuple[str, Row]] = {}

    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> int:
        inserted: int = (await connection.execute(self._statement, {"rows": _json_of(rows)})).scalar_one()
        return inserted

    def prepared(self, dialect: SqlAlchemyDialect, rows: Sequence[Row], *, all_new: bool) -> tuple[str, Row]:
        """Return a statement and its parameters, as psycopg takes them. With `all_new` it fails unless all rows are
        inserted.
        """
        if all_new not in self._compiled:
            compiled = (self._all_or_error if all_new else self._statement).compile(dialect=dialect)
            self._compiled[all_new] = str(compiled), compiled.params
        sql, parameters = self._compiled[all_new]
        return sql, {**parameters, "rows": _json_of(rows), **({"rows_given": len(rows)} if all_new else {})}


def _processed(process: Callable[[Any], Any] | None, values: Iterable[Any]) -> Iterable[Any]:
    if process is None:
        return values
    processed = []
    latest = result = object()
    for value in values:
        if value is not latest:
            latest, result = value, process(value)
        processed.append(result)
    return processed


def _all_or_error(inserted: ColumnElement[int]) -> ColumnElement[int]:
    """The number of inserted rows if it is that of all. Otherwise an error, whose text ends up in the server's log."""
    told = func.concat("write-batcher tries one by one, since not all of these requests are new, but only ", inserted)
    given = bindparam("rows_given", type_=types.Integer)
    return case((inserted == given, inserted), else_=cast(told, types.BigInteger))


def _json_of(rows: Sequence[Row]) -> str:
    return json.dumps(rows, default=_as_json)


def in_few_statements(insert: Any) -> Any:
    """Return the insert such that SQLAlchemy sends its rows as multi-row VALUES, split at the limit of parameters."""
    return insert.returning(literal_column("1", types.Integer))


def is_same_in_json(column: Column[Any]) -> bool:
    """Whether PostgreSQL stores the same from JSON as from a parameter. `column` was read from the database."""
    return isinstance(column.type, SAME_IN_JSON) and not isinstance(column.type, DIFFERENT_IN_JSON)


def has_default_of_sqlalchemy(table: Table, given: Sequence[Column[Any]]) -> bool:
    """Whether a column without a value gets one from SQLAlchemy instead of from the database."""
    keys = {one.key for one in given}
    return any(one.default is not None for one in table.columns if one.key not in keys)


def _as_json(value: Any) -> str:
    match value:
        case Decimal() | UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
