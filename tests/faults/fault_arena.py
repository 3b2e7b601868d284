"""The setting of a fault test: real servers, a proxy in front of each, and worker processes that can be killed."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from redis.asyncio import Redis
from sqlalchemy import make_url
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from tests.faults.caller_audit import CallerOutcomes, Handle, check, outcomes_of
from tests.support.command import run_command
from tests.support.proxy import Proxy
from tests.support.target_databases import Database, PostgresDatabase
from tests.support.waiting import eventually
from write_batcher.config import ENV_PREFIX, Settings, as_environment
from write_batcher.errors import QueueUnavailable
from write_batcher.models import ConfirmBy, PartitionRef, QueueRef
from write_batcher.queue.contract import Contract, ContractStore
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.embedded import processes
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.server import HOST, Server
from write_batcher.workers.embedded.temporal_server import NAMESPACE, TemporalServer
from write_batcher.workflows.batcher import batcher_workflow_id
from write_batcher.workflows.main import MainInput, MainWorkflow

ROOT = Path(__file__).parents[2]

OTHER_NAMESPACE = "staging"  # of the Temporal server that fault tests share

# Values of `confirm_timeout`, halfway through which a caller submits again.
NO_RESUBMISSION = timedelta(minutes=20)  # longer than any test: resubmission would hide what the drain has lost
RESUBMITTING = timedelta(seconds=30)  # for tests in which Redis itself loses data
# Shorter than the default, so that a test need not wait long until a drain that died with its worker is started again.
HEARTBEAT_TIMEOUT = timedelta(seconds=3)
STOP_GRACE = timedelta(seconds=40)
WAIT_S = 60  # for one step of a test


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process and its log file."""

    role: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def kill(self) -> None:
        """End it by SIGKILL."""
        await processes.kill(self.process)

    async def stop(self) -> None:
        """End it by SIGTERM, as a deploy does."""
        await processes.stop(self.process, grace=STOP_GRACE)

    async def exited(self) -> int:
        """Wait for the process to exit, and return its status."""
        return await self.process.wait()

    def logged(self, text: str) -> bool:
        return text in self.log.read_text()

    def drains_started(self) -> int:
        return sum("drain of" in line and line.endswith("starts") for line in self.log.read_text().splitlines())

    def is_frozen(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"


@dataclass
class Arena:
    """One queue and its database. Workers reach the servers through the proxies, the test itself directly."""

    name: str
    """What the workflow ids of its callers begin with."""
    folder: Path
    settings: Settings
    client: Client
    redis: Redis
    temporal_server: TemporalServer
    redis_server: RedisServer
    database: Database
    temporal_proxy: Proxy
    redis_proxy: Proxy
    database_proxy: Proxy | None
    """None for SQLite, which is a file."""
    environment: dict[str, str] = field(default_factory=dict)
    """Extra variables for its workers, beside those for settings and servers."""
    workers: list[Worker] = field(default_factory=list)
    handles: list[Handle] = field(default_factory=list)
    """The callers whose outcomes are audited."""
    started: int = 0
    """Callers started so far; the next one has this number in its workflow id."""

    @property
    def queue(self) -> WriteQueue:
        return self.queues[0]

    @property
    def queues(self) -> list[WriteQueue]:
        """All partitions."""
        return [WriteQueue(self.redis, self.ref, number) for number in range(self.settings.partitions)]

    @property
    def ref(self) -> QueueRef:
        return QueueRef(namespace=self.client.namespace, name=self.settings.queue)

    @property
    def partitions(self) -> list[PartitionRef]:
        return [PartitionRef(queue=self.settings.queue, partition=number) for number in range(self.settings.partitions)]

    @property
    def batcher_workflow_id(self) -> str:
        return batcher_workflow_id(self.partitions[0])

    async def start_worker(self, role: str, *options: str, **changes: Any) -> Worker:
        """Start a worker process, with these options of `tests.faults.fault_worker`; `changes` are fields of `Settings`
        in which it differs from the others.
        """
        log = self.folder / f"{self.ref.namespace}-{self.ref.name}-{role}-{len(self.workers)}.log"
        command = [sys.executable, "-m", "tests.faults.fault_worker", role, *options]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("TEMPORAL_", ENV_PREFIX))}
        environment = {
            **inherited,
            **as_environment(self.settings.model_copy(update=changes)),
            "TEMPORAL_ADDRESS": f"{HOST}:{self.temporal_proxy.port}",
            "TEMPORAL_NAMESPACE": self.client.namespace,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]),
            **self.environment,
        }
        worker = Worker(role, await processes.spawn(command, log=log, environment=environment), log)
        self.workers.append(worker)
        return worker

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command `write-batcher` on this queue. Returns its exit status, its output and its errors."""
        environment = {
            **as_environment(self.settings),
            "TEMPORAL_ADDRESS": self.temporal_server.address,
            "TEMPORAL_NAMESPACE": self.client.namespace,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            f"{ENV_PREFIX}REDIS_URL": self.redis_server.url,
        }
        return await run_command(*arguments, environment=environment)

    async def start_workers(self, *batcher_options: str) -> tuple[Worker, Worker]:
        """Start a callers' worker and a batcher worker, and wait until both are ready: one that is still starting when
        an outage begins exits.
        """
        both = await self.start_worker("main"), await self.start_worker("batcher", *batcher_options)
        await self.until_batcher_ready()
        await eventually(lambda: all(worker.logged("worker serves") for worker in both), within_s=WAIT_S)
        return both

    async def until_batcher_ready(self) -> None:
        """Wait until callers can append: earlier appends are retried, which only makes the test slower."""

        async def is_announced() -> bool:
            failed = [worker for worker in self.workers if worker.process.returncode]
            assert not failed, failed[0].log.read_text()
            with contextlib.suppress(QueueUnavailable):
                return await self.contract() is not None
            return False

        await eventually(is_announced, within_s=WAIT_S)

    async def contract(self) -> Contract | None:
        """What the batchers have announced; None when Redis knows of none."""
        return await ContractStore(self.redis, self.ref).read()

    async def pause(self) -> None:
        """Pause the batcher, and wait until it drains nothing any more. Callers can still settle."""
        batcher = self.client.get_workflow_handle(self.batcher_workflow_id)

        async def is_signalled() -> bool:
            with contextlib.suppress(RPCError):  # the worker announces its queue before it starts this workflow
                await batcher.signal("pause")
                return True
            return False

        async def is_paused() -> bool:
            description = (await batcher.describe()).raw_description
            has_seen_the_signal = not description.HasField("pending_workflow_task")
            return has_seen_the_signal and not description.pending_activities

        await eventually(is_signalled, within_s=WAIT_S)
        await eventually(is_paused, within_s=WAIT_S)

    async def resume(self) -> None:
        await self.client.get_workflow_handle(self.batcher_workflow_id).signal("resume")

    async def until_queued(self, entries: int) -> None:
        """Wait until exactly this many entries are in the streams."""

        async def are_queued() -> bool:
            return await self.backlog() == entries

        await eventually(are_queued, within_s=WAIT_S)

    async def until_appended(self, requests: int) -> None:
        """Wait until at least this many requests have ever been appended."""

        async def are_appended() -> bool:
            return (await self.queue.statistics()).counters.get("appended", 0) >= requests

        await eventually(are_appended, within_s=WAIT_S)

    async def until_written(self, rows: int = 1) -> None:
        """Wait until at least this many rows are in the database."""
        await eventually(lambda: self.rows() >= rows, within_s=WAIT_S)

    async def backlog(self) -> int:
        """Count the entries queued or pending, in all partitions."""
        return sum([(await queue.statistics()).backlog for queue in self.queues])

    async def has_held(self, entries: int) -> bool:
        """Whether this many entries are held, in all partitions."""
        return sum([(await queue.statistics()).held for queue in self.queues]) == entries

    async def has_dead_letters(self, number: int) -> bool:
        return (await self.queue.statistics()).dead == number

    def rows(self) -> int:
        """Count the rows in the database; 0 while it cannot be asked."""
        try:
            return self.database.count("main_writes")
        except (psycopg.OperationalError, sqlite3.OperationalError):  # down or locked
            return 0

    def written_callers(self) -> set[str]:
        """The workflow ids that have a row."""
        return {workflow_id for (workflow_id,) in self.database.query("SELECT workflow_id FROM main_writes")}

    async def is_failing(self, caller: Handle, text: str = "") -> bool:
        """Whether an activity of this caller has failed, with this text in its message, and is being retried."""
        pending = (await caller.describe()).raw_description.pending_activities
        return any(activity.HasField("last_failure") and text in activity.last_failure.message for activity in pending)

    async def start_callers(self, count: int, **changes: Any) -> list[Handle]:
        """Start `count` callers; `changes` are fields of `MainInput`."""
        first, self.started = self.started, self.started + count
        order: dict[str, Any] = {
            "item": "tea",
            "cents": 450,
            "queue": self.settings.queue,
            "batcher_task_queue": self.settings.batcher_task_queue,
            "confirm_by": self.settings.confirm_by,
            "confirm_timeout_s": self.settings.confirm_timeout.total_seconds(),
            "business_s": 0.0,
        }
        handles = await asyncio.gather(
            *(
                self.client.start_workflow(
                    MainWorkflow.run,
                    MainInput(**order | changes),
                    id=f"{self.name}-{number}",
                    task_queue=self.settings.main_task_queue,
                )
                for number in range(first, first + count)
            )
        )
        self.handles += handles
        return handles

    async def outcomes(self, *, within_s: float = 90) -> CallerOutcomes:
        """Wait for all callers, and return what they ended with."""
        return await outcomes_of(self.handles, within_s=within_s)

    async def audit(self, *, within_s: float = 90, counters: bool = True, runs: int = 1) -> CallerOutcomes:
        """Wait for all callers, and check their outcomes against the database and the stream.

        Leave out the counters when Redis has lost data. Each workflow id has had `runs` runs that wrote.
        """
        outcomes = await self.outcomes(within_s=within_s)
        await check(self.database, self.redis, self.queues, outcomes, counters=counters, runs=runs)
        return outcomes

    async def close(self) -> None:
        """Kill the remaining workers, and leave nothing running in Temporal, which other tests use too."""
        for worker in self.workers:
            if worker.alive:
                worker.send(signal.SIGCONT)
                await worker.kill()
        if self.temporal_server.running:
            ids = map(batcher_workflow_id, self.partitions)
            batchers = [self.client.get_workflow_handle(workflow_id) for workflow_id in ids]
            await asyncio.gather(*(_terminate(handle) for handle in (*batchers, *self.handles)))


async def _terminate(handle: WorkflowHandle[Any, Any]) -> None:
    with contextlib.suppress(RPCError):  # it has already ended
        await handle.terminate()


@asynccontextmanager
async def arena(
    *,
    name: str,
    folder: Path,
    temporal_server: TemporalServer,
    redis_server: RedisServer,
    database: Database,
    namespace: str = NAMESPACE,
    queue: str | None = None,
    **settings: Any,
) -> AsyncIterator[Arena]:
    """Open an arena on these servers, which are started again if an earlier test left them dead.

    The queue is called `name` unless it is given. `settings` are more fields of `Settings`.
    """
    queue = queue or name
    servers: list[Server] = [temporal_server, redis_server]
    if isinstance(database, PostgresDatabase):
        servers.append(database.server)
    for server in servers:
        if not server.running:
            await server.start()
    async with AsyncExitStack() as stack:
        temporal_proxy = await stack.enter_async_context(Proxy(temporal_server.port))
        redis_proxy = await stack.enter_async_context(Proxy(redis_server.port))
        database_proxy = None
        url = database.url
        if isinstance(database, PostgresDatabase):
            database_proxy = await stack.enter_async_context(Proxy(database.server.port))
            url = make_url(url).set(port=database_proxy.port).render_as_string(hide_password=False)
        opened = Arena(
            name=name,
            folder=folder,
            settings=Settings(
                **{
                    "redis_url": redis_server.url.replace(f":{redis_server.port}/", f":{redis_proxy.port}/"),
                    "database_url": url,
                    "queue": queue,
                    "main_task_queue": f"{queue}-main",
                    "batcher_task_queue": f"{queue}-batcher",
                    "max_items": 10,
                    "max_wait": timedelta(milliseconds=300),
                    "confirm_timeout": NO_RESUBMISSION,
                    "confirm_by": ConfirmBy.SIGNAL,
                    "heartbeat_timeout": HEARTBEAT_TIMEOUT,
                    **settings,
                }
            ),
            client=await Client.connect(temporal_server.address, namespace=namespace),
            redis=await stack.enter_async_context(Redis.from_url(redis_server.url, protocol=2)),
            temporal_server=temporal_server,
            redis_server=redis_server,
            database=database,
            temporal_proxy=temporal_proxy,
            redis_proxy=redis_proxy,
            database_proxy=database_proxy,
        )
        stack.push_async_callback(opened.close)
        yield opened
