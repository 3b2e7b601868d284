"""The tables of the write ledger, and their DDL for whoever creates them by hand."""

from collections.abc import Sequence

from sqlalchemy import JSON, BigInteger, Column, DateTime, MetaData, Table, Text
from sqlalchemy.schema import CreateIndex, CreateTable

from write_batcher.sinks.sql.database_url import parse_database_url

SCHEMA_VERSION = 2

OWN_TABLES = MetaData()

LEDGER = Table(
    "write_batcher_ledger",
    OWN_TABLES,
    Column("queue", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("record_hash", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("batch_id", Text),
    Column("attempt", Text),
    Column("asked_ms", BigInteger),
    Column("decisions", JSON(none_as_null=True)),
    Column("floor_ms", BigInteger),
    Column("returned", JSON(none_as_null=True)),
    Column("expires_at", DateTime(timezone=True), nullable=False, index=True),
)
"""One row per request of a queue. `ledger_row` explains its columns; `returned` is reserved."""

META = Table(
    "write_batcher_meta",
    OWN_TABLES,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""`schema_version`, and `sink_id`: a random name by which a queue knows what it is written to."""

LEDGER_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
META_RIGHTS = ("SELECT",)


def ddl(database_url: str) -> str:
    """Return the statements that create the ledger in the kind of database that the URL names; they do nothing where it
    exists. Nothing is connected to.

    Raises `ConfigurationError` when the URL is malformed or its driver is not supported.
    """
    url, dialect = parse_database_url(database_url)
    compiling = url.get_dialect()()
    created: list[CreateTable | CreateIndex] = [CreateTable(table, if_not_exists=True) for table in (LEDGER, META)]
    created += [CreateIndex(index, if_not_exists=True) for index in LEDGER.indexes]
    statements = [_trimmed(str(statement.compile(dialect=compiling))) for statement in created]
    statements.append(
        f"INSERT INTO {META.name} (name, value) VALUES ('schema_version', '{SCHEMA_VERSION}'), "  # noqa: S608 - constants
        f"('sink_id', {dialect.random_id}) ON CONFLICT DO NOTHING"
    )
    script = "\n\n".join(f"{statement};" for statement in statements)
    return f"{script}\n\n{_advice_on_rights()}\n" if dialect.has_roles else f"{script}\n"


def rights_needed(table: Table, rights: Sequence[str], role: str) -> str:
    """Return the statement that gives `role` these rights on a table."""
    return f"GRANT {', '.join(rights)} ON {table.fullname} TO {role}"


def _advice_on_rights() -> str:
    grants = [
        rights_needed(table, rights, "<the batcher's role>")
        for table, rights in ((LEDGER, LEDGER_RIGHTS), (META, META_RIGHTS))
    ]
    return "\n".join(f"-- {grant};" for grant in grants)


def _trimmed(statement: str) -> str:
    return "\n".join(line.rstrip() for line in statement.strip().splitlines()).expandtabs(4)
