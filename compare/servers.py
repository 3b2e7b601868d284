"""The servers of one run: embedded and fresh, so that they can be measured, or those that the environment names."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.client import Client

from write_batcher import SqlSink, connect_redis, connect_temporal
from write_batcher.compare.action_counter import parse_actions, scrape, settled
from write_batcher.config import Settings, as_environment
from write_batcher.workers.embedded.local_stack import Database, LocalStack, local_stack
from write_batcher.workers.embedded.main_writes import MAIN_WRITES
from write_batcher.workers.embedded.server import HOST, choose_ports
from write_batcher.workers.embedded.temporal_server import NAMESPACE
from write_batcher.workers.embedded.worker_process import environment_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where they are, and how to read what they used. `stack` is None for servers that are not ours."""

    client: Client
    settings: Settings
    environment: dict[str, str]
    """For worker processes."""
    stack: LocalStack | None = None
    metrics_port: int | None = None

    @property
    def has_connection_limit(self) -> bool:
        """Whether the database is one whose number of connections we have limited."""
        return self.stack is not None and self.stack.postgres is not None

    async def actions(self) -> int | None:
        """Billable actions that Temporal has counted so far; None when it is not ours."""
        if self.metrics_port is None:
            return None
        url = f"http://{HOST}:{self.metrics_port}/metrics"

        async def read() -> int:
            return parse_actions(await scrape(url), self.client.namespace)

        return await settled(read)

    def server_pids(self) -> list[int] | None:
        """Of Temporal and Redis."""
        return None if self.stack is None else [self.stack.temporal.pid, self.stack.redis.pid]


@asynccontextmanager
async def embedded_servers(settings: Settings, database: Database, *, connection_limit: int) -> AsyncIterator[Servers]:
    """Fresh ones with an empty table `main_writes`; PostgreSQL accepts `connection_limit` connections.

    Raises as `local_stack` does.
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
async def own_servers(settings: Settings, *, uses_redis: bool) -> AsyncIterator[Servers]:
    """Those that `settings` and Temporal's own variables name. Raises ConfigurationError when one cannot be used."""
    client = await connect_temporal()
    if uses_redis:
        await (await connect_redis(settings)).aclose()
    await create_table(settings.database_url)
    yield Servers(client=client, settings=settings, environment=os.environ | as_environment(settings))


def database_of(database_url: str) -> Database:
    """Which kind of database the URL names. Raises ConfigurationError for one that cannot be compared."""
    return "sqlite" if SqlSink.backend_of(database_url) == "sqlite" else "postgresql"  # there are no others yet


async def create_table(database_url: str) -> None:
    """Make `main_writes` where it is missing. An SQLite file gets the write-ahead log for everybody then.

    Raises ConfigurationError.
    """
    async with SqlSink.open(database_url, tables=[MAIN_WRITES], create=[MAIN_WRITES]):
        pass
