"""The benchmark of the memory: a long stream, drained by a process of its own whose resident memory is sampled."""

import asyncio
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.cases import TRAITS, Case
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.filled_queue import WORK_QUEUE, FilledQueue, fill
from write_batcher.bench.fresh_databases import SqliteFile, check_contents, fresh_sqlite
from write_batcher.bench.memory_plan import CONTESTANTS, FLOOR, OURS, MemoryPlan
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.record_shapes import PLAIN
from write_batcher.bench.resident_memory import MemoryFigures
from write_batcher.bench.surroundings import describe_machine, describe_versions
from write_batcher.bench.turns import Measured, take_turns
from write_batcher.errors import WrongWork
from write_batcher.queue.keys import PartitionKeys
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded import processes
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.redis_server import RedisServer

COMPARED = "highest_rss_mib"
SAMPLE_EVERY = timedelta(milliseconds=100)
COPY_WITHIN = timedelta(minutes=2)  # Redis copies a million entries in one step
NOTE = "first: when a tenth was written. The command fails when ours grows by more than 20 MiB from there. On SQLite."


async def measure_memory(plan: MemoryPlan, measured: Measured) -> BenchResults:
    """Measure on a Redis of our own, with SQLite files, in a temporary folder.

    Raises what `Server.start` raises, and `WrongWork` when not exactly the records of the stream were written, or our
    memory grew.
    """
    occasion = Occasion()
    with data_folder(None) as folder:
        async with RedisServer(folder) as server, connect(server.url, longest_block=COPY_WITHIN) as redis:
            machine, versions = describe_machine(folder), describe_versions(server.url, None)
            queue = await fill(
                redis, "filled", TRAITS[Case.PLAIN], DataConverter.default, requests=plan.requests, batch_size=1
            )
            side = _Side(redis=redis, url=server.url, folder=folder, queue=queue, batch_size=plan.batch_size)
            contestants = {name: partial(side.measure, name) for name in CONTESTANTS}
            found = await take_turns(contestants, rounds=plan.rounds, shown=COMPARED, measured=measured)
    return occasion.results(
        "memory",
        rounds=plan.rounds,
        settings={"requests": plan.requests, "batch_size": plan.batch_size, "entry_bytes": queue.entry_bytes},
        grouped_by="process",
        groups={"drain": Duel.of(found[OURS], {FLOOR: found[FLOOR]}, compared=COMPARED, lower_is_better=True)},
        notes=[NOTE],
        machine=machine,
        versions=versions,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    redis: Redis
    url: str
    folder: Path
    queue: FilledQueue
    batch_size: int

    async def measure(self, role: str) -> Readings:
        """Have a process drain a copy of the queue."""
        requests = self.queue.requests
        await self.queue.copy_to(self.redis, WORK_QUEUE)
        with fresh_sqlite(self.folder, PLAIN) as database:
            points = await self._points(role, database)
            check_contents(database, PLAIN, requests, with_ledger=role == OURS)
        memory = MemoryFigures.of(points, requests)
        if role == OURS:
            memory.check_flat()
        return memory.readings()

    async def _points(self, role: str, database: SqliteFile) -> list[tuple[int, int]]:
        """Run the process to its end; return how many requests had been written, and its memory in bytes, at each look
        at it.
        """
        arguments = (role, self.url, str(database.path), str(self.queue.requests), str(self.batch_size))
        command = [sys.executable, "-m", "write_batcher.bench.memory_drain", *arguments]
        process = await processes.spawn(command, log=None)
        output = asyncio.create_task(process.communicate())
        try:
            points = await self._looks(process.pid, output)
            text = (await output)[0].decode(errors="replace").strip()
        finally:
            await processes.stop(process)
        if process.returncode or text != str(self.queue.requests):
            raise WrongWork(f"The drain ended with status {process.returncode}, its output: {text or '(none)'}")
        return points

    async def _looks(self, pid: int, ended: "asyncio.Task[Any]") -> list[tuple[int, int]]:
        stream = PartitionKeys(WORK_QUEUE, 0).stream_key
        points: list[tuple[int, int]] = []
        watched = psutil.Process(pid)
        while True:
            left = int(await self.redis.xlen(stream))
            try:
                size = int(watched.memory_info().rss)
            except psutil.NoSuchProcess:
                return points
            if size:  # one that has ended and not been waited for has none
                points.append((self.queue.requests - left, size))
            done, _ = await asyncio.wait({ended}, timeout=SAMPLE_EVERY.total_seconds())
            if done:
                return points
