"""Creating the write ledger, or making sure that the one that is there can be used."""

import secrets
from typing import Any

from sqlalchemy import JSON, Column, Connection, DateTime, Integer, String, Table, inspect, select
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DBAPIError

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import Dialect, redacted
from write_batcher.sinks.sql.schema import LEDGER, LEDGER_RIGHTS, META, META_RIGHTS, SCHEMA_VERSION, rights_needed

PRINT_DDL = "`write-batcher schema print`"


def prepare_ledger(connection: Connection, dialect: Dialect) -> str:
    """Create the ledger where it is missing. Returns the sink id of this database.

    Raises `ConfigurationError` when a ledger of another version or shape is there, or rights are missing.
    """
    _refuse_other_shapes(connection)
    if not _exists(connection, LEDGER) or not _exists(connection, META):
        _create(connection, dialect)
    for table, rights in ((LEDGER, LEDGER_RIGHTS), (META, META_RIGHTS)):
        require_rights(connection, dialect, table, rights)
    meta = _read_meta(connection)
    if not {"schema_version", "sink_id"} <= meta.keys():  # created by hand, and not filled
        require_rights(connection, dialect, META, ("INSERT",))
        _fill_meta(connection, dialect)
        meta = _read_meta(connection)
    _refuse_other_versions(connection, meta["schema_version"])
    return meta["sink_id"]


def require_rights(connection: Connection, dialect: Dialect, table: Table, rights: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` when the connected user lacks one of these rights."""
    missing = dialect.missing_rights(connection, table, rights)
    if missing:
        raise ConfigurationError(
            f"{_login(connection)} has no right to {', '.join(missing)} on table {table.fullname!r} of database "
            f"{redacted(connection.engine.url)}: run {rights_needed(table, rights, _login(connection))}."
        )


def _create(connection: Connection, dialect: Dialect) -> None:
    try:
        dialect.lock_definitions(connection)
        for table in (LEDGER, META):
            table.create(connection, checkfirst=True)
        _fill_meta(connection, dialect)
    except DBAPIError as error:
        if not dialect.is_refused_for_lack_of_rights(error):
            raise
        raise ConfigurationError(
            f"Tables {LEDGER.name!r} and {META.name!r} are missing in database {redacted(connection.engine.url)}, and "
            f"{_login(connection)} may not create them ({dialect.reason_of(error)}): let the database's owner run what "
            f"{PRINT_DDL} prints, {rights_needed(LEDGER, LEDGER_RIGHTS, _login(connection))}, and "
            f"{rights_needed(META, META_RIGHTS, _login(connection))}."
        ) from error


def _fill_meta(connection: Connection, dialect: Dialect) -> None:
    rows = [
        {"name": "schema_version", "value": str(SCHEMA_VERSION)},
        {"name": "sink_id", "value": secrets.token_hex(16)},
    ]
    connection.execute(dialect.insert(META).on_conflict_do_nothing(), rows)


def _read_meta(connection: Connection) -> dict[str, str]:
    return {row.name: row.value for row in connection.execute(select(META.c.name, META.c.value))}


def _refuse_other_versions(connection: Connection, version: str) -> None:
    if version == str(SCHEMA_VERSION):
        return
    cure = (
        "upgrade write-batcher"
        if version.isdecimal() and int(version) > SCHEMA_VERSION
        else f"rename or drop its tables {LEDGER.name!r} and {META.name!r}, which forgets what has been written"
    )
    raise ConfigurationError(
        f"The write ledger in database {redacted(connection.engine.url)} has version {version[:20]!r}, this is "
        f"{SCHEMA_VERSION}: {cure}."
    )


def _refuse_other_shapes(connection: Connection) -> None:
    for table in (LEDGER, META):
        if _exists(connection, table):
            faults = _faults(connection, table)
            if faults:
                raise ConfigurationError(
                    f"Table {table.name!r} in database {redacted(connection.engine.url)} is not the write ledger's of "
                    f"version {SCHEMA_VERSION} ({'; '.join(faults)}): rename or drop it, and compare {PRINT_DDL}."
                )


def _faults(connection: Connection, table: Table) -> list[str]:
    inspector = inspect(connection)
    found = {column["name"]: column for column in inspector.get_columns(table.name)}
    key = inspector.get_pk_constraint(table.name)["constrained_columns"]
    faults = []
    for column in table.columns:
        if column.name not in found:
            faults.append(f"it has no column {column.name!r}")
        elif not _suits(column, found[column.name]):
            faults.append(f"its column {column.name!r} is {found[column.name]['type']}, not {column.type}")
    if set(key) != {column.name for column in table.primary_key}:
        faults.append(f"its primary key is ({', '.join(key)})")
    faults += [
        f"its column {name!r} is required"
        for name, column in found.items()
        if name not in table.columns and not column["nullable"] and column.get("default") is None
    ]
    return faults


def _suits(wanted: Column[Any], found: ReflectedColumn) -> bool:
    kind = next(kind for kind in (JSON, Integer, DateTime, String) if isinstance(wanted.type, kind))
    return isinstance(found["type"], kind) and getattr(found["type"], "length", None) is None


def _exists(connection: Connection, table: Table) -> bool:
    return inspect(connection).has_table(table.name)


def _login(connection: Connection) -> str:
    return str(connection.engine.url.username or "this user")
