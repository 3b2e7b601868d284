"""Passwords and API keys appear in no log and no error, even when everything fails."""

import asyncio
from functools import partial
from pathlib import Path

from tests.faults.conftest import OpenArena
from tests.support.proxy import Network
from tests.support.target_databases import PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.cli.running import EXIT_USAGE
from write_batcher.workers.embedded.redis_server import RedisServer

CALLERS = 12
REDIS_PASSWORD = "redis-s3cret"  # noqa: S105
API_KEY = "temporal-s3cret"


async def test_no_secret_reaches_a_log_or_a_workflow_during_outages(
    open_arena: OpenArena, postgres_target: PostgresDatabase, tmp_path: Path
) -> None:
    database_password = postgres_target.url.split(":")[2].split("@")[0]
    async with (
        RedisServer(tmp_path / "guarded", password=REDIS_PASSWORD) as guarded,
        open_arena(postgres_target, redis_server=guarded) as arena,
    ):
        arena.environment = {"TEMPORAL_API_KEY": API_KEY, "TEMPORAL_TLS": "false"}
        _, batcher = await arena.start_workers()
        await arena.start_callers(CALLERS)
        await arena.until_written()
        assert arena.database_proxy
        for proxy, sign in ((arena.redis_proxy, "trying again"), (arena.database_proxy, "waits for its sink")):
            proxy.become(Network.REFUSING)
            await arena.start_callers(CALLERS)
            if proxy is arena.redis_proxy:
                await eventually(partial(arena.is_failing, arena.handles[-1]), within_s=60)
            else:
                await arena.until_appended(3 * CALLERS)
            await eventually(partial(batcher.logged, sign), within_s=60)
            proxy.become(Network.UP)
        await arena.start_callers(1, cents=-1)
        await arena.audit()
        for role, proxies in (
            ("main", (arena.redis_proxy, arena.temporal_proxy)),
            ("batcher", (arena.redis_proxy, arena.temporal_proxy, arena.database_proxy)),
        ):
            for proxy in proxies:
                proxy.become(Network.REFUSING)
                late = await arena.start_worker(role)  # a worker that cannot start says why
                async with asyncio.timeout(60):
                    assert await late.exited() == EXIT_USAGE
                assert late.logged("write-batcher: ")
                proxy.become(Network.UP)
        logs = b"".join(worker.log.read_bytes() for worker in arena.workers)
        batcher_workflow = arena.client.get_workflow_handle(arena.batcher_workflow_id)
        # Every failure of an activity, and the latest heartbeat of the drain.
        histories = [await handle.fetch_history() for handle in (*arena.handles, batcher_workflow)]
        workflows = b"".join(event.SerializeToString() for history in histories for event in history.events)
        workflows += (await batcher_workflow.describe()).raw_description.SerializeToString()
    assert len(logs) > 1_000
    assert b"Redis cannot be reached" in workflows
    for secret in (REDIS_PASSWORD, database_password, API_KEY):
        assert secret.encode() not in logs + workflows
