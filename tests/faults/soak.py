"""Random faults on everything while workflows run: `python -m tests.faults.soak --minutes 30 [--seed 1]`.

Prints each fault, and at the end the audit and a line of figures. The seed decides which faults come and when; how the
processes then race does not repeat.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import psutil  # type: ignore[import-untyped] # it has none
from redis.exceptions import RedisError
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

from tests.databases import PostgresDatabase
from tests.faults.arena import Arena, Worker, arena
from tests.faults.audit import Told, check_database, check_stream, told
from tests.proxy import Network
from write_batcher.models import ConfirmBy
from write_batcher.workers.local import RedisServer, TemporalServer
from write_batcher.workers.postgres import PostgresServer
from write_batcher.workers.server import Server

CALLERS_AT_ONCE = 60
FAULT_EVERY_S = (4.0, 15.0)
DOWN_S = (1.0, 8.0)
SAMPLE_EVERY_S = 5.0
CATCH_UP_S = 300.0  # after the last fault
BOTH = (ConfirmBy.SIGNAL, ConfirmBy.COMPLETION)
WORKERS = ("main", "main", "batcher", "batcher")


@dataclass
class Soak:
    arena: Arena
    postgres: PostgresServer
    random: random.Random
    ends_at: float
    told: Told = field(default_factory=Told)
    faults: Counter[str] = field(default_factory=Counter)
    rss_mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    redis_mb: list[float] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends_at

    async def call(self) -> None:
        """One caller after the other."""
        while not self.over:
            try:
                handles = await self.arena.start(1, confirm_by=BOTH[self.arena.started % 2])
            except RPCError:  # Temporal is away; whether this caller was started, the database tells
                await asyncio.sleep(0.5)
                continue
            one = await told(handles, within_s=CATCH_UP_S)
            self.arena.handles.remove(handles[0])
            self.told.results.update(one.results)
            self.told.failures.update(one.failures)

    async def break_things(self) -> None:
        faults: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("worker killed", self._kill_worker),
            ("worker frozen", self._freeze_worker),
            ("worker replaced", self._replace_worker),
            ("Redis killed", lambda: self._kill(self.arena.redis_server)),
            ("Temporal killed", lambda: self._kill(self.arena.temporal_server)),
            ("PostgreSQL killed", lambda: self._kill(self.postgres)),
            ("network", self._break_network),
        ]
        while not self.over:
            await asyncio.sleep(self.random.uniform(*FAULT_EVERY_S))
            name, fault = self.random.choice(faults)
            say(f"{name}")
            self.faults[name] += 1
            await fault()

    async def measure(self) -> None:
        while True:
            servers: list[tuple[str, int]] = [
                ("Redis", self.arena.redis_server.pid),
                ("Temporal", self.arena.temporal_server.pid),
                ("PostgreSQL", self.postgres.pid),
            ]
            workers = [(worker.role, worker.process.pid) for worker in self.arena.workers if worker.alive]
            for name, pid in (*servers, *workers):
                try:
                    self.rss_mb[name].append(psutil.Process(pid).memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue
            with contextlib.suppress(RedisError, OSError):  # it may have been killed in this moment
                self.redis_mb.append((await self.arena.redis.info("memory"))["used_memory_dataset"] / 1e6)
            await asyncio.sleep(SAMPLE_EVERY_S)

    @property
    def _workers(self) -> list[Worker]:
        return [worker for worker in self.arena.workers if worker.alive]

    def _down_s(self) -> float:
        return self.random.uniform(*DOWN_S)

    async def _kill_worker(self) -> None:
        worker = self.random.choice(self._workers)
        await worker.kill()
        await asyncio.sleep(self._down_s())
        await self.arena.run(worker.role)

    async def _freeze_worker(self) -> None:
        worker = self.random.choice(self._workers)
        worker.send(SIGSTOP)
        await asyncio.sleep(self._down_s())
        worker.send(SIGCONT)

    async def _replace_worker(self) -> None:
        worker = self.random.choice(self._workers)
        await self.arena.run(worker.role)
        await worker.stop()

    async def _kill(self, server: Server) -> None:
        await server.kill()
        await asyncio.sleep(self._down_s())
        await server.start()

    async def _break_network(self) -> None:
        assert self.arena.database_proxy
        proxies = [self.arena.redis_proxy, self.arena.temporal_proxy, self.arena.database_proxy]
        proxy = self.random.choice(proxies)
        proxy.become(self.random.choice([Network.REFUSING, Network.SILENT, Network.DEAF]))
        await asyncio.sleep(self._down_s())
        proxy.become(Network.UP)

    async def audit(self) -> None:
        """Raises AssertionError."""
        check_database(self.arena.database, self.told)
        for number in range(self.arena.settings.partitions):
            await check_stream(self.arena.partition(number), self.arena.redis)

    async def summary(self) -> str:
        counters: Counter[str] = Counter()
        for number in range(self.arena.settings.partitions):
            counters.update((await self.arena.partition(number).statistics()).counters)
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self.faults.items()))
        peaks = ", ".join(f"{name} {max(samples):.0f}" for name, samples in sorted(self.rss_mb.items()))
        flat = ", ".join(f"{name} {_change(samples)}" for name, samples in sorted(self.rss_mb.items()))
        ended = self.told.completed + len(self.told.failures)
        return (
            f"workflows {self.arena.started}, ended {ended}, failed {dict(self.told.kinds)}, "
            f"writes {self.arena.rows()}\n"
            f"redeliveries absorbed {counters['duplicate']}, withdrawn {counters['withdrawn']}, "
            f"confirmations retried {counters['confirmations_retried']}\n"
            f"faults {self.faults.total()}: {faults}\n"
            f"longest wait of a caller {self.told.latest_ms / 1000:.1f} s\n"
            f"peak memory in MB: {peaks}\n"
            f"memory, median of the first third -> of the last: {flat}, data in Redis {_change(self.redis_mb)}"
        )


def _change(samples: list[float]) -> str:
    third = max(len(samples) // 3, 1)
    return f"{statistics.median(samples[:third]):.1f} -> {statistics.median(samples[-third:]):.1f} MB"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Arena, PostgresServer]]:
    async with AsyncExitStack() as stack:
        temporal = await stack.enter_async_context(TemporalServer(folder))
        redis = await stack.enter_async_context(RedisServer(folder))
        postgres = await stack.enter_async_context(PostgresServer(folder))
        made = arena(
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
        yield await stack.enter_async_context(made), postgres


async def run(minutes: float, seed: int) -> None:
    say(f"seed {seed}, {minutes:g} minutes")
    with tempfile.TemporaryDirectory(prefix="write-batcher-soak-") as folder:
        async with opened(Path(folder)) as (made, postgres):
            for role in WORKERS:
                await made.run(role)
            await made.batcher_ready()
            soak = Soak(made, postgres, random.Random(seed), time.monotonic() + minutes * 60)
            measuring = asyncio.create_task(soak.measure())
            try:
                await asyncio.gather(soak.break_things(), *(soak.call() for _ in range(CALLERS_AT_ONCE)))
                say("no more faults; the audit waits for what is left")
                await soak.audit()
            finally:
                measuring.cancel()
                say(await soak.summary())
    say("lost 0, doubled 0")


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
