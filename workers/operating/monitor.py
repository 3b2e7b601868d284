"""What an operator sees of a queue: statistics from Redis, and the state of its batcher workflows."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from redis.asyncio import Redis
from temporalio.client import Client

from write_batcher.errors import ConfigurationError, OperationFailed
from write_batcher.models import FlushReason, PartitionRef
from write_batcher.queue.latencies import Latency, latency
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import PartitionStatistics, WriteQueue
from write_batcher.workers.operating.host import Hosts, HostState, HostView
from write_batcher.workflows.batcher import batcher_workflow_id

STUCK_AFTER_WAITS = 3  # times max_wait; a batch that is merely slow is younger
CONCURRENT_LOOKS = 16  # partitions; the client has 32 connections to Redis for them


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionView:
    """One partition at one moment. Batches, outcomes and confirmations are counted since the queue was first used.

    appended = written + duplicate + rejected + withdrawn + undecodable + backlog.
    """

    partition: PartitionRef
    host: HostView
    backlog: int
    """Entries in the stream."""
    oldest_ms: int
    """Age of the oldest entry; 0 when there is none."""
    pending: int
    """Entries that the drain has read and not acknowledged."""
    in_flight: int | None
    """Entries that the drain is working on, as of its last heartbeat; None when that is not known."""
    dead_letters: int
    batches: dict[str, int]
    """Batches by flush reason."""
    fill: float | None
    """Average size of a batch, as a fraction of `max_items`; None before the first batch."""
    queued: Latency | None
    """From the append until the batch is closed; None before the first batch, as for the next two."""
    write: Latency | None
    """The transaction of the batch."""
    confirm: Latency | None
    """From the commit until the receipt is sent."""
    appended: int
    written: int
    duplicate: int
    rejected: int
    """Now dead letters, unless they were replayed or discarded; so are the undecodable entries."""
    withdrawn: int
    undecodable: int
    confirmed: int
    confirmations_retried: int
    without_caller: int
    """Receipts that were not delivered because the caller had ended."""
    warning: str | None
    """Why the oldest request is far too old; None unless it is."""


def view_partition(
    partition: PartitionRef, statistics: PartitionStatistics, host: HostView, *, max_items: int, max_wait: timedelta
) -> PartitionView:
    """Interpret `statistics` and `host` for an operator, given the batcher's limits `max_items` and `max_wait`."""
    counters = statistics.counters
    batches = {reason.value: counters.get(f"batches_{reason.value}", 0) for reason in FlushReason}
    total = sum(batches.values())
    oldest = timedelta(milliseconds=statistics.oldest_ms)
    is_stuck = oldest > STUCK_AFTER_WAITS * max_wait
    return PartitionView(
        partition=partition,
        host=host,
        backlog=statistics.backlog,
        oldest_ms=statistics.oldest_ms,
        pending=statistics.pending,
        in_flight=host.progress.in_flight if host.progress else None,
        dead_letters=statistics.dead,
        batches=batches,
        fill=counters.get("batched", 0) / total / max_items if total else None,
        queued=latency("queued", counters),
        write=latency("write", counters),
        confirm=latency("confirm", counters),
        appended=counters.get("appended", 0),
        written=counters.get("written", 0),
        duplicate=counters.get("duplicate", 0),
        rejected=counters.get("rejected", 0),
        withdrawn=counters.get("withdrawn", 0),
        undecodable=counters.get("dead", 0),
        confirmed=counters.get("confirmed", 0),
        confirmations_retried=counters.get("confirmations_retried", 0),
        without_caller=counters.get("without_caller", 0),
        warning=_stuck_warning(partition, oldest, max_wait, host) if is_stuck else None,
    )


def _stuck_warning(partition: PartitionRef, oldest: timedelta, max_wait: timedelta, host: HostView) -> str:
    return (
        f"{partition}: the oldest request has waited {int(oldest.total_seconds())}s, more than "
        f"{STUCK_AFTER_WAITS} times max_wait ({max_wait.total_seconds():g}s): {_why_stuck(partition, host)}"
    )


def _why_stuck(partition: PartitionRef, host: HostView) -> str:
    match host.state:
        case HostState.NOT_RUNNING:
            return "no batcher workflow is running; start one with `write-batcher worker batcher`"
        case HostState.PAUSED:
            return "it is paused; continue with `write-batcher queue resume`"
        case HostState.STOPPING:
            return "its drain has been told to return, but has not returned yet"
        case HostState.HELD:
            return (
                "its drain is paused in Temporal; continue with `temporal activity unpause --activity-type drain "
                f"--workflow-id {batcher_workflow_id(partition)}`"
            )
        case HostState.WAITING if host.last_failure:
            return f"its drain has failed {(host.attempt or 1) - 1} times, last with: {host.last_failure}"
        case HostState.WAITING:
            return "no batcher worker takes it; check that `write-batcher worker batcher` is running"
        case HostState.RUNNING:
            if host.progress and host.progress.holding:
                return f"its batch is held: {host.progress.holding}"
            return "its drain is running but is behind; check its log and the database"


class Monitor:
    """Looks at the partitions of one queue. `max_items` and `max_wait` must be those of its batcher."""

    def __init__(self, client: Client, redis: Redis, queue: str, *, max_items: int, max_wait: timedelta) -> None:
        self._hosts = Hosts(client)
        self._redis = redis
        self.queue = queue
        self._max_items = max_items
        self._max_wait = max_wait

    async def look(self, only: int | None = None) -> list[PartitionView]:
        """Look at all partitions that the queue has, or at the one with the number `only`.

        Raises `OperationFailed` when the queue has never been used or Temporal does not answer, `ConfigurationError`
        when there is no partition `only`, and `QueueUnavailable` when Redis cannot be asked.
        """
        partitions = await partitions_of(self._redis, self.queue, only)
        slots = asyncio.Semaphore(CONCURRENT_LOOKS)

        async def look_at(partition: PartitionRef) -> PartitionView:
            async with slots:
                return await self._look(partition)

        return await asyncio.gather(*map(look_at, partitions))

    async def _look(self, partition: PartitionRef) -> PartitionView:
        statistics = await WriteQueue(self._redis, partition.queue, partition.partition).statistics()
        host = await self._hosts.look(partition)
        return view_partition(partition, statistics, host, max_items=self._max_items, max_wait=self._max_wait)


async def partitions_of(redis: Redis, queue: str, only: int | None = None) -> list[PartitionRef]:
    """Return all partitions of a queue, or the one with the number `only`.

    Raises `OperationFailed` when the queue has never been used, `ConfigurationError` when it has no partition `only`,
    and `QueueUnavailable` when Redis cannot be asked.
    """
    known = await Partitions(redis, queue).known()
    if known == 0:
        raise OperationFailed(
            f"Queue {queue!r} has never been used: start its batcher with `write-batcher worker batcher`, "
            "or name another queue with --queue."
        )
    if only is not None and not 0 <= only < known:
        raise ConfigurationError(f"Queue {queue!r} has no partition {only}: choose one from 0 to {known - 1}.")
    return [PartitionRef(queue=queue, partition=number) for number in range(known) if only in (None, number)]
