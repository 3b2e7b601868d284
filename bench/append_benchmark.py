"""The benchmark of appending: the producer that the activity `enqueue_write` uses, beside bare XADD."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.bench.append_plan import AT_ONCE, AppendPlan
from write_batcher.bench.at_once import work_off
from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.cases import CaseTraits
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.filled_queue import NAMESPACE, WORK_QUEUE, requests_of
from write_batcher.bench.floors import plain_append
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.record_shapes import PLAIN
from write_batcher.bench.sample import Servers, Stopwatch
from write_batcher.bench.surroundings import describe_machine, describe_versions
from write_batcher.bench.turns import Measure, Measured, take_turns
from write_batcher.config import Settings
from write_batcher.errors import WrongWork
from write_batcher.models import ConfirmBy, Submission, WriteRequest
from write_batcher.queue.contract import ContractStore, Terms
from write_batcher.queue.keys import PartitionKeys
from write_batcher.queue.producer import Producer
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream_entry import size_of
from write_batcher.queue.wire_form import Codec, Fields
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.redis_server import RedisServer

UNIT, COMPARED = "append", "appends_per_s"
OURS_ONE, OURS_MANY = "ours, one by one", f"ours, {AT_ONCE} at once"
XADD, PIPELINE = "XADD", f"pipeline of {AT_ONCE} XADD"
ONE, MANY = "one by one", f"{AT_ONCE} at once"
WARM_UP_REQUESTS = 500
READ_AT_ONCE = 1_000  # entries, when they are checked
NOTE = (
    "Ours encodes each record, checks it against the contract, and appends it by a script that finds requests which "
    "are queued already; the floor has the bytes of its entries ready."
)

T = TypeVar("T")


async def measure_append(plan: AppendPlan, measured: Measured) -> BenchResults:
    """Measure on a Redis of our own, in a temporary folder.

    Raises what `Server.start` raises, and `WrongWork` when the stream has something else than was appended.
    """
    occasion = Occasion()
    with data_folder(None) as folder:
        async with RedisServer(folder) as server, connect(server.url) as redis:
            machine, versions = describe_machine(folder), describe_versions(server.url, None)
            await announce_contract(redis, max_backlog=plan.requests)
            warm_up = await Appends.prepare(redis, {"redis": server.pid}, min(plan.requests, WARM_UP_REQUESTS), plan)
            await take_turns(warm_up.contestants(), rounds=1, shown=COMPARED, measured=lambda _: None)
            appends = await Appends.prepare(redis, {"redis": server.pid}, plan.requests, plan)
            found = await take_turns(appends.contestants(), rounds=plan.rounds, shown=COMPARED, measured=measured)
    return occasion.results(
        "append",
        rounds=plan.rounds,
        settings={"requests": plan.requests, "tasks": plan.tasks, "entry_bytes": appends.entry_bytes},
        grouped_by="appended",
        groups={
            ONE: Duel.of(found[OURS_ONE], {XADD: found[XADD]}, compared=COMPARED),
            MANY: Duel.of(found[OURS_MANY], {PIPELINE: found[PIPELINE]}, compared=COMPARED),
        },
        notes=[NOTE],
        machine=machine,
        versions=versions,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Appends:
    """What everybody appends to the same stream, and how."""

    redis: Redis
    servers: Servers
    tasks: int
    requests: Sequence[WriteRequest]
    fields: Sequence[Fields]
    """Of the entries of `requests`."""

    @classmethod
    async def prepare(cls, redis: Redis, servers: Servers, requests: int, plan: AppendPlan) -> "Appends":
        """Make so many requests and encode them."""
        made = [one for one, _ in requests_of(CaseTraits(confirm_by=ConfirmBy.SIGNAL), range(requests), 1)]
        codec = Codec(DataConverter.default)
        fields = [await codec.encode(request) for request in made]
        return cls(redis=redis, servers=servers, tasks=plan.tasks, requests=made, fields=fields)

    @property
    def entry_bytes(self) -> int:
        """Mean size of an entry, names and values of its fields."""
        return round(sum(map(size_of, self.fields)) / len(self.fields))

    def contestants(self) -> dict[str, Measure]:
        """Return who appends, by name."""
        stream = _keys().stream_key
        producer = Producer(self.redis, DataConverter.default, namespace=NAMESPACE)

        async def submit(requests: Sequence[WriteRequest]) -> None:
            answers = await producer.append(Submission(queue=WORK_QUEUE.name, requests=list(requests)))
            if refused := next((answer.refused for answer in answers if answer.entry is None), None):
                raise WrongWork(f"A request was not appended: {refused}")

        async def xadd(fields: Sequence[Fields]) -> None:
            await plain_append.append(self.redis, stream, fields[0])

        async def xadd_all(fields: Sequence[Fields]) -> None:
            await plain_append.append_all(self.redis, stream, fields)

        return {
            OURS_ONE: lambda: self._measure(submit, _chunks(self.requests, 1)),
            XADD: lambda: self._measure(xadd, _chunks(self.fields, 1)),
            OURS_MANY: lambda: self._measure(submit, _chunks(self.requests, AT_ONCE)),
            PIPELINE: lambda: self._measure(xadd_all, _chunks(self.fields, AT_ONCE)),
        }

    async def _measure(
        self, append: Callable[[Sequence[T]], Awaitable[None]], chunks: Iterator[Sequence[T]]
    ) -> Readings:
        await self.redis.delete(*_keys().keys)
        stopwatch = Stopwatch.begin(self.servers)
        await work_off(chunks, append, tasks=self.tasks)
        sample = stopwatch.end(len(self.requests))
        await self._check()
        return sample.readings(UNIT)

    async def _check(self) -> None:
        """Raise `WrongWork` unless the stream has an entry with these bytes for each request, and no other."""
        expected = {fields[b"id"]: fields for fields in self.fields}
        entries = 0
        found: dict[bytes, Fields] = {}
        after = "-"
        while page := await _page(self.redis, after):
            entries += len(page)
            for _, fields in page:
                request_id = fields.get(b"id", b"")
                wanted = expected.get(request_id, {})
                found[request_id] = {name: value for name, value in fields.items() if name in wanted}
            after = f"({page[-1][0].decode()}"
        if entries != len(self.fields) or found != expected:
            same = sum(fields == expected.get(request_id) for request_id, fields in found.items())
            raise WrongWork(
                f"The stream has {entries} entries, {same} of them as appended; expected were {len(self.fields)}."
            )


async def announce_contract(redis: Redis, *, max_backlog: int) -> None:
    """Announce a contract as a batcher does; its streams take `max_backlog` entries."""
    settings = Settings.model_construct()  # the defaults, without looking at the environment
    terms = Terms(
        sink_id="bench",
        partitions=1,
        tables={PLAIN.table: "insert"},
        max_wait_ms=round(settings.max_wait.total_seconds() * 1000),
        max_items=settings.max_items,
        max_request_bytes=settings.max_request_bytes,
        max_backlog=max_backlog,
    )
    await ContractStore(redis, WORK_QUEUE).announce("bench", terms)


async def _page(redis: Redis, after: str) -> list[tuple[bytes, Fields]]:
    page: Any = await redis.xrange(_keys().stream_key, min=after, count=READ_AT_ONCE)
    return list(page)


def _keys() -> PartitionKeys:
    return PartitionKeys(WORK_QUEUE, 0)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
