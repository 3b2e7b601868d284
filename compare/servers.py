"""The servers of one run: embedded and fresh, which can be measured, or existing ones that the environment names."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.client import Client

from write_batcher import SqlSink, connect_redis, connect_temporal
from write_batcher.compare.action_counter import parse_actions, read_settled, scrape
from write_batcher.config import ENV_PREFIX, Settings, as_environment
from write_batcher.workers.embedded.local_stack import Database, LocalStack, local_stack
from write_batcher.workers.embedded.main_writes import MAIN_WRITES
from write_batcher.workers.embedded.server import HOST, choose_ports
from write_batcher.workers.embedded.temporal_server import NAMESPACE
from write_batcher.workers.embedded.worker_process import environment_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the servers are, and how to read what they used."""

    client: Client
    settings: Settings
    environment: dict[str, str]
    """For worker processes."""
    stack: LocalStack | None = None
    """The embedded servers; None for existing ones."""
    metrics_port: int | None = None
    """Of the embedded Temporal; None for an existing one."""

    @property
    def has_connection_limit(self) -> bool:
        """Whether the database is an embedded PostgreSQL, which limits the number of its connections."""
        return self.stack is not None and self.stack.postgres is not None

    async def actions(self) -> int | None:
        """Return the billable actions that Temporal has counted so far; None for an existing server."""
        if self.metrics_port is None:
            return None
        url = f"http://{HOST}:{self.metrics_port}/metrics"

        async def read() -> int:
            return parse_actions(await scrape(url), self.client.namespace)

        return await read_settled(read)

    def server_pids(self) -> list[int] | None:
        """Return the process ids of Temporal and Redis; None for existing servers."""
        return None if self.stack is None else [self.stack.temporal.pid, self.stack.redis.pid]


@asynccontextmanager
async def embedded_servers(settings: Settings, database: Database, *, connection_limit: int) -> AsyncIterator[Servers]:
    """Start fresh servers with an empty table `main_writes`; PostgreSQL accepts `connection_limit` connections.

    Raises what `local_stack` raises.
    """
    metrics_port = choose_ports({"metrics": None})["metrics"]
    async with local_stack(
        temporal_extra=("--metrics-port", str(metrics_port)),
        database=database,
        postgres_connections=connection_limit,
    ) as stack:
        settings = settings.model_copy(update={"redis_url": stack.redis_url, "database_url": stack.database_url})
        await create_table(settings.database_url)
        yield Servers(
            client=await Client.connect(stack.temporal_address, namespace=NAMESPACE),
            settings=settings,
            environment=environment_of(settings, stack.temporal_address),
            stack=stack,
            metrics_port=metrics_port,
        )


@asynccontextmanager
async def existing_servers(settings: Settings, *, uses_redis: bool) -> AsyncIterator[Servers]:
    """Connect to the servers that `settings` and the `TEMPORAL_*` variables name, and create `main_writes` if missing.

    Raises `ConfigurationError` when one of them cannot be used.
    """
    client = await connect_temporal()
    if uses_redis:
        await (await connect_redis(settings)).aclose()
    await create_table(settings.database_url)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    yield Servers(client=client, settings=settings, environment=inherited | as_environment(settings))


def database_of(database_url: str) -> Database:
    """Return the kind of database that the URL names.

    Raises `ConfigurationError` when it cannot be parsed or names a database that is not supported.
    """
    return "sqlite" if SqlSink.backend_of(database_url) == "sqlite" else "postgresql"  # there are no others yet


async def create_table(database_url: str) -> None:
    """Create `main_writes` if it is missing. For an SQLite file this turns on its write-ahead log for all connections.

    Raises `ConfigurationError` when the database cannot be used.
    """
    async with SqlSink.open(database_url, tables=[MAIN_WRITES], create=[MAIN_WRITES]):
        pass
