"""Drains with all that they cost: the CPU time of all processes, the commands of Redis, the bytes of PostgreSQL."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.bench.capacity_costs import BatchCost, DrainCosts
from write_batcher.bench.capacity_others import OTHER_CORES, OtherPrograms, core_wait_s, quiet_median
from write_batcher.bench.cases import TRAITS, Case
from write_batcher.bench.contestants import NewDatabase
from write_batcher.bench.duel_figures import Readings
from write_batcher.bench.filled_queue import WORK_QUEUE, FilledQueue, fill
from write_batcher.bench.fresh_databases import FreshDatabase, check_contents, fresh_postgresql, postgresql_version
from write_batcher.bench.own_drain import OwnDrain
from write_batcher.bench.record_shapes import PLAIN
from write_batcher.bench.sample import MICROSECONDS, Servers
from write_batcher.bench.surroundings import describe_machine, describe_versions
from write_batcher.errors import WrongWork
from write_batcher.models import DrainProgress
from write_batcher.queue.redis_client import connect
from write_batcher.sinks.sql.schema import LEDGER
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer

UNIT, COMPARED = "row", "rows_per_s"
BATCHER_WAIT = "core_wait_us_per_row"
BATCHER_CPU, REDIS_CPU, DATABASE_CPU = "cpu_us_per_row", "redis_cpu_us_per_row", "database_cpu_us_per_row"
COMMANDS, WAL_BYTES, LEDGER_BYTES = "redis_commands_per_row", "wal_bytes_per_row", "ledger_bytes_per_row"
WARM_UP_REQUESTS = 4_000

WAL_POSITION = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
LEDGER_SIZE = f"SELECT pg_total_relation_size('{LEDGER.name}')"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityDrains:
    """A Redis and a PostgreSQL of our own, and the drain between them; made by `capacity_drains`."""

    redis: Redis
    redis_url: str
    servers: Servers
    new_database: NewDatabase
    machine: dict[str, str]
    versions: dict[str, str]

    async def filled(self, partitions: int, requests: int) -> FilledQueue:
        """Fill a queue, the same number of requests in each partition. Raises what `fill` raises."""
        return await fill(
            self.redis,
            f"filled-{partitions}-{requests}",
            TRAITS[Case.PLAIN],
            DataConverter.default,
            requests=requests,
            batch_size=1,
            partitions=partitions,
        )

    async def measure(self, queue: FilledQueue, batch_size: int) -> Readings:
        """Drain a copy of `queue` into a fresh database, all partitions in this process.

        Raises `WrongWork` when not exactly its records are written, in full batches but for the last of a partition.
        """
        await queue.copy_to(self.redis, WORK_QUEUE)
        drain = OwnDrain(
            self.redis_url, WORK_QUEUE, DataConverter.default, batch_size=batch_size, partitions=queue.partitions
        )
        with self.new_database(PLAIN) as database:
            wal_before, commands_before = _number(database, WAL_POSITION), await self.commands()
            others, waited_before = OtherPrograms.begin(self.servers), core_wait_s()
            sample, progress = await drain.run(database.url, PLAIN.table, queue.requests, self.servers)
            other_cores, waited_s = others.cores(), core_wait_s() - waited_before
            commands = await self.commands() - commands_before
            wal_bytes = _number(database, WAL_POSITION) - wal_before
            _check(progress, queue, batch_size)
            check_contents(database, PLAIN, queue.requests, with_ledger=True)
            return sample.readings(UNIT) | {
                BATCHER_WAIT: waited_s / queue.requests * MICROSECONDS,
                COMMANDS: commands / queue.requests,
                WAL_BYTES: wal_bytes / queue.requests,
                LEDGER_BYTES: _number(database, LEDGER_SIZE) / queue.requests,
                OTHER_CORES: other_cores,
            }

    async def commands(self) -> int:
        """Return how many commands Redis has run so far, those of scripts included."""
        info = await self.redis.info("stats")
        return int(info["total_commands_processed"])

    async def memory(self, key: str) -> int:
        """Return the bytes that Redis keeps `key` in, all of its elements looked at; 0 when there is none."""
        return int(await self.redis.memory_usage(key, samples=0) or 0)


@asynccontextmanager
async def capacity_drains() -> AsyncIterator[CapacityDrains]:
    """Start the servers in a temporary folder, and drain once, after which all code is loaded.

    Raises what `Server.start` raises.
    """
    with data_folder(None) as folder:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(RedisServer(folder))
            postgres = await stack.enter_async_context(PostgresServer(folder))
            redis = await stack.enter_async_context(connect(server.url))
            drains = _drains(redis, server, postgres, folder)
            await drains.measure(await drains.filled(1, WARM_UP_REQUESTS), 100)
            yield drains


def drain_costs(found: Mapping[int, Sequence[Readings]]) -> DrainCosts:
    """Return the costs of a drain from measurements of one partition with two batch sizes, which are the keys.

    Of several measurements of a size the median of the quiet ones counts.
    """
    small, large = sorted(found)

    def line(figure: str) -> BatchCost:
        few, many = (quiet_median(found[size], figure) for size in (small, large))
        return BatchCost.through((small, few), (large, many))

    return DrainCosts(
        batcher_cpu_us=line(BATCHER_CPU),
        batcher_wait_us=line(BATCHER_WAIT),
        redis_cpu_us=line(REDIS_CPU),
        database_cpu_us=line(DATABASE_CPU),
        redis_commands=line(COMMANDS),
        wal_bytes=line(WAL_BYTES),
    )


def _drains(redis: Redis, server: RedisServer, postgres: PostgresServer, folder: Path) -> CapacityDrains:
    return CapacityDrains(
        redis=redis,
        redis_url=server.url,
        servers={"redis": server.pid, "database": postgres.pid},
        new_database=partial(fresh_postgresql, postgres),
        machine=describe_machine(folder),
        versions=describe_versions(server.url, postgresql_version(postgres)),
    )


def _number(database: FreshDatabase, statement: str) -> float:
    [(number,)] = database.query(statement)
    return float(number)


def _check(progress: DrainProgress, queue: FilledQueue, batch_size: int) -> None:
    batches = queue.partitions * -(-(queue.requests // queue.partitions) // batch_size)
    if progress != DrainProgress(batches=batches, written=queue.requests):
        raise WrongWork(f"The drains report {progress}; expected were {queue.requests} rows in {batches} batches.")
