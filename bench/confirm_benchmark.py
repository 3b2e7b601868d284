"""The benchmark of confirming: the drain's last stage on a real Temporal, beside bare calls of the SDK."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from redis.asyncio import Redis
from temporalio.client import Client
from temporalio.converter import DataConverter

from write_batcher.activities.drain.bell import Bell
from write_batcher.activities.drain.confirm import Confirmation, Confirmer
from write_batcher.activities.drain.lane import Lane
from write_batcher.activities.drain.progress import Progress
from write_batcher.activities.drain.receipt_sender import ReceiptSender
from write_batcher.bench.bench_results import BenchResults
from write_batcher.bench.cases import CaseTraits
from write_batcher.bench.confirm_plan import CONCURRENCIES, MODES, ConfirmPlan
from write_batcher.bench.duel_figures import Duel, Readings
from write_batcher.bench.filled_queue import WORK_QUEUE, requests_of
from write_batcher.bench.floors import plain_confirm
from write_batcher.bench.floors.plain_confirm import Receipts
from write_batcher.bench.occasion import Occasion
from write_batcher.bench.own_drain import limits_of
from write_batcher.bench.sample import Servers, Stopwatch
from write_batcher.bench.surroundings import describe_machine, describe_versions, temporal_version
from write_batcher.bench.turns import Measured, in_turn, told
from write_batcher.bench.waiting_callers import WaitingCallers
from write_batcher.errors import WrongWork
from write_batcher.models import ConfirmBy, FlushReason, Outcome, WriteReceipt
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Codec
from write_batcher.workers.embedded.local_stack import data_folder
from write_batcher.workers.embedded.redis_server import RedisServer
from write_batcher.workers.embedded.temporal_server import NAMESPACE, TemporalServer

UNIT, COMPARED = "confirmation", "confirmations_per_s"
OURS = "ours"
ALL_BYTES = 2**40
WARM_UP_CALLERS = 32
NOTE = (
    "Ours also removes each batch from the stream once its callers have their receipts; the floor has no stream. No "
    "worker runs the callers meanwhile."
)


async def measure_confirm(plan: ConfirmPlan, measured: Measured) -> BenchResults:
    """Measure on a Temporal and a Redis of our own, both in a temporary folder.

    Raises what `Server.start` raises, and `WrongWork` when not every caller got exactly one receipt.
    """
    occasion = Occasion()
    with data_folder(None) as folder:
        async with (
            RedisServer(folder) as redis_server,
            TemporalServer(folder, in_memory=True) as temporal_server,
            connect(redis_server.url) as redis,
        ):
            client = await Client.connect(temporal_server.address, namespace=NAMESPACE)
            machine = describe_machine(folder)
            versions = describe_versions(redis_server.url, None) | await temporal_version(client)
            track = _Track(
                client=client,
                redis=redis,
                servers={"temporal": temporal_server.pid, "redis": redis_server.pid},
                batch_size=plan.batch_size,
            )
            for mode in MODES:
                await track.round(mode, min(plan.callers, WARM_UP_CALLERS), lambda _: None)
            found: dict[ConfirmBy, list[dict[str, Readings]]] = {mode: [] for mode in MODES}
            for number in range(plan.rounds):
                for mode in MODES:
                    found[mode].append(await track.round(mode, plan.callers, measured, number=number))
    return occasion.results(
        "confirm",
        rounds=plan.rounds,
        settings={"callers": plan.callers, "batch_size": plan.batch_size},
        grouped_by="mode",
        groups={str(mode): _duel(rounds) for mode, rounds in found.items()},
        notes=[NOTE],
        machine=machine,
        versions=versions,
    )


def _duel(rounds: Sequence[dict[str, Readings]]) -> Duel:
    floors = {name: [one[name] for one in rounds] for name in rounds[0] if name != OURS}
    return Duel.of([one[OURS] for one in rounds], floors, compared=COMPARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Track:
    client: Client
    redis: Redis
    servers: Servers
    batch_size: int

    async def round(self, mode: ConfirmBy, callers: int, measured: Measured, *, number: int = 0) -> dict[str, Readings]:
        """Measure everybody once, each with callers of its own, which have been started together."""
        contestants: dict[str, Callable[[WaitingCallers], Awaitable[Readings]]] = {OURS: self._ours}
        for at_once in CONCURRENCIES:
            contestants[f"{at_once} bare calls at once"] = partial(self._floor, at_once=at_once)
        waiting = await WaitingCallers.start(self.client, mode, callers * len(contestants))
        found = {}
        for (name, measure), theirs in zip(in_turn(contestants, number), waiting.parts(callers), strict=True):
            found[name] = await measure(theirs)
            measured(told(f"{mode}, {name}", found[name], COMPARED))
        await waiting.check(receipts_each=1)
        await waiting.end()
        return found

    async def _floor(self, callers: WaitingCallers, *, at_once: int) -> Readings:
        receipts: Receipts = [(one, _receipt(f"order-{number}")) for number, one in enumerate(callers.addresses)]
        stopwatch = Stopwatch.begin({"temporal": self.servers["temporal"]})
        await plain_confirm.confirm(self.client, receipts, at_once=at_once)
        return stopwatch.end(len(receipts)).readings(UNIT)

    async def _ours(self, callers: WaitingCallers) -> Readings:
        stream = WriteQueue(self.redis, WORK_QUEUE, 0)
        confirmations = await self._delivered(stream, callers)
        progress = Progress()
        confirmer = Confirmer(
            stream, ReceiptSender(self.client), Lane(Bell()), limits_of(self.batch_size), progress, asyncio.Event()
        )
        batches: asyncio.Queue[list[Confirmation] | None] = asyncio.Queue()
        for first in range(0, len(confirmations), self.batch_size):
            batches.put_nowait(confirmations[first : first + self.batch_size])
        batches.put_nowait(None)
        stopwatch = Stopwatch.begin(self.servers)
        await confirmer.run(batches)
        sample = stopwatch.end(len(confirmations))
        confirmed = progress.snapshot(in_flight=0, held=0, full=None, throttled=None).confirmed
        left = (await stream.statistics()).backlog
        if confirmed != len(callers.addresses) or left:
            raise WrongWork(
                f"The drain confirmed {confirmed} of {len(callers.addresses)} callers and left {left} entries."
            )
        return sample.readings(UNIT)

    async def _delivered(self, stream: WriteQueue, callers: WaitingCallers) -> list[Confirmation]:
        """Append a request of each caller, read it as the drain does, and return what is to be confirmed."""
        codec, count = Codec(DataConverter.default), len(callers.addresses)
        requests = [
            replace(request, reply=address)
            for (request, _), address in zip(requests_of(CaseTraits(), range(count), 1), callers.addresses, strict=True)
        ]
        await self.redis.delete(*stream.keys)
        await stream.append_all([await codec.encode(request) for request in requests], max_backlog=count)
        await stream.ensure_group()
        entries = await stream.read_new(after="0", count=count, max_bytes=ALL_BYTES)
        now = asyncio.get_running_loop().time()
        return [
            Confirmation(entry=entry, reply=request.reply, receipt=_receipt(request.request_id), written_at=now)
            for entry, request in zip(entries, requests, strict=True)
        ]


def _receipt(request_id: str) -> WriteReceipt:
    """A receipt with everything that one has in production."""
    return WriteReceipt(
        request_id=request_id,
        outcome=Outcome.WRITTEN,
        queue=str(WORK_QUEUE),
        record_hash="0123456789abcdef" * 4,
        attempt="1f-1",
        batch_id=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-00000001",
        batch_size=100,
        flush_reason=FlushReason.SIZE,
        queued_ms=40,
        write_ms=5,
        confirm_ms=10,
    )
