"""The benchmark of the drain: rounds in which ours and the others take turns."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.bench.cases import TRAITS, Case, CaseTraits
from write_batcher.bench.contestants import INSERTS, PLAIN_DRAIN, Contestant, Floor, NewDatabase, Ours, Track
from write_batcher.bench.drain_plan import DrainPlan, Kind
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.filled_queue import FilledQueue, fill
from write_batcher.bench.fresh_databases import fresh_postgresql, fresh_sqlite
from write_batcher.bench.sample import Sample, Servers
from write_batcher.bench.turns import Measured, in_turn, told
from write_batcher.queue.redis_client import connect
from write_batcher.workers.embedded.postgres_server import PostgresServer
from write_batcher.workers.embedded.redis_server import RedisServer

OURS = "ours"
UNIT, COMPARED = "row", "rows_per_s"
WARM_UP_BATCHES = 10  # before the first round, by everybody: caches of statements, imports, connections


class DrainBench:
    """Measures a plan on one Redis and the databases of the plan."""

    def __init__(
        self,
        plan: DrainPlan,
        folder: Path,
        redis_server: RedisServer,
        postgres: PostgresServer | None,
        measured: Measured,
    ) -> None:
        """`folder` is for SQLite files."""
        self._plan = plan
        self._folder = folder
        self._redis_server = redis_server
        self._postgres = postgres
        self._measured = measured
        self._converter = replace(DataConverter.default, payload_codec=plan.traits.payload_codec())

    async def run(self) -> tuple[dict[Kind, Duel], FilledQueue]:
        """Return the figures by database, and the queue that ours drained. Raises `WrongWork` when somebody wrote
        something else than was queued.
        """
        plan = self._plan
        async with connect(self._redis_server.url) as redis:
            warm_up = await self._filled(redis, "warm-up", min(plan.requests, WARM_UP_BATCHES * plan.batch_size))
            queues = await self._filled(redis, "filled", plan.requests)
            tracks = [self._track(redis, kind) for kind in plan.databases]
            samples: dict[Kind, dict[str, list[Readings]]] = {track.kind: {} for track in tracks}
            for track in tracks:
                async for _ in self._round(track, warm_up, 0):
                    pass
            for number in range(plan.rounds):
                for track in tracks:
                    async for name, sample in self._round(track, queues, number):
                        readings = sample.readings(UNIT)
                        samples[track.kind].setdefault(name, []).append(readings)
                        self._measured(told(f"{track.kind}, {name}", readings, COMPARED))
        duels = {kind: Duel.of(by_name.pop(OURS), by_name, compared=COMPARED) for kind, by_name in samples.items()}
        return duels, queues.of_case

    async def _round(self, track: Track, queues: "_Queues", number: int) -> AsyncIterator[tuple[str, Sample]]:
        """Measure everybody once on one database, in the order of this round."""
        traits = self._plan.traits
        if traits.redelivered:
            first, second = await Ours(traits=traits).run_twice(track, queues.of_case)
            yield PLAIN_DRAIN, first
            yield OURS, second
            return
        others = {name: (other, queues.of_others) for name, other in _opponents(traits, track.kind).items()}
        everybody: dict[str, tuple[Contestant, FilledQueue]] = {OURS: (Ours(traits=traits), queues.of_case), **others}
        for name, (contestant, queue) in in_turn(everybody, number):
            yield name, await contestant.run(track, queue)

    async def _filled(self, redis: Redis, name: str, requests: int) -> "_Queues":
        traits = self._plan.traits
        size = self._plan.batch_size
        of_case = await fill(redis, name, traits, self._converter, requests=requests, batch_size=size)
        if not traits.one_bad:
            return _Queues(of_case=of_case, of_others=of_case)
        plain = await fill(
            redis, f"{name}-plain", TRAITS[Case.PLAIN], self._converter, requests=requests, batch_size=size
        )
        return _Queues(of_case=of_case, of_others=plain)

    def _track(self, redis: Redis, kind: Kind) -> Track:
        return Track(
            redis=redis,
            redis_url=self._redis_server.url,
            servers=self._servers(kind),
            kind=kind,
            new_database=self._new_database(kind),
            batch_size=self._plan.batch_size,
            converter=self._converter,
        )

    def _servers(self, kind: Kind) -> Servers:
        servers = {"redis": self._redis_server.pid}
        return servers | {"database": self._postgres.pid} if self._postgres and kind == "postgresql" else servers

    def _new_database(self, kind: Kind) -> NewDatabase:
        if kind == "sqlite":
            return lambda shape: fresh_sqlite(self._folder, shape)
        assert self._postgres is not None  # noqa: S101 - the servers are started for the plan
        server = self._postgres
        return lambda shape: fresh_postgresql(server, shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queues:
    of_case: FilledQueue
    of_others: FilledQueue


def measurements(plan: DrainPlan) -> int:
    """Return how many measurements the plan makes, without warming up."""
    return plan.rounds * sum(1 + len(_opponents(plan.traits, kind)) for kind in plan.databases)


def _opponents(traits: CaseTraits, kind: Kind) -> dict[str, Contestant]:
    """Whom ours is compared with, by name."""
    if traits.has_floor:
        return {name: Floor(traits=traits, insert=insert) for name, insert in INSERTS[kind].items()}
    return {PLAIN_DRAIN: Ours(traits=TRAITS[Case.PLAIN])}
