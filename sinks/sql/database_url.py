"""From the URL of a database to what is needed to talk to it."""

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from write_batcher.errors import ConfigurationError
from write_batcher.sinks.sql.dialect import Dialect, shown
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sqlite import SqliteDialect

EXAMPLES = "sqlite+aiosqlite:///path/to/file.db or postgresql+psycopg://user:password@host/database"

PORT_AND_QUERY = re.compile(r"\d*/.*\?.*=", re.DOTALL)
"""How a password begins that is none: that of `//host:5432/database?password=a@b`."""

DIALECTS: tuple[Dialect, ...] = (SqliteDialect(), PostgresDialect())


def parse(database_url: str) -> tuple[URL, Dialect]:
    """Raises `ConfigurationError` for what cannot be parsed or has no driver here."""
    # Not shown, and without the cause, which quotes it: what cannot be parsed may hold a password anywhere.
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"The database URL cannot be parsed; write it like {EXAMPLES}, a password's '@' as %40 and its ':' as %3A."
        ) from None
    if _is_torn(url):
        raise ConfigurationError("The database URL has an '@' inside of a user, password or option; write it as %40.")
    for dialect in DIALECTS:
        if url.drivername == dialect.driver:
            return url, dialect
    drivers = " or ".join(dialect.driver for dialect in DIALECTS)
    raise ConfigurationError(f"Database {shown(url)} has no supported driver; use {drivers}.")


def _is_torn(url: URL) -> bool:
    """Whether the login ends at the wrong '@', so that a part of the password is taken for host or database. A database
    that has one in its name can be given as `?dbname=`.
    """
    if url.password is None:
        return False
    behind = f"{url.host or ''}/{url.database or ''}"
    return "@" in behind or PORT_AND_QUERY.match(str(url.password)) is not None
