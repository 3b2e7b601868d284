"""What a PostgreSQL has to do: its connections, transactions, processor time and write-ahead log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from write_batcher.compare.arena import Arena
from write_batcher.compare.cpu import cpu_seconds

LOOK_EVERY_S = 0.2
TOTALS = text(
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), xact_commit + xact_rollback"
    " FROM pg_stat_database WHERE datname = current_database()"
)
CONNECTIONS = text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")


@dataclass(slots=True, kw_only=True)
class TargetLoad:
    """What was done while it was measured; None where the database does not tell."""

    connections: int | None = None
    """Most at once."""
    wal_bytes: float | None = None
    transactions: float | None = None
    """Those of the measurement included, a few in each second."""
    cpu_s: float | None = None


@asynccontextmanager
async def target_load(arena: Arena) -> AsyncIterator[TargetLoad]:
    """Measure the embedded PostgreSQL while inside; the figures are there afterwards. Other databases tell nothing."""
    found = TargetLoad()
    postgres = arena.servers.stack.postgres if arena.servers.stack else None
    if postgres is None:
        yield found
        return
    engine = create_async_engine(arena.settings.database_url, pool_size=1, max_overflow=0, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            before, cpu_before = await _totals(connection), cpu_seconds([postgres.pid])
            looking = asyncio.create_task(_count_connections(connection, found))
            yield found
            looking.cancel()
            await asyncio.wait({looking})
            after = await _totals(connection)
            found.cpu_s = cpu_seconds([postgres.pid]) - cpu_before
            found.wal_bytes, found.transactions = after[0] - before[0], after[1] - before[1]
    finally:
        await engine.dispose()


async def _totals(connection: AsyncConnection) -> tuple[float, float]:
    wal, transactions = (await connection.execute(TOTALS)).one()
    return float(wal), float(transactions)


async def _count_connections(connection: AsyncConnection, found: TargetLoad) -> None:
    while True:
        found.connections = max(found.connections or 0, (await connection.execute(CONNECTIONS)).scalar_one())
        await asyncio.sleep(LOOK_EVERY_S)
