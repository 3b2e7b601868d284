"""The tables that records go to."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Connection, MetaData, Table, inspect

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import Dialect, shown
from write_batcher.sinks.sql.ledger import LEDGER

INSERT, UPSERT = "insert", "upsert"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTable:
    """A table and what happens to a record whose primary key is there already: refused, or with `upsert` updated."""

    table: Table
    upsert: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that an upsert finds its row by."""
        return tuple(column.key for column in self.table.primary_key.columns) if self.upsert else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRecord:
    """Values that fit the columns of their table."""

    request_id: str
    target: TargetTable
    values: dict[str, Any]

    @property
    def shape(self) -> Hashable:
        """Equal for records that the same statement writes."""
        return self.target, frozenset(self.values)

    @property
    def key(self) -> Hashable:
        """Equal for two upserts of one row; None for an insert."""
        if not self.target.upsert:
            return None
        return self.target, *(repr(self.values[name]) for name in self.target.key)


def prepare_tables(
    connection: Connection, dialect: Dialect, tables: Sequence[str | Table | TargetTable], create: Sequence[Table]
) -> list[TargetTable]:
    """Make the tables of `create` and the ledger where they are missing, and look up the target tables.

    Raises `ConfigurationError` for a target table that is missing or cannot be written as wanted.
    """
    if not connection.dialect.insert_returning:
        raise ConfigurationError("This SQLite has no RETURNING; use version 3.35 or newer.")
    _create(connection, dialect, create)
    targets = _look_up(connection, tables)
    _create(connection, dialect, [LEDGER])
    return targets


def _create(connection: Connection, dialect: Dialect, tables: Sequence[Table]) -> None:
    # Looked for first: a role that may write these tables need not be allowed to make any.
    if not all(inspect(connection).has_table(table.name, schema=table.schema) for table in tables):
        dialect.lock_definitions(connection)
        for table in tables:
            table.create(connection, checkfirst=True)


def _look_up(connection: Connection, wanted: Sequence[str | Table | TargetTable]) -> list[TargetTable]:
    names = {table.partition(":")[0] for table in wanted if isinstance(table, str)}
    found = MetaData()
    # All at once: table by table it would be a dozen questions each.
    found.reflect(connection, only=lambda name, _: name in names, views=True, resolve_fks=False)
    return [
        _described(connection, table, found) if isinstance(table, str) else _as_it_is(connection, table)
        for table in wanted
    ]


def _described(connection: Connection, wanted: str, found: MetaData) -> TargetTable:
    name, _, mode = wanted.partition(":")
    if mode not in ("", INSERT, UPSERT):
        raise ConfigurationError(f"Table {wanted!r} names an unknown way to write; use {name!r} or '{name}:{UPSERT}'.")
    if name not in found.tables:
        raise _missing(connection, name, None)
    table = found.tables[name]
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True  # otherwise null would be stored as the text "null"
    return _checked(TargetTable(table=table, upsert=mode == UPSERT))


def _as_it_is(connection: Connection, wanted: Table | TargetTable) -> TargetTable:
    target = wanted if isinstance(wanted, TargetTable) else TargetTable(table=wanted)
    if not inspect(connection).has_table(target.table.name, schema=target.table.schema):
        raise _missing(connection, target.table.name, target.table.schema)
    return _checked(target)


def _checked(target: TargetTable) -> TargetTable:
    if target.upsert and not target.table.primary_key.columns:
        name = target.table.fullname
        raise ConfigurationError(f"Table {name!r} has no primary key to upsert by; add one, or use plain {name!r}.")
    return target


def _missing(connection: Connection, name: str, schema: str | None) -> ConfigurationError:
    names = ", ".join(sorted(inspect(connection).get_table_names(schema=schema))) or "no tables"
    return ConfigurationError(
        f"Table {name!r} is missing in database {shown(connection.engine.url)}, which has {names}; "
        "create the table or correct the name."
    )
