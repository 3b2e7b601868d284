"""From the URL of a database to what is needed to talk to it."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from write_batcher.activities.sinks.dialects import Dialect, shown
from write_batcher.activities.sinks.postgresql import PostgresDialect
from write_batcher.activities.sinks.sqlite import SqliteDialect
from write_batcher.errors import ConfigurationError

EXAMPLES = "sqlite+aiosqlite:///path/to/file.db or postgresql+psycopg://user:password@host/database"

DIALECTS: tuple[Dialect, ...] = (SqliteDialect(), PostgresDialect())


def parse(database_url: str) -> tuple[URL, Dialect]:
    """Raises `ConfigurationError` for what cannot be parsed or has no driver here."""
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        # Not shown: what cannot be parsed may hold a password anywhere.
        raise ConfigurationError(f"The database URL cannot be parsed; write it like {EXAMPLES}.") from error
    for dialect in DIALECTS:
        if url.drivername == dialect.driver:
            return url, dialect
    drivers = " or ".join(dialect.driver for dialect in DIALECTS)
    raise ConfigurationError(f"Database {shown(url)} has no supported driver; use {drivers}.")
