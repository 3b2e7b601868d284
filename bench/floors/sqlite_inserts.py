"""The two ways to insert many rows with Python's own SQLite driver."""

import sqlite3
from collections.abc import Callable, Mapping

from write_batcher.bench.floors.plain_drain import Insert
from write_batcher.bench.record_shapes import RecordShape, Row


def executemany(connection: sqlite3.Connection, shape: RecordShape) -> Insert:
    """One prepared statement of one row, run for every row."""
    statement = f"INSERT INTO {shape.table} VALUES {_one_row(shape)}"  # noqa: S608 - names of our own

    def insert(rows: list[Row]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement, rows)
        connection.execute("COMMIT")

    return insert


def multi_row_values(connection: sqlite3.Connection, shape: RecordShape) -> Insert:
    """One statement with all rows, or several when SQLite would not take as many parameters."""
    at_once = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(shape.names())

    def insert(rows: list[Row]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            values = ",".join([_one_row(shape)] * len(part))
            connection.execute(
                f"INSERT INTO {shape.table} VALUES {values}",  # noqa: S608 - names of our own
                [value for row in part for value in row],
            )
        connection.execute("COMMIT")

    return insert


def _one_row(shape: RecordShape) -> str:
    return f"({','.join('?' * len(shape.names()))})"


SQLITE_INSERTS: Mapping[str, Callable[[sqlite3.Connection, RecordShape], Insert]] = {
    "executemany": executemany,
    "multi-row VALUES": multi_row_values,
}
