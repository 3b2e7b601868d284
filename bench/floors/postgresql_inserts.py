"""Four ways to insert many rows with psycopg 3, each as its documentation shows it."""

from collections.abc import Callable, Mapping
from typing import Any

from psycopg import Connection

from write_batcher.bench.floors.plain_drain import Insert
from write_batcher.bench.record_shapes import RecordShape, Row

MOST_PARAMETERS = 65_535  # of one statement in PostgreSQL's protocol

AnyConnection = Connection[tuple[Any, ...]]


def executemany(connection: AnyConnection, shape: RecordShape) -> Insert:
    """One prepared statement of one row, run for every row in a pipeline."""
    statement = f"INSERT INTO {shape.table} VALUES {_one_row(shape)}".encode()  # noqa: S608 - names of our own

    def insert(rows: list[Row]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(statement, rows)

    return insert


def multi_row_values(connection: AnyConnection, shape: RecordShape) -> Insert:
    """One statement with all rows, or several when PostgreSQL would not take as many parameters."""
    at_once = MOST_PARAMETERS // len(shape.names())

    def insert(rows: list[Row]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            for first in range(0, len(rows), at_once):
                part = rows[first : first + at_once]
                values = ",".join([_one_row(shape)] * len(part))
                cursor.execute(
                    f"INSERT INTO {shape.table} VALUES {values}".encode(),  # noqa: S608 - names of our own
                    [value for row in part for value in row],
                )

    return insert


def unnest(connection: AnyConnection, shape: RecordShape) -> Insert:
    """One statement with one array for each column."""
    arrays = ",".join(f"%s::text[]::{column_type}[]" for column_type in shape.columns["postgresql"].values())
    statement = f"INSERT INTO {shape.table} SELECT * FROM unnest({arrays})".encode()  # noqa: S608 - names of our own

    def insert(rows: list[Row]) -> None:
        columns = [list(map(str, column)) for column in zip(*rows, strict=True)]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(statement, columns)

    return insert


def copy(connection: AnyConnection, shape: RecordShape) -> Insert:
    """COPY FROM STDIN, in its text format."""
    statement = f"COPY {shape.table} FROM STDIN".encode()

    def insert(rows: list[Row]) -> None:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement) as copying:
            for row in rows:
                copying.write_row(row)

    return insert


def _one_row(shape: RecordShape) -> str:
    return f"({','.join(['%s'] * len(shape.names()))})"


POSTGRESQL_INSERTS: Mapping[str, Callable[[AnyConnection, RecordShape], Insert]] = {
    "executemany": executemany,
    "multi-row VALUES": multi_row_values,
    "unnest": unnest,
    "COPY": copy,
}
