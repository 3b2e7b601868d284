"""Random faults on everything while workflows run: `python -m tests.faults.soak --minutes 30 [--seed 1]`.

In the first sixth of the time nothing is broken, so that a leak would show. Prints each fault, and at the end the audit
and the figures. The seed decides which faults come and when; how the processes then race does not repeat.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped] # it has none
from redis.exceptions import RedisError
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError, RPCStatusCode

from tests.faults.caller_audit import Handle, Told, check, lost_and_doubled, rows_of_callers, told
from tests.faults.fault_arena import Arena, arena
from tests.faults.soak_faults import Faults, say
from tests.faults.soak_memory import REDIS, Memory
from tests.support.target_databases import PostgresDatabase
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import Server
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workflows.main import MainWorkflow

CALLERS_AT_ONCE = 60
BAD_EVERY = 50  # callers, of which one has a record that the database refuses
QUIET_SHARE = 1 / 6
SAMPLE_EVERY_S = 2.0
ENDS_WITHIN_S = 900.0  # a caller: its timeouts to submit, to confirm and to settle, and outages of Temporal
OUT_OF_TIME = ("WriteNotConfirmed", "WriteOutcomeUnknown")  # in outages that are longer than callers wait
FAILING_SHARE = 0.01  # of the good callers
BOTH = (ConfirmBy.SIGNAL, ConfirmBy.COMPLETION)


@dataclass
class Soak:
    arena: Arena
    servers: Mapping[str, Server]
    faults: Faults
    told: Told = field(default_factory=Told)
    bad: set[str] = field(default_factory=set)
    memory: Memory = field(default_factory=Memory)

    async def run(self) -> None:
        """Return when the time is over and all callers have ended. Raises what ended the supervision or measuring."""
        beside = [asyncio.create_task(self.faults.supervise()), asyncio.create_task(self._measure())]
        await self.arena.batcher_ready()
        work = asyncio.gather(self.faults.run(), *(self._call() for _ in range(CALLERS_AT_ONCE)))
        first: set[asyncio.Future[Any]] = {work, *beside}
        try:
            ended, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            for future in ended:
                future.result()
            say("no more faults; the audit waits for what is left")
            await self._find_the_others()
            await self._audit()
        finally:
            for future in first:
                future.cancel()

    async def _call(self) -> None:
        """One caller after the other."""
        while not self.faults.over:
            number = self.arena.started
            changes: dict[str, Any] = {"confirm_by": BOTH[number % 2]}
            if number % BAD_EVERY == 0:
                self.bad.add(f"{self.arena.name}-{number}")
                changes["cents"] = -1
            try:
                [handle] = await self.arena.start(1, **changes)
            except RPCError:  # Temporal is away; whether this caller was started, it is asked at the end
                await asyncio.sleep(0.5)
                continue
            await self._note(handle)

    async def _find_the_others(self) -> None:
        """Callers whose start had no answer are waited for too, if there are such."""
        names = {f"{self.arena.name}-{number}" for number in range(self.arena.started)}
        for name in sorted(names - self.told.results.keys() - self.told.failures.keys()):
            handle = self.arena.client.get_workflow_handle_for(MainWorkflow.run, name)
            try:
                await handle.describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    continue
                raise
            await self._note(handle)

    async def _note(self, handle: Handle) -> None:
        one = await told([handle], within_s=ENDS_WITHIN_S)
        self.told.results.update(one.results)
        self.told.failures.update(one.failures)

    async def _measure(self) -> None:
        while True:
            processes = [(name, server.pid) for name, server in self.servers.items()]
            processes += [(f"{worker.role} worker", worker.process.pid) for worker in self.faults.workers]
            quiet = self.faults.quiet
            for name, pid in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    used = psutil.Process(pid).memory_info().rss
                    self.memory.note(name, used, writes=self.told.completed, quiet=quiet)
            with contextlib.suppress(RedisError, OSError):  # it may have been killed in this moment
                await self._measure_redis(quiet=quiet)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _measure_redis(self, *, quiet: bool) -> None:
        used = (await self.arena.redis.info("memory"))["used_memory_dataset"]
        self.memory.note(REDIS, used, writes=self.told.completed, quiet=quiet)

    async def _audit(self) -> None:
        await check(self.arena.database, self.arena.redis, self.arena.queues, self.told, counters=True)
        written = self.bad & self.told.results.keys()
        assert not written, f"records that the database refuses, and that were written: {written}"
        rejected = {caller for caller, (kind, _) in self.told.failures.items() if kind == "WriteRejected"}
        assert rejected <= self.bad, f"rejected although their records are good: {rejected - self.bad}"
        failed = {caller: failure for caller, failure in self.told.failures.items() if caller not in self.bad}
        strange = {caller: failure for caller, failure in failed.items() if failure[0] not in OUT_OF_TIME}
        assert not strange, f"failed by something else than time: {strange}"
        assert len(failed) <= FAILING_SHARE * self.told.completed, f"{len(failed)} good callers failed"
        await self._measure_redis(quiet=False)
        self.memory.check()

    async def summary(self) -> str:
        counters: Counter[str] = Counter()
        for queue in self.arena.queues:
            counters.update((await queue.statistics()).counters)
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self.faults.counts.items()))
        return (
            f"workflows {self.told.completed + len(self.told.failures)}, writes {self.arena.rows()}, "
            f"failed {dict(self.told.kinds)}\n"
            f"faults {self.faults.counts.total()}: {faults}\n"
            f"redeliveries absorbed {counters['duplicate']}, withdrawn {counters['withdrawn']}, "
            f"confirmations retried {counters['confirmations_retried']}\n{self.memory}"
        )

    async def verdict(self) -> str:
        lost, doubled = lost_and_doubled(rows_of_callers(self.arena.database), self.told)
        lives = [await self._life_s(caller) for caller in self.told.failures]
        return (
            f"longest wait of a caller for its receipt {self.told.latest_ms / 1000:.1f} s, "
            f"longest life of one that was told otherwise {max(lives, default=0.0):.1f} s\n"
            f"callers with a receipt {self.told.completed}, lost {lost.total()}, doubled {doubled.total()}"
        )

    async def _life_s(self, caller: str) -> float:
        """From its start to its end: a failure does not say how long its caller has waited."""
        life = await self.arena.client.get_workflow_handle(caller).describe()
        return ((life.close_time or life.start_time) - life.start_time).total_seconds()


@asynccontextmanager
async def opened(folder: Path, *, seconds: float, seed: int) -> AsyncIterator[Soak]:
    async with AsyncExitStack() as stack:
        temporal = await stack.enter_async_context(TemporalServer(folder))
        redis = await stack.enter_async_context(RedisServer(folder))
        postgres = await stack.enter_async_context(PostgresServer(folder))
        made = await stack.enter_async_context(
            arena(
                name="soak",
                folder=folder,
                temporal_server=temporal,
                redis_server=redis,
                database=PostgresDatabase.fresh(postgres),
                partitions=3,
                max_items=100,
                max_wait=timedelta(seconds=1),
                confirm_timeout=timedelta(minutes=2),
            )
        )
        assert made.database_proxy
        servers: dict[str, Server] = {"Redis": redis, "Temporal": temporal, "PostgreSQL": postgres}
        proxies = {"Redis": made.redis_proxy, "Temporal": made.temporal_proxy, "PostgreSQL": made.database_proxy}
        begin = time.monotonic() + seconds * QUIET_SHARE
        faults = Faults(made, servers, proxies, seed, begin, end=time.monotonic() + seconds)
        yield Soak(made, servers, faults)


async def run(minutes: float, seed: int) -> None:
    say(f"seed {seed}, {minutes:g} minutes")
    with tempfile.TemporaryDirectory(prefix="write-batcher-soak-") as folder:
        async with opened(Path(folder), seconds=minutes * 60, seed=seed) as soak:
            try:
                await soak.run()
            finally:
                say(await soak.summary())
                say(await soak.verdict())  # after what can be told while a server is away
    say("the audit has found everything in order")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    arguments = parser.parse_args()
    # The SDK tells of every call that it repeats while a server is away.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)))
    asyncio.run(run(arguments.minutes, arguments.seed))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
