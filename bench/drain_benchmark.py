"""The whole benchmark of the drain: servers of its own, the rounds, and the results."""

import contextlib

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.drain_plan import DrainPlan
from write_batcher.bench.drain_rounds import DrainBench
from write_batcher.bench.fresh_databases import postgresql_version
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.surroundings import describe_machine, describe_versions
from write_batcher.bench.turns import Measured
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer


async def measure_drain(plan: DrainPlan, measured: Measured) -> BenchResults:
    """Measure on a Redis and, if the plan names it, a PostgreSQL of our own, in a temporary folder.

    Raises what `Server.start` raises, and `WrongWork` when somebody wrote something else than was queued.
    """
    occasion = Occasion()
    with data_folder(None) as folder:
        async with contextlib.AsyncExitStack() as stack:
            redis_server = await stack.enter_async_context(RedisServer(folder))
            postgres = None
            if "postgresql" in plan.databases:
                postgres = await stack.enter_async_context(PostgresServer(folder))
            machine = describe_machine(folder)
            versions = describe_versions(redis_server.url, postgresql_version(postgres) if postgres else None)
            duels, queue = await DrainBench(plan, folder, redis_server, postgres, measured).run()
    return occasion.results(
        "drain",
        case=plan.case,
        rounds=plan.rounds,
        settings={"requests": plan.requests, "batch_size": plan.batch_size, "entry_bytes": queue.entry_bytes},
        notes=[plan.traits.note] if plan.traits.note else [],
        grouped_by="database",
        groups={str(kind): duel for kind, duel in duels.items()},
        machine=machine,
        versions=versions,
    )
