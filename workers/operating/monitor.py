"""What an operator sees of a queue, from Redis and from describing the batcher workflows."""

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
LOOKS_AT_ONCE = 16  # of partitions; Redis has 32 connections for them


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionView:
    """One partition at one moment. Counts of outcomes, batches and confirmations are totals since Redis has it.

    `undecodable` entries went to the dead letters; so did the rejected ones. `fill` is the average batch as a part of
    max_items. `queued` is from the append until the batch was closed, `write` its transaction, `confirm` from then
    until the receipt was sent; None when there were none. `warning` is a sentence when the oldest request is far older
    than it should be.
    """

    partition: PartitionRef
    host: HostView
    backlog: int
    oldest_ms: int
    pending: int
    in_flight: int | None
    dead_letters: int
    batches: dict[str, int]
    fill: float | None
    queued: Latency | None
    write: Latency | None
    confirm: Latency | None
    appended: int
    written: int
    duplicate: int
    rejected: int
    withdrawn: int
    undecodable: int
    confirmed: int
    confirmations_retried: int
    without_caller: int
    warning: str | None


def view_partition(
    partition: PartitionRef, statistics: PartitionStatistics, host: HostView, *, max_items: int, max_wait: timedelta
) -> PartitionView:
    """What `statistics` and `host` mean for an operator, given the limits of the batcher."""
    counters = statistics.counters
    batches = {reason.value: counters.get(f"batches_{reason.value}", 0) for reason in FlushReason}
    total = sum(batches.values())
    oldest = timedelta(milliseconds=statistics.oldest_ms)
    stuck = oldest > STUCK_AFTER_WAITS * max_wait
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
        warning=_stuck(partition, oldest, max_wait, host) if stuck else None,
    )


def _stuck(partition: PartitionRef, oldest: timedelta, max_wait: timedelta, host: HostView) -> str:
    return (
        f"{partition}: the oldest request has waited {int(oldest.total_seconds())}s, more than "
        f"{STUCK_AFTER_WAITS} times max_wait ({max_wait.total_seconds():g}s): {_why(partition, host)}"
    )


def _why(partition: PartitionRef, host: HostView) -> str:
    match host.state:
        case HostState.NOT_RUNNING:
            return "no batcher workflow is running; start one with `write-batcher worker batcher`"
        case HostState.PAUSED:
            return "it is paused; go on with `write-batcher queue resume`"
        case HostState.STOPPING:
            return "its drain has been told to return and has not yet"
        case HostState.HELD:
            return (
                "its drain is paused in Temporal; go on with `temporal activity unpause --activity-type drain "
                f"--workflow-id {batcher_workflow_id(partition)}`"
            )
        case HostState.WAITING if host.last_failure:
            return f"its drain has failed {(host.attempt or 1) - 1} times, at last with: {host.last_failure}"
        case HostState.WAITING:
            return "no batcher worker takes it; look at `write-batcher worker batcher`"
        case HostState.RUNNING:
            if host.progress and host.progress.holding:
                return f"its batch is held: {host.progress.holding}"
            return "the drain runs but is behind; look at its log and at the database"


class Monitor:
    """Looks at the partitions of one queue. Methods raise QueueUnavailable, OperationFailed and ConfigurationError."""

    def __init__(self, client: Client, redis: Redis, queue: str, *, max_items: int, max_wait: timedelta) -> None:
        self._hosts = Hosts(client)
        self._redis = redis
        self.queue = queue
        self._max_items = max_items
        self._max_wait = max_wait

    async def look(self, only: int | None = None) -> list[PartitionView]:
        """All partitions that the queue has, or the one with the number `only`."""
        partitions = await partitions_of(self._redis, self.queue, only)
        slots = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def one(partition: PartitionRef) -> PartitionView:
            async with slots:
                return await self._look(partition)

        return await asyncio.gather(*map(one, partitions))

    async def _look(self, partition: PartitionRef) -> PartitionView:
        statistics = await WriteQueue(self._redis, partition.queue, partition.partition).statistics()
        host = await self._hosts.look(partition)
        return view_partition(partition, statistics, host, max_items=self._max_items, max_wait=self._max_wait)


async def partitions_of(redis: Redis, queue: str, only: int | None = None) -> list[PartitionRef]:
    """All partitions of a queue, or the one with the number `only`. Raises OperationFailed when the queue has none,
    ConfigurationError when it has none of that number.
    """
    known = await Partitions(redis, queue).known()
    if known == 0:
        raise OperationFailed(
            f"queue {queue!r} has never been used: start its batcher with `write-batcher worker batcher`, "
            "or name another with --queue"
        )
    if only is not None and not 0 <= only < known:
        raise ConfigurationError(f"partition = {only}: queue {queue!r} has the partitions 0 to {known - 1}")
    return [PartitionRef(queue=queue, partition=number) for number in range(known) if only in (None, number)]
