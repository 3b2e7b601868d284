"""Those who are measured: our drain and the floors, each with a copy of the queue and a fresh database."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from redis import Redis as SyncRedis
from redis.asyncio import Redis
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter

from write_batcher.bench.cases import CaseTraits
from write_batcher.bench.drain_plan import Kind
from write_batcher.bench.filled_queue import WORK_QUEUE, FilledQueue
from write_batcher.bench.floors import plain_drain
from write_batcher.bench.floors.plain_drain import Decrypt, Insert
from write_batcher.bench.floors.postgresql_inserts import POSTGRESQL_INSERTS
from write_batcher.bench.floors.sqlite_inserts import SQLITE_INSERTS
from write_batcher.bench.fresh_databases import FreshDatabase, check_contents
from write_batcher.bench.own_drain import OwnDrain
from write_batcher.bench.record_shapes import RecordShape
from write_batcher.bench.sample import Sample, Servers, Stopwatch
from write_batcher.errors import WrongWork
from write_batcher.models import ConfirmBy, DrainProgress
from write_batcher.queue.keys import PartitionKeys

INSERTS: Mapping[Kind, Mapping[str, Callable[[Any, RecordShape], Insert]]] = {
    "sqlite": SQLITE_INSERTS,
    "postgresql": POSTGRESQL_INSERTS,
}
PLAIN_DRAIN = "our plain drain"

NewDatabase = Callable[[RecordShape], AbstractContextManager[FreshDatabase]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Where contestants run, one after the other."""

    redis: Redis
    redis_url: str
    servers: Servers
    kind: Kind
    new_database: NewDatabase
    batch_size: int
    converter: DataConverter
    """That the queue was filled with."""


class Contestant(Protocol):
    """One of those that are measured."""

    async def run(self, track: Track, queue: FilledQueue) -> Sample:
        """Drain a copy of `queue`. Raises `WrongWork` when not exactly its records are in the database then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """The drain of this library with its ledger."""

    traits: CaseTraits

    async def run(self, track: Track, queue: FilledQueue) -> Sample:
        with track.new_database(self.traits.shape) as database:
            return await self._drain(track, queue, database, replace(_NOTHING, written=queue.requests - queue.bad))

    async def run_twice(self, track: Track, queue: FilledQueue) -> tuple[Sample, Sample]:
        """Drain two copies, one after the other, into the same database: all requests of the second are duplicates."""
        with track.new_database(self.traits.shape) as database:
            first = await self._drain(track, queue, database, replace(_NOTHING, written=queue.requests))
            return first, await self._drain(track, queue, database, replace(_NOTHING, duplicate=queue.requests))

    async def _drain(
        self, track: Track, queue: FilledQueue, database: FreshDatabase, expected: DrainProgress
    ) -> Sample:
        await queue.copy_to(track.redis, WORK_QUEUE)
        drain = OwnDrain(track.redis_url, WORK_QUEUE, track.converter, batch_size=track.batch_size)
        sample, progress = await drain.run(database.url, self.traits.shape.table, queue.requests, track.servers)
        receipts = queue.requests if self.traits.confirm_by is ConfirmBy.SIGNAL else 0
        batches = -(-queue.requests // track.batch_size)
        expected = replace(expected, batches=batches, rejected=queue.bad, dead=queue.bad, confirmed=receipts)
        if progress != expected:
            raise WrongWork(f"The drain reports {progress}, expected was {expected}.")
        check_contents(database, self.traits.shape, queue.requests, bad=queue.bad, with_ledger=True)
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The plain drain of `floors/` with one way of inserting."""

    traits: CaseTraits
    insert: Callable[[Any, RecordShape], Insert]

    async def run(self, track: Track, queue: FilledQueue) -> Sample:
        await queue.copy_to(track.redis, WORK_QUEUE)
        with track.new_database(self.traits.shape) as database:
            # In the event loop's thread, but without the loop: nothing else runs meanwhile.
            sample = self._drain(track, queue, database)
            check_contents(database, self.traits.shape, queue.requests, with_ledger=False)
        return sample

    def _drain(self, track: Track, queue: FilledQueue, database: FreshDatabase) -> Sample:
        stream, shape = PartitionKeys(WORK_QUEUE, 0).stream_key, self.traits.shape
        with (
            SyncRedis.from_url(track.redis_url, protocol=2) as redis,
            closing(database.connect()) as connection,
        ):
            plain_drain.create_group(redis, stream)
            insert = self.insert(connection, shape)
            decrypt = _decrypt(track.converter)
            stopwatch = Stopwatch.begin(track.servers)
            rows = plain_drain.drain(redis, stream, track.batch_size, shape, insert, decrypt)
            sample = stopwatch.end(queue.requests)
            left = int(redis.xlen(stream))
        if rows != queue.requests or left:
            raise WrongWork(f"The floor wrote {rows} rows of {queue.requests} and left {left} in the stream.")
        return sample


_NOTHING = DrainProgress()


def _decrypt(converter: DataConverter) -> Decrypt:
    if converter.payload_codec is None:
        return _as_it_is
    from write_batcher.bench.encryption import AesGcmCodec

    assert isinstance(converter.payload_codec, AesGcmCodec)  # noqa: S101 - no case has another one
    return converter.payload_codec.decrypted


def _as_it_is(payload: Payload) -> Payload:
    return payload
