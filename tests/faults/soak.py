"""Random faults everywhere while workflows run: `python -m tests.faults.soak --minutes 30 [--seed 1]`.

Three queues share one Redis and one database: two in one namespace, and one in another namespace with the name of one
of these. Nothing is broken during the first sixth of the time, so that a memory leak would show. Prints each fault, and
at the end the figures and the verdict of the audit. The seed decides which faults come and when; how the processes then
race is not reproducible.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from redis.exceptions import RedisError
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError, RPCStatusCode

from tests.faults.caller_audit import (
    CallerOutcomes,
    Handle,
    caller_of,
    check,
    lost_and_doubled,
    outcomes_of,
    rows_by_caller,
)
from tests.faults.fault_arena import OTHER_NAMESPACE, Arena, arena
from tests.faults.soak_faults import Faults, say
from tests.faults.soak_memory import REDIS, Memory
from tests.support.proxy import Proxy
from tests.support.target_databases import PostgresDatabase
from write_batcher.models import ConfirmBy
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import Server
from write_batcher.workers.embedded.temporal_server import NAMESPACE, TemporalServer
from write_batcher.workflows.main import MainResult

QUEUES = ((NAMESPACE, "orders"), (NAMESPACE, "payments"), (OTHER_NAMESPACE, "orders"))
CALLERS_AT_ONCE = 20  # of each queue
BAD_EVERY = 50  # callers of a queue; one of them has a record that the database refuses
QUIET_SHARE = 1 / 6  # of the time, at the beginning
SAMPLE_EVERY_S = 2.0
START_RETRY_S = 0.5
CALLER_TIMEOUT_S = 900.0  # above a caller's own timeouts to submit, confirm and settle, plus outages of Temporal
TIMED_OUT = ("WriteNotConfirmed", "WriteOutcomeUnknown")  # failures allowed when an outage outlasts a caller's timeouts
MAX_FAILING_SHARE = 0.01  # of the good callers
MODES = (ConfirmBy.SIGNAL, ConfirmBy.COMPLETION)


@dataclass
class Soak:
    arenas: Mapping[str, Arena]
    """The queues, by what the workflow ids of their callers begin with."""
    servers: Mapping[str, Server]
    faults: Faults
    outcomes: CallerOutcomes = field(default_factory=CallerOutcomes)
    bad: set[str] = field(default_factory=set)
    """Callers whose record the database refuses."""
    memory: Memory = field(default_factory=Memory)

    async def run(self) -> None:
        """Run for the whole time, wait for all callers, and audit them. Fails when supervising or measuring fails."""
        background = [asyncio.create_task(self.faults.supervise()), asyncio.create_task(self._measure())]
        await asyncio.gather(*(arena.until_batcher_ready() for arena in self.arenas.values()))
        crowd = [self._run_callers(arena) for arena in self.arenas.values() for _ in range(CALLERS_AT_ONCE)]
        work = asyncio.gather(self.faults.run(), *crowd)
        running: set[asyncio.Future[Any]] = {work, *background}
        try:
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in ended:
                future.result()
            say("no more faults; waiting for the remaining callers")
            await self._find_unanswered_starts()
            await self._audit()
        finally:
            for future in running:
                future.cancel()

    async def _run_callers(self, arena: Arena) -> None:
        """Start one caller after the other."""
        while not self.faults.over:
            number = arena.started
            changes: dict[str, Any] = {"confirm_by": MODES[number % 2]}
            if number % BAD_EVERY == 0:
                self.bad.add(f"{arena.name}-{number}")
                changes["cents"] = -1
            try:
                [handle] = await arena.start_callers(1, **changes)
            except RPCError:  # Temporal is down: whether it started this caller is looked up at the end
                await asyncio.sleep(START_RETRY_S)
                continue
            await self._collect(handle)

    async def _find_unanswered_starts(self) -> None:
        """Wait also for callers that were started by a call that failed."""
        names = {f"{arena.name}-{number}" for arena in self.arenas.values() for number in range(arena.started)}
        for name in sorted(names - self.outcomes.results.keys() - self.outcomes.failures.keys()):
            handle = self._arena_of(name).client.get_workflow_handle(name, result_type=MainResult)
            try:
                await handle.describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    continue
                raise
            await self._collect(handle)

    def _arena_of(self, caller: str) -> Arena:
        return self.arenas[caller.rpartition("-")[0]]

    @property
    def _any_arena(self) -> Arena:
        """For what all have in common: the servers, and the database."""
        return next(iter(self.arenas.values()))

    @property
    def _streams(self) -> list[WriteQueue]:
        return [stream for arena in self.arenas.values() for stream in arena.queues]

    async def _collect(self, handle: Handle) -> None:
        outcome = await outcomes_of([handle], within_s=CALLER_TIMEOUT_S)
        self.outcomes.results.update(outcome.results)
        self.outcomes.failures.update(outcome.failures)

    async def _measure(self) -> None:
        while True:
            processes = [(name, server.pid) for name, server in self.servers.items()]
            processes += [(f"{worker.role} worker", worker.process.pid) for worker in self.faults.live_workers]
            quiet = self.faults.quiet
            for name, pid in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    used = psutil.Process(pid).memory_info().rss
                    self.memory.note(name, used, writes=self.outcomes.completed, quiet=quiet)
            with contextlib.suppress(RedisError, OSError):  # Redis may be down
                await self._measure_redis(quiet=quiet)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _measure_redis(self, *, quiet: bool) -> None:
        used = (await self._any_arena.redis.info("memory"))["used_memory_dataset"]
        self.memory.note(REDIS, used, writes=self.outcomes.completed, quiet=quiet)

    async def _audit(self) -> None:
        database = self._any_arena.database
        await check(database, self._any_arena.redis, self._streams, self.outcomes, counters=True)
        strays = [
            (queue, request_id)
            for queue, request_id in database.ledger("queue, request_id")
            if queue != str(self._arena_of(caller_of(request_id)).ref)
        ]
        assert not strays, f"written by the batcher of another queue: {strays}"
        written = self.bad & self.outcomes.results.keys()
        assert not written, f"written although the database refuses their records: {written}"
        rejected = {caller for caller, (kind, _) in self.outcomes.failures.items() if kind == "WriteRejected"}
        assert rejected <= self.bad, f"rejected although their records are good: {rejected - self.bad}"
        failed = {caller: failure for caller, failure in self.outcomes.failures.items() if caller not in self.bad}
        unexpected = {caller: failure for caller, failure in failed.items() if failure[0] not in TIMED_OUT}
        assert not unexpected, f"failed by something other than a timeout: {unexpected}"
        assert len(failed) <= MAX_FAILING_SHARE * self.outcomes.completed, f"{len(failed)} good callers failed"
        await self._measure_redis(quiet=False)
        self.memory.check()

    async def summary(self) -> str:
        counters: Counter[str] = Counter()
        for stream in self._streams:
            counters.update((await stream.statistics()).counters)
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self.faults.counts.items()))
        return (
            f"workflows {self.outcomes.completed + len(self.outcomes.failures)}, writes {self._any_arena.rows()}, "
            f"failed {dict(self.outcomes.failure_types)}\n"
            f"faults {self.faults.counts.total()}: {faults}\n"
            f"redeliveries absorbed {counters['duplicate']}, withdrawn {counters['withdrawn']}, "
            f"confirmations retried {counters['confirmations_retried']}\n{self.memory}"
        )

    async def verdict(self) -> str:
        lost, doubled = lost_and_doubled(rows_by_caller(self._any_arena.database), self.outcomes)
        lifetimes = [await self._lifetime_s(caller) for caller in self.outcomes.failures]
        return (
            f"longest wait for a receipt {self.outcomes.max_latency_ms / 1000:.1f} s, "
            f"longest lifetime of a caller that failed {max(lifetimes, default=0.0):.1f} s\n"
            f"callers with a receipt {self.outcomes.completed}, lost {lost.total()}, doubled {doubled.total()}"
        )

    async def _lifetime_s(self, caller: str) -> float:
        """From its start to its end: a failure does not say how long its caller waited."""
        execution = await self._arena_of(caller).client.get_workflow_handle(caller).describe()
        return ((execution.close_time or execution.start_time) - execution.start_time).total_seconds()


@asynccontextmanager
async def open_soak(folder: Path, *, seconds: float, seed: int) -> AsyncIterator[Soak]:
    async with AsyncExitStack() as stack:
        temporal = await stack.enter_async_context(TemporalServer(folder, extra=("--namespace", OTHER_NAMESPACE)))
        redis = await stack.enter_async_context(RedisServer(folder))
        postgres = await stack.enter_async_context(PostgresServer(folder))
        database = PostgresDatabase.fresh(postgres)
        arenas = [
            await stack.enter_async_context(
                arena(
                    name=f"{namespace}-{queue}",
                    folder=folder,
                    temporal_server=temporal,
                    redis_server=redis,
                    database=database,
                    namespace=namespace,
                    queue=queue,
                    main_task_queue="soak-main",  # workers of one namespace run the callers of both queues
                    partitions=2,
                    max_items=100,
                    max_wait=timedelta(seconds=1),
                    confirm_timeout=timedelta(minutes=2),
                    park_after=timedelta(seconds=3),
                )
            )
            for namespace, queue in QUEUES
        ]
        servers: dict[str, Server] = {"Redis": redis, "Temporal": temporal, "PostgreSQL": postgres}
        proxies: dict[str, Sequence[Proxy]] = {
            "Redis": [arena.redis_proxy for arena in arenas],
            "Temporal": [arena.temporal_proxy for arena in arenas],
            "PostgreSQL": [arena.database_proxy for arena in arenas if arena.database_proxy],
        }
        begin = time.monotonic() + seconds * QUIET_SHARE
        faults = Faults(arenas, servers, proxies, seed, begin, end=time.monotonic() + seconds)
        yield Soak({arena.name: arena for arena in arenas}, servers, faults)


async def run(minutes: float, seed: int) -> None:
    say(f"seed {seed}, {minutes:g} minutes")
    with tempfile.TemporaryDirectory(prefix="write-batcher-soak-") as folder:
        async with open_soak(Path(folder), seconds=minutes * 60, seed=seed) as soak:
            try:
                await soak.run()
            finally:
                say(await soak.summary())
                say(await soak.verdict())  # last, because it fails while a server is down
    say("the audit passed: everything is in order")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    arguments = parser.parse_args()
    # Otherwise the SDK logs every call that it retries while a server is down.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)))
    asyncio.run(run(arguments.minutes, arguments.seed))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
