"""The tables that records are written to."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Connection, MetaData, Table, inspect

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import Dialect, redacted
from write_batcher.sinks.sql.ledger_setup import require_rights

INSERT, UPSERT = "insert", "upsert"
INSERT_RIGHTS = ("INSERT",)
UPSERT_RIGHTS = ("SELECT", "INSERT", "UPDATE")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TargetTable:
    """A table that records are written to, and how: inserted, or with `upsert` also updated by their primary key."""

    table: Table
    upsert: bool = False
    """A record whose primary key exists updates that row. Otherwise it is rejected."""
    is_reflected: bool = False
    """Whether its columns were read from the database."""

    @property
    def mode(self) -> str:
        """`insert` or `upsert`."""
        return UPSERT if self.upsert else INSERT

    @property
    def key(self) -> tuple[str, ...]:
        """The columns by which an upsert finds its row; none for inserts."""
        return tuple(column.key for column in self.table.primary_key.columns) if self.upsert else ()


@dataclass(slots=True, kw_only=True, eq=False)
class CheckedRecord:
    """A record whose values fit the columns of its table."""

    request_id: str
    order_key: str
    """Records with the same are written in their order."""
    target: TargetTable
    values: dict[str, Any]

    @property
    def shape(self) -> Hashable:
        """Equal for records that one statement can write."""
        return self.target, frozenset(self.values)

    @property
    def row(self) -> Hashable:
        """Equal for upserts of the same row; None for an insert."""
        if not self.target.upsert:
            return None
        return self.target, *(repr(self.values[name]) for name in self.target.key)

    @property
    def filled(self) -> Hashable:
        """Equal for records whose insert needs the same permissions and foreign keys. A column that is NULL refers to
        nothing.
        """
        return self.shape, frozenset(name for name, value in self.values.items() if value is None)


def prepare_tables(
    connection: Connection, dialect: Dialect, tables: Sequence[str | Table | TargetTable], create: Sequence[Table]
) -> list[TargetTable]:
    """Create the tables of `create` where they are missing, and return the target tables.

    Raises `ConfigurationError` when a target table is missing, cannot be upserted, or may not be written to, or SQLite
    is older than 3.35.
    """
    if not connection.dialect.insert_returning:
        raise ConfigurationError("This SQLite has no RETURNING: use version 3.35 or newer.")
    _create(connection, dialect, create)
    targets = _look_up(connection, tables)
    for target in targets:
        require_rights(connection, dialect, target.table, UPSERT_RIGHTS if target.upsert else INSERT_RIGHTS)
    return targets


def _create(connection: Connection, dialect: Dialect, tables: Sequence[Table]) -> None:
    # Look first: a role that may write to these tables need not have the right to create any.
    if not all(inspect(connection).has_table(table.name, schema=table.schema) for table in tables):
        dialect.lock_definitions(connection)
        for table in tables:
            table.create(connection, checkfirst=True)


def _look_up(connection: Connection, wanted: Sequence[str | Table | TargetTable]) -> list[TargetTable]:
    names = {table.partition(":")[0] for table in wanted if isinstance(table, str)}
    found = MetaData()
    # All in one go: table by table, each would take a dozen queries.
    found.reflect(connection, only=lambda name, _: name in names, views=True, resolve_fks=False)
    return [
        _reflected(connection, table, found) if isinstance(table, str) else _given(connection, table)
        for table in wanted
    ]


def _reflected(connection: Connection, wanted: str, found: MetaData) -> TargetTable:
    name, _, mode = wanted.partition(":")
    if mode not in ("", INSERT, UPSERT):
        raise ConfigurationError(f"Table {wanted!r} has an unknown mode {mode!r}: use {name!r} or '{name}:{UPSERT}'.")
    if name not in found.tables:
        raise _missing(connection, name, None)
    table = found.tables[name]
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True  # else null would be stored as JSON null, not as NULL
    return _checked(TargetTable(table=table, upsert=mode == UPSERT, is_reflected=True))


def _given(connection: Connection, wanted: Table | TargetTable) -> TargetTable:
    target = wanted if isinstance(wanted, TargetTable) else TargetTable(table=wanted)
    if not inspect(connection).has_table(target.table.name, schema=target.table.schema):
        raise _missing(connection, target.table.name, target.table.schema)
    return _checked(target)


def _checked(target: TargetTable) -> TargetTable:
    if target.upsert and not target.table.primary_key.columns:
        name = target.table.fullname
        raise ConfigurationError(f"Table {name!r} has no primary key to upsert by: add one, or use plain {name!r}.")
    return target


def _missing(connection: Connection, name: str, schema: str | None) -> ConfigurationError:
    names = ", ".join(sorted(inspect(connection).get_table_names(schema=schema))) or "no tables"
    return ConfigurationError(
        f"Table {name!r} is missing in database {redacted(connection.engine.url)}, which has {names}: "
        "create the table or correct the name."
    )
