"""What an operator sees of a queue: statistics from Redis, and the state of its batcher workflows."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from redis.asyncio import Redis
from temporalio.client import Client

from write_batcher.models import FlushReason, PartitionRef, QueueRef
from write_batcher.queue.contract import Contract, ContractStore
from write_batcher.queue.latencies import Latency, latency
from write_batcher.queue.marks import HeldMark
from write_batcher.queue.stream import PartitionStatistics, WriteQueue
from write_batcher.workers.operating.host import Hosts, HostState, HostView
from write_batcher.workers.operating.known_partitions import partitions_of

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
    held: int
    """Entries that cannot be decided now, and those that wait behind them for the order of a key."""
    dead_letters: int
    dead_letters_trimmed: int
    """Dead letters that were deleted because there were too many, or because they were too old."""
    batches: dict[str, int]
    """Batches by flush reason."""
    pace: float | None
    """Transactions per second of the whole queue; None without a pace, and, as the next four, without a contract."""
    max_rate: float | None
    """Rows per second of the whole queue."""
    target_latency_ms: int | None
    max_items: int | None
    max_wait_ms: int | None
    set_live: list[str]
    """Which of these five an operator has set for the running queue."""
    fill: float | None
    """Average size of a batch, as a fraction of `max_items`; None before the first batch, or without a contract."""
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
    """Why requests wait longer than they should, with the cure; None unless they do."""


def view_partition(
    partition: PartitionRef,
    statistics: PartitionStatistics,
    host: HostView,
    *,
    contract: Contract | None,
    held: Mapping[str, HeldMark],
) -> PartitionView:
    """Interpret `statistics` and `host` for an operator, given the contract of the queue and its held entries."""
    counters = statistics.counters
    batches = {reason.value: counters.get(f"batches_{reason.value}", 0) for reason in FlushReason}
    total = sum(batches.values())
    return PartitionView(
        partition=partition,
        host=host,
        backlog=statistics.backlog,
        oldest_ms=statistics.oldest_ms,
        pending=statistics.pending,
        in_flight=host.progress.in_flight if host.progress else None,
        held=statistics.held,
        dead_letters=statistics.dead,
        dead_letters_trimmed=counters.get("dead_trimmed", 0),
        batches=batches,
        pace=contract.pace if contract else None,
        max_rate=contract.max_rate if contract else None,
        target_latency_ms=contract.target_latency_ms if contract else None,
        max_items=contract.max_items if contract else None,
        max_wait_ms=contract.max_wait_ms if contract else None,
        set_live=sorted(contract.set_live) if contract else [],
        fill=counters.get("batched", 0) / total / contract.max_items if total and contract else None,
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
        warning=_warning(partition, statistics, host, contract, held),
    )


def _warning(
    partition: PartitionRef,
    statistics: PartitionStatistics,
    host: HostView,
    contract: Contract | None,
    held: Mapping[str, HeldMark],
) -> str | None:
    if contract is None:
        return (
            f"{partition}: the queue has no contract, so nothing can be appended; start its batcher with "
            f"`write-batcher worker batcher --queue {partition.queue}`"
        )
    oldest = timedelta(milliseconds=statistics.oldest_ms)
    if oldest > STUCK_AFTER_WAITS * contract.max_wait:
        return (
            f"{partition}: the oldest request has waited {int(oldest.total_seconds())}s, more than "
            f"{STUCK_AFTER_WAITS} times max_wait ({contract.max_wait.total_seconds():g}s): "
            f"{_why_stuck(partition, host, held)}"
        )
    return f"{partition}: {_about_held(partition, held)}" if held else None


def _why_stuck(partition: PartitionRef, host: HostView, held: Mapping[str, HeldMark]) -> str:
    match host.state:
        case HostState.NOT_RUNNING:
            return (
                "no batcher workflow is running; start one with "
                f"`write-batcher worker batcher --queue {partition.queue}`"
            )
        case HostState.PAUSED:
            return f"it is paused; continue with `write-batcher queue resume --queue {partition.queue}`"
        case HostState.PARKED:
            return (
                "its drain is parked, and no batcher worker wakes it; check that "
                f"`write-batcher worker batcher --queue {partition.queue}` is running"
            )
        case HostState.STOPPING:
            return "its drain has been told to return, but has not returned yet"
        case HostState.PAUSED_IN_TEMPORAL:
            return (
                f"its drain is paused in Temporal; continue with `write-batcher queue resume --queue {partition.queue}`"
            )
        case HostState.WAITING if host.last_failure:
            return (
                f"its drain has failed {(host.attempt or 1) - 1} times, last with: {host.last_failure.rstrip('.')}; "
                f"check that `write-batcher worker batcher --queue {partition.queue}` is running, and what it logs"
            )
        case HostState.WAITING:
            return (
                "no batcher worker takes it; check that "
                f"`write-batcher worker batcher --queue {partition.queue}` is running"
            )
        case HostState.RUNNING:
            if host.progress and host.progress.holding:
                return f"nothing is written: {host.progress.holding}"
            if held:
                return _about_held(partition, held)
            return "its drain is running but is behind; check its log and the database"


def _about_held(partition: PartitionRef, held: Mapping[str, HeldMark]) -> str:
    first = min(held.values(), key=lambda mark: mark.since_ms)
    requests = "1 request is held" if len(held) == 1 else f"{len(held)} requests are held"
    return f"{requests}; see `write-batcher queue list --held --queue {partition.queue}`; the first: {first.reason}"


class Monitor:
    """Looks at the partitions of one queue, in the namespace of the client."""

    def __init__(self, client: Client, redis: Redis, queue: str) -> None:
        self._hosts = Hosts(client)
        self._redis = redis
        self._queue = QueueRef(namespace=client.namespace, name=queue)

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._queue.name

    async def look(self, only: int | None = None) -> list[PartitionView]:
        """Look at all partitions that the queue has, or at the one with the number `only`.

        Raises `OperationFailed` when the queue has never been used or Temporal does not answer, `ConfigurationError`
        when there is no partition `only`, and `QueueUnavailable` when Redis cannot be asked.
        """
        partitions = await partitions_of(self._redis, self._queue, only)
        contract = await ContractStore(self._redis, self._queue).read()
        slots = asyncio.Semaphore(CONCURRENT_LOOKS)

        async def look_at(partition: PartitionRef) -> PartitionView:
            async with slots:
                return await self._look(partition, contract)

        return await asyncio.gather(*map(look_at, partitions))

    async def _look(self, partition: PartitionRef, contract: Contract | None) -> PartitionView:
        stream = WriteQueue(self._redis, self._queue, partition.partition)
        statistics = await stream.statistics()
        held = await stream.held() if statistics.held else {}
        host = await self._hosts.look(partition)
        return view_partition(partition, statistics, host, contract=contract, held=held)
