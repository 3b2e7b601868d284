"""From a database URL to the dialect that serves it."""

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import Dialect, redacted
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sqlite import SqliteDialect

EXAMPLES = "sqlite+aiosqlite:///path/to/file.db or postgresql+psycopg://user:password@host/database"

# In `//host:5432/database?password=a@b` SQLAlchemy takes the port and the query for a password.
PORT_AND_QUERY = re.compile(r"\d*/.*\?.*=", re.DOTALL)

DIALECTS: tuple[Dialect, ...] = (SqliteDialect(), PostgresDialect())


def parse_database_url(database_url: str) -> tuple[URL, Dialect]:
    """Parse a SQLAlchemy URL and find its dialect.

    Raises `ConfigurationError` when the URL is malformed, has an unquoted '@', or names a driver that is not supported.
    """
    # The message and its cause must not quote a malformed URL: it may hold a password anywhere.
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"The database URL cannot be parsed: write it like {EXAMPLES}, a password's '@' as %40 and its ':' as %3A."
        ) from None
    if _is_split_at_wrong_at_sign(url):
        raise ConfigurationError("The database URL has an '@' inside a user, password or option: write it as %40.")
    for dialect in DIALECTS:
        if url.drivername == dialect.driver:
            return url, dialect
    drivers = " or ".join(dialect.driver for dialect in DIALECTS)
    raise ConfigurationError(f"Database {redacted(url)} has no supported driver: use {drivers}.")


def _is_split_at_wrong_at_sign(url: URL) -> bool:
    """Whether the login ends at the wrong '@', so that a part of the password is taken for the host or the database. A
    database with an '@' in its name can be given as `?dbname=`.
    """
    if url.password is None:
        return False
    behind = f"{url.host or ''}/{url.database or ''}"
    return "@" in behind or PORT_AND_QUERY.match(str(url.password)) is not None
