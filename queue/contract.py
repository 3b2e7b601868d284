"""The contract of a queue: what its batcher workers announce, and what callers and operators rely on."""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Self, cast

from redis.asyncio import Redis
from temporalio.converter import value_to_type

from write_batcher.errors import WrongSink
from write_batcher.models import QueueRef
from write_batcher.queue import lua
from write_batcher.queue.keys import PartitionKeys, key_prefix, target_key, turns_key
from write_batcher.queue.redis_client import translated_errors

# What an operator can set for a running queue.
LIVE_TERMS: Mapping[str, type[int] | type[float]] = MappingProxyType(
    {"pace": float, "max_rate": float, "target_latency_ms": int, "max_items": int, "max_wait_ms": int}
)
OPTIONAL_TERMS = ("pace", "max_rate", "target_latency_ms")  # None: no limit
LIVE_PREFIX = b"set:"  # of their fields in the contract; no worker's name begins so
ANNOUNCE_EVERY = timedelta(seconds=5)
MAX_PARTITIONS = 1000  # the limit of the setting `partitions`
SILENT_WORKER_IS_GONE_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one batcher worker announces. `Contract` is what all workers of a queue announce together."""

    sink_id: str
    """What the queue is written to; empty for a sink without an identity."""
    partitions: int
    """1 to 1000."""
    tables: dict[str, str]
    """How records are written, by table; empty for a sink that accepts any table."""
    max_wait_ms: int
    """Age of the oldest request at which a batch closes, in milliseconds."""
    max_items: int
    max_request_bytes: int
    """Bytes of an encoded request."""
    max_backlog: int
    """Entries in one stream."""
    pace: float | None = None
    """Transactions per second, of all partitions together; None: as many as there are."""
    max_rate: float | None = None
    """Rows per second, of all partitions together; None: as many as there are."""
    target_latency_ms: int | None = None
    """How long a transaction should take at most, in milliseconds; None: as long as it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract(Terms):
    """The terms of the worker that started last, with the tables of all, and what an operator has set since."""

    set_live: dict[str, float | None] = field(default_factory=dict)
    """Values of `LIVE_TERMS` that an operator has set for the running queue: they hold for all workers."""

    @classmethod
    def of(
        cls, announced: Iterable[tuple[int, Terms]], set_live: Mapping[str, float | None] = MappingProxyType({})
    ) -> Self | None:
        """`announced`: when each worker started, in milliseconds, and its terms. None when nobody has announced any."""
        in_order = [terms for _started, terms in sorted(announced, key=lambda one: one[0])]
        if not in_order:
            return None
        tables = {table: mode for terms in in_order for table, mode in terms.tables.items()}
        return cls(**{**asdict(in_order[-1]), **set_live, "tables": tables, "set_live": dict(set_live)})

    @classmethod
    def of_one(cls, terms: Terms) -> Self:
        """The contract of a single worker."""
        return cls(**asdict(terms))

    @property
    def max_wait(self) -> timedelta:
        return timedelta(milliseconds=self.max_wait_ms)


