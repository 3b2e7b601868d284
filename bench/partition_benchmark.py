"""The benchmark of partitions: several drains in one process and into one database, beside one drain alone."""

import contextlib
from dataclasses import dataclass
from functools import partial

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.cases import TRAITS, Case
from write_batcher.bench.contestants import NewDatabase
from write_batcher.bench.drain_plan import Kind
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.filled_queue import WORK_QUEUE, FilledQueue, fill
from write_batcher.bench.fresh_databases import (
    check_contents,
    fresh_postgresql,
    fresh_sqlite,
    postgresql_version,
)
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.own_drain import OwnDrain
from write_batcher.bench.partition_plan import ALONE, COUNTS, PartitionPlan
from write_batcher.bench.record_shapes import PLAIN
from write_batcher.bench.sample import Servers
from write_batcher.bench.surroundings import describe_machine, describe_versions
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.errors import WrongWork
from write_batcher.models import DrainProgress
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer

UNIT, COMPARED = "row", "rows_per_s"
WARM_UP_BATCHES = 8
NOTE = "evenness: after how long the first partition was empty, by after how long the last was; 1 is the best."


async def measure_partitions(plan: PartitionPlan, measured: Measured) -> BenchResults:
    """Measure on a Redis and, if the plan names it, a PostgreSQL of our own, in a temporary folder.

    Raises what `Server.start` raises, and `WrongWork` when not exactly the records of the streams were written.
    """
    occasion = Occasion()
    with data_folder(None) as folder:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(RedisServer(folder))
            redis = await stack.enter_async_context(connect(server.url))
            databases: dict[Kind, tuple[NewDatabase, Servers]] = {}
            version = None
            if "sqlite" in plan.databases:
                databases["sqlite"] = (partial(fresh_sqlite, folder), {"redis": server.pid})
            if "postgresql" in plan.databases:
                postgres = await stack.enter_async_context(PostgresServer(folder))
                servers = {"redis": server.pid, "database": postgres.pid}
                databases["postgresql"] = (partial(fresh_postgresql, postgres), servers)
                version = postgresql_version(postgres)
            machine, versions = describe_machine(folder), describe_versions(server.url, version)
            warm_up = min(plan.requests, WARM_UP_BATCHES * plan.batch_size)
            queues = {count: await _filled(redis, count, plan.requests) for count in (ALONE, *COUNTS)}
            contestants: dict[str, Measure] = {}
            for kind, (new_database, used) in databases.items():
                side = _Side(
                    redis=redis, url=server.url, servers=used, new_database=new_database, batch_size=plan.batch_size
                )
                await side.measure(await _filled(redis, ALONE, warm_up))
                contestants |= {_name(kind, count): partial(side.measure, queue) for count, queue in queues.items()}
            found = await take_turns(contestants, rounds=plan.rounds, shown=COMPARED, measured=measured)
    return occasion.results(
        "partitions",
        rounds=plan.rounds,
        settings={
            "requests": plan.requests,
            "batch_size": plan.batch_size,
            "entry_bytes": queues[ALONE].entry_bytes,
        },
        grouped_by="drained",
        groups={
            _name(kind, count): Duel.of(
                found[_name(kind, count)], {"1 partition": found[_name(kind, ALONE)]}, compared=COMPARED
            )
            for kind in databases
            for count in COUNTS
        },
        notes=[NOTE],
        machine=machine,
        versions=versions,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Where the drains of one kind of database run."""

    redis: Redis
    url: str
    servers: Servers
    new_database: NewDatabase
    batch_size: int

    async def measure(self, queue: FilledQueue) -> Readings:
        """Drain a copy of `queue` into a fresh database."""
        await queue.copy_to(self.redis, WORK_QUEUE)
        drain = OwnDrain(
            self.url, WORK_QUEUE, DataConverter.default, batch_size=self.batch_size, partitions=queue.partitions
        )
        with self.new_database(PLAIN) as database:
            sample, progress = await drain.run(database.url, PLAIN.table, queue.requests, self.servers)
            share = queue.requests // queue.partitions
            batches = queue.partitions * -(-share // self.batch_size)
            if progress != DrainProgress(batches=batches, written=queue.requests):
                raise WrongWork(
                    f"The drains report {progress}; expected were {queue.requests} rows in {batches} batches."
                )
            check_contents(database, PLAIN, queue.requests, with_ledger=True)
        return sample.readings(UNIT) | {"evenness": min(drain.empty_after_s) / max(drain.empty_after_s)}


async def _filled(redis: Redis, partitions: int, requests: int) -> FilledQueue:
    return await fill(
        redis,
        f"filled-{partitions}-{requests}",
        TRAITS[Case.PLAIN],
        DataConverter.default,
        requests=requests,
        batch_size=1,
        partitions=partitions,
    )


def _name(kind: Kind, partitions: int) -> str:
    return f"{kind}, {partitions} partition{'s' if partitions > 1 else ''}"
