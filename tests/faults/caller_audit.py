"""What must hold at the end of every fault test, whatever was broken: nothing lost, nothing doubled, nobody lied to."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import Outcome
from write_batcher.queue.stream import WriteQueue
from write_batcher.workers.embedded.starter import describe
from write_batcher.workflows.main import MainResult, MainWorkflow

Handle = WorkflowHandle[MainWorkflow, MainResult]

NOT_WRITTEN = ("WriteRejected", "WriteNotSubmitted", "WriteNotConfirmed")
LEDGER_OF = {"WriteRejected": Outcome.REJECTED, "WriteNotConfirmed": Outcome.WITHDRAWN}
ASK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What each caller was told: its receipt, or the type and the message of its failure."""

    results: dict[str, MainResult] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def completed(self) -> int:
        return len(self.results)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(kind for kind, _message in self.failures.values())

    @property
    def latest_ms(self) -> int:
        return max((result.latency_ms for result in self.results.values()), default=0)


async def told(handles: Iterable[Handle], *, within_s: float) -> Told:
    """Wait until all callers have ended, through outages of Temporal."""
    told = Told()

    async def wait(handle: Handle) -> None:
        while True:
            try:
                told.results[handle.id] = await handle.result()
            except WorkflowFailureError as error:
                told.failures[handle.id] = describe(error)
            except RPCError:
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            return

    waiting = [asyncio.create_task(wait(handle), name=handle.id) for handle in handles]
    try:
        _, late = await asyncio.wait(waiting, timeout=within_s)
        assert not late, f"{len(late)} of {len(waiting)} callers have not ended, such as {next(iter(late)).get_name()}"
        await asyncio.gather(*waiting)
    finally:
        for task in waiting:
            task.cancel()
    return told


async def check(
    database: Database, redis: Redis, queues: Sequence[WriteQueue], told: Told, *, counters: bool, runs: int = 1
) -> None:
    """The whole audit. The streams come first: what is still in them may be written after its caller was told."""
    for queue in queues:
        await check_stream(queue, redis)
    check_database(database, told, runs=runs)
    if counters:
        await check_counters(database, queues)


async def check_stream(queue: WriteQueue, redis: Redis) -> None:
    """The stream, its pending list and its markers are empty."""

    async def is_empty() -> bool:
        statistics = await queue.statistics()
        markers = await redis.exists(queue.live_key, queue.alone_key)
        return (statistics.backlog, statistics.pending, markers) == (0, 0, 0)

    await eventually(is_empty, within_s=60)


def lost_and_doubled(rows: Counter[str], told: Told, *, runs: int = 1) -> tuple[Counter[str], Counter[str]]:
    """How many writes of each caller that has a receipt are missing, and how many rows are one too many."""
    lost = Counter(dict.fromkeys(told.results, runs)) - rows
    doubled = rows - Counter(dict.fromkeys(rows, runs))
    return lost, doubled


def rows_of_callers(database: Database) -> Counter[str]:
    return Counter(dict(database.query("SELECT workflow_id, count(*) FROM main_writes GROUP BY workflow_id")))


def check_database(database: Database, told: Told, *, runs: int = 1) -> None:
    """Rows, ledger and callers agree: each write is there once, or its caller was told otherwise. `runs` of each
    workflow id have written; `told` is what the last ones were told.
    """
    rows = rows_of_callers(database)
    lost, doubled = lost_and_doubled(rows, told, runs=runs)
    assert not doubled, f"doubled: {dict(doubled)}"
    assert not lost, f"lost: {dict(lost)}"
    lied_to = [caller for caller, (kind, _) in told.failures.items() if kind in NOT_WRITTEN and rows[caller]]
    assert not lied_to, f"written although their callers were told otherwise: {lied_to}"
    nobodys = rows.keys() - told.results.keys() - told.failures.keys()
    assert not nobodys, f"rows of callers that nobody started: {nobodys}"
    ledger = {
        request_id: (Outcome(outcome), batch_id)
        for request_id, outcome, batch_id in database.ledger("request_id, outcome, batch_id")
    }
    for caller, result in told.results.items():
        assert ledger[result.request_id] == (Outcome.WRITTEN, result.batch_id), f"{caller} has another receipt"
    written = Counter(
        _caller_of(request_id) for request_id, (outcome, _) in ledger.items() if outcome is Outcome.WRITTEN
    )
    assert written == rows, f"either a row or an entry in the ledger: {(written - rows) + (rows - written)}"
    outcomes = {_caller_of(request_id): outcome for request_id, (outcome, _) in ledger.items()}
    for caller, (kind, _) in told.failures.items():
        assert outcomes.get(caller) is LEDGER_OF.get(kind, outcomes.get(caller)), f"{caller} was told {kind}"


def _caller_of(request_id: str) -> str:
    """Default request ids are `<workflow id>/<run>/<number>`."""
    return request_id.rsplit("/", 2)[0]


async def check_counters(database: Database, queues: Sequence[WriteQueue]) -> None:
    """They add up, and agree with the database and the dead letters. Not when Redis has lost some."""
    counted: Counter[str] = Counter()
    dead = 0
    for queue in queues:
        statistics = await queue.statistics()
        counted.update(statistics.counters)
        dead += statistics.dead
    fates = sum(counted[name] for name in ("written", "duplicate", "rejected", "withdrawn", "dead"))
    assert counted["appended"] == fates, counted
    rows = database.count("main_writes")
    assert counted["written"] <= rows <= counted["written"] + counted["duplicate"], (rows, counted)
    assert counted["rejected"] + counted["dead"] == dead, (dead, counted)
