"""The benchmark of the recovery: from SIGKILL of a batcher's worker to the next batch that is committed."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from redis.asyncio import Redis
from temporalio.client import Client

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.floors.plain_heartbeat import TASK_QUEUE, Host
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.recovery_plan import RecoveryPlan
from write_batcher.bench.steady_appends import SteadyAppends
from write_batcher.bench.surroundings import describe_machine, describe_versions, temporal_version
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.compare.servers import create_table
from write_batcher.config import Settings
from write_batcher.errors import WrongWork
from write_batcher.models import HEARTBEAT_TIMEOUT, batcher_task_queue
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.local_stack import LocalStack, local_stack
from write_batcher.workers.embedded.temporal_server import NAMESPACE
from write_batcher.workers.embedded.worker_process import Record, WorkerProcess, environment_of

COMPARED = "recovery_s"
MAX_WAIT = timedelta(milliseconds=50)
STARTED_WITHIN = timedelta(seconds=60)
NOTE = (
    "A new worker process is started right after the kill. The floor is a bare activity with the same heartbeat "
    "timeout and retry: from the kill to the start of its next attempt. The kill comes a random time, up to "
    "that timeout, after the first row or the start. A batcher has a heartbeat timeout of 5 s unless "
    "--heartbeat-timeout gives it another."
)


async def measure_recovery(plan: RecoveryPlan, measured: Measured) -> BenchResults:
    """Measure on a Temporal, a Redis and a SQLite file of our own, in a temporary folder.

    Raises what `Server.start` raises, and `WrongWork` when nothing is written after a kill within a minute, when a row
    is missing, or when there is one twice.
    """
    occasion = Occasion()
    async with local_stack() as stack, connect(stack.redis_url) as redis:
        await create_table(stack.database_url)
        client = await Client.connect(stack.temporal_address, namespace=NAMESPACE)
        machine = describe_machine(stack.data_dir)
        versions = describe_versions(stack.redis_url, None) | await temporal_version(client)
        scene = _Scene(client=client, redis=redis, stack=stack)
        contestants: dict[str, Measure] = {}
        for heartbeat_s in plan.heartbeats_s:
            # Both are killed at the same moments.
            delays = [random.uniform(0, heartbeat_s) for _ in range(plan.rounds)]  # noqa: S311
            contestants[_ours(heartbeat_s)] = partial(scene.measure, scene.kill_batcher, heartbeat_s, iter(delays))
            contestants[_floor(heartbeat_s)] = partial(scene.measure, scene.kill_activity, heartbeat_s, iter(delays))
        found = await take_turns(contestants, rounds=plan.rounds, shown=COMPARED, measured=measured)
    return occasion.results(
        "recovery",
        rounds=plan.rounds,
        settings={"max_wait_ms": MAX_WAIT // timedelta(milliseconds=1)},
        grouped_by="heartbeat timeout",
        groups={
            f"{heartbeat_s} s": Duel.of(
                found[_ours(heartbeat_s)],
                {"bare activity": found[_floor(heartbeat_s)]},
                compared=COMPARED,
                lower_is_better=True,
            )
            for heartbeat_s in plan.heartbeats_s
        },
        notes=[NOTE],
        machine=machine,
        versions=versions,
    )


Kill = Callable[[int, float], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    client: Client
    redis: Redis
    stack: LocalStack

    async def measure(self, kill: Kill, heartbeat_s: int, delays: Iterator[float]) -> Readings:
        return {COMPARED: await kill(heartbeat_s, next(delays))}

    async def kill_batcher(self, heartbeat_s: int, delay_s: float) -> float:
        """Return the seconds from the kill to the first row that was not there before."""
        settings = self._settings(f"heartbeat-{heartbeat_s}", timedelta(seconds=heartbeat_s))
        appends = SteadyAppends(self.redis, settings)
        async with self._batcher(settings) as first, appends.running():
            await appends.wait_for_rows(1)
            await asyncio.sleep(delay_s)
            await first.kill()
            killed_at = time.perf_counter()
            rows = await appends.rows()
            async with self._batcher(settings):
                await appends.wait_for_rows(rows + 1)
                recovery_s = time.perf_counter() - killed_at
                await appends.stop()
                await appends.wait_for_rows(appends.appended)
        if (rows := await appends.rows()) != appends.appended:
            raise WrongWork(f"{appends.appended} requests were appended, and {rows} rows are there.")
        return recovery_s

    async def kill_activity(self, heartbeat_s: int, delay_s: float) -> float:
        """Return the seconds from the kill to the next attempt of a bare activity."""
        host = await self.client.start_workflow(
            Host.run, heartbeat_s, id=f"bench-heartbeat-{time.time_ns()}", task_queue=TASK_QUEUE
        )
        attempts: asyncio.Queue[int] = asyncio.Queue()
        async with self._host(attempts) as first:
            await _next_attempt(attempts, 1)
            await asyncio.sleep(delay_s)
            await first.kill()
            killed_at = time.perf_counter()
            async with self._host(attempts) as second:
                await _next_attempt(attempts, 2)
                recovery_s = time.perf_counter() - killed_at
                await host.terminate()
                await second.kill()
        return recovery_s

    def _batcher(self, settings: Settings) -> WorkerProcess:
        async def ignore(role: str, record: Record) -> None: ...

        return WorkerProcess("batcher", environment_of(settings, self.stack.temporal_address), ignore)

    def _host(self, attempts: "asyncio.Queue[int]") -> WorkerProcess:
        async def note(role: str, record: Record) -> None:
            if "attempt" in record:
                attempts.put_nowait(int(record["attempt"]))

        return WorkerProcess(
            "host",
            environment_of(self._settings("unused"), self.stack.temporal_address),
            note,
            command=("-m", "write_batcher.bench.floors.plain_heartbeat"),
        )

    def _settings(self, queue: str, heartbeat_timeout: timedelta = HEARTBEAT_TIMEOUT) -> Settings:
        # The defaults, without looking at the environment.
        return Settings.model_construct(
            queue=queue,
            batcher_task_queue=batcher_task_queue(queue),
            redis_url=self.stack.redis_url,
            database_url=self.stack.database_url,
            max_wait=MAX_WAIT,
            heartbeat_timeout=heartbeat_timeout,
            log_format="json",
        )


async def _next_attempt(attempts: "asyncio.Queue[int]", expected: int) -> None:
    try:
        async with asyncio.timeout(STARTED_WITHIN.total_seconds()):
            attempt = await attempts.get()
    except TimeoutError:
        raise WrongWork(f"Attempt {expected} of the activity did not begin within a minute.") from None
    if attempt != expected:
        raise WrongWork(f"Attempt {attempt} of the activity began, expected was {expected}.")


def _ours(heartbeat_s: int) -> str:
    return f"batcher, heartbeat timeout {heartbeat_s} s"


def _floor(heartbeat_s: int) -> str:
    return f"bare activity, heartbeat timeout {heartbeat_s} s"