class ContractStore:
    """The contract of one queue in Redis. Methods raise `QueueUnavailable` when Redis cannot be asked."""

    def __init__(self, redis: Redis, queue: QueueRef) -> None:
        self._redis = redis
        self._queue = queue
        self.key = f"{key_prefix(queue)}:contract"
        self._announce = lua.Script(redis, lua.ANNOUNCE)
        self._leave = lua.Script(redis, lua.LEAVE)
        self._now = lua.Script(redis, lua.NOW)

    async def read(self) -> Contract | None:
        """Return the contract; None when no batcher has ever announced one, or Redis has lost it."""
        return _contract(await self._stored())

    async def announce(self, worker: str, terms: Terms) -> Contract:
        """Announce the terms of a worker, or that it still lives; returns the contract. Raises `WrongSink` when the
        queue belongs to another sink.
        """
        silent_ms = SILENT_WORKER_IS_GONE_AFTER // timedelta(milliseconds=1)
        with translated_errors():
            accepted, answer = await self._announce(
                keys=[self.key], args=[worker, json.dumps(asdict(terms)), terms.sink_id, silent_ms]
            )
        if not accepted:
            raise self._wrong_sink(answer.decode(), terms.sink_id)
        fields = iter(answer)
        return _contract(dict(zip(fields, fields, strict=True))) or Contract.of_one(terms)

    def _wrong_sink(self, theirs: str, ours: str) -> WrongSink:
        return WrongSink(
            f"Queue {str(self._queue)!r} is written to {_sink(theirs)}, and this worker writes to {_sink(ours)}: "
            "give it the database of the queue (--database-url), or another queue (--queue). To move the queue to "
            "this database, stop its batchers and run `write-batcher queue move`."
        )

    async def set_live(self, terms: Mapping[str, float | None], *, unset: Iterable[str] = ()) -> None:
        """Set some of `LIVE_TERMS` for all workers, until they are set anew or `unset`: then they are again what the
        workers announce.
        """
        removed = [LIVE_PREFIX + name.encode() for name in unset]
        stored = {LIVE_PREFIX + name.encode(): json.dumps(value) for name, value in terms.items()}
        with translated_errors():
            if removed:
                await self._redis.hdel(self.key, *removed)
            if stored:
                await self._redis.hset(self.key, mapping=stored)  # type: ignore[arg-type] # redis-py takes bytes, too

    async def leave(self, worker: str) -> None:
        """Take back what a worker announced, when it ends. Of the last one the terms stay, so that the queue is known
        while no batcher runs.
        """
        with translated_errors():
            await self._leave(keys=[self.key], args=[worker])

    async def live_workers(self) -> list[str]:
        """Return the names of the workers that have announced themselves lately and not left."""
        announced = _announcements(await self._stored())
        with translated_errors():
            now_ms = int(await self._now(keys=[self.key]))
        silent_since = now_ms - SILENT_WORKER_IS_GONE_AFTER // timedelta(milliseconds=1)
        return [worker for worker, one in announced.items() if one.seen_ms >= silent_since]

    async def forget(self) -> None:
        """Delete the contract: the next batcher that starts decides about the sink. Only for an empty queue without
        live workers, or requests for the old sink would be written to the new one.
        """
        with translated_errors():
            for key in (self.key, turns_key(self._queue), target_key(self._queue)):  # in a cluster on different servers
                await self._redis.delete(key)

    async def known_partitions(self) -> int:
        """Return the number of partitions in the contract plus those beyond it that still hold data: when a queue
        shrinks, their counters and dead letters stay. 0 when the queue has never been used.
        """
        contract = await self.read()
        count = contract.partitions if contract else 0
        with translated_errors():
            while await self._redis.exists(*PartitionKeys(self._queue, count).keys):
                count += 1
        return count

    async def _stored(self) -> dict[bytes, bytes]:
        with translated_errors():
            return cast(dict[bytes, bytes], await self._redis.hgetall(self.key))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Announcement:
    started_ms: int
    seen_ms: int
    terms: Terms


def _contract(stored: Mapping[bytes, bytes]) -> Contract | None:
    announced = [(one.started_ms, one.terms) for one in _announcements(stored).values()]
    return Contract.of(announced, _set_live(stored))


def _announcements(stored: Mapping[bytes, bytes]) -> dict[str, _Announcement]:
    """What each worker has announced, by its name."""
    return {worker.decode(): one for worker, text in stored.items() if (one := _announcement(text))}


def _set_live(stored: Mapping[bytes, bytes]) -> dict[str, float | None]:
    """What an operator has set, without what cannot be that."""
    found: dict[str, float | None] = {}
    for name, kind in LIVE_TERMS.items():
        text = stored.get(LIVE_PREFIX + name.encode())
        if text == b"null" and name in OPTIONAL_TERMS:
            found[name] = None
        elif text is not None:
            with suppress(ValueError):
                value = kind(text)
                if 0 < value < math.inf:
                    found[name] = value
    return found


def _announcement(text: bytes) -> _Announcement | None:
    """None for what no worker announced."""
    try:
        stored: Mapping[str, Any] = json.loads(text)
        terms = value_to_type(Terms, stored["terms"])
        if not 1 <= terms.partitions <= MAX_PARTITIONS:
            return None
        return _Announcement(started_ms=int(stored["started_ms"]), seen_ms=int(stored["seen_ms"]), terms=terms)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _sink(sink_id: str) -> str:
    return f"the sink {sink_id!r}" if sink_id else "a sink without an identity"
