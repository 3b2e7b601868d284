"""The audit at the end of every fault test: no write is lost or doubled, and no caller was told anything untrue."""

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
from write_batcher.workers.embedded.starter import root_failure
from write_batcher.workflows.main import MainResult, MainWorkflow

Handle = WorkflowHandle[MainWorkflow, MainResult]

NOT_WRITTEN = ("WriteRejected", "WriteNotSubmitted", "WriteNotConfirmed")
LEDGER_OUTCOMES = {"WriteRejected": Outcome.REJECTED, "WriteNotConfirmed": Outcome.WITHDRAWN}
RETRY_AFTER_S = 0.2
EMPTY_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerOutcomes:
    """What each caller ended with, by workflow id."""

    results: dict[str, MainResult] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Error type and message."""

    @property
    def completed(self) -> int:
        return len(self.results)

    @property
    def failure_types(self) -> Counter[str]:
        return Counter(kind for kind, _message in self.failures.values())

    @property
    def max_latency_ms(self) -> int:
        return max((result.latency_ms for result in self.results.values()), default=0)


async def outcomes_of(handles: Iterable[Handle], *, within_s: float) -> CallerOutcomes:
    """Wait until all callers have ended, through outages of Temporal."""
    outcomes = CallerOutcomes()

    async def wait(handle: Handle) -> None:
        while True:
            try:
                outcomes.results[handle.id] = await handle.result()
            except WorkflowFailureError as error:
                outcomes.failures[handle.id] = root_failure(error)
            except RPCError:
                await asyncio.sleep(RETRY_AFTER_S)
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
    return outcomes


async def check(
    database: Database,
    redis: Redis,
    queues: Sequence[WriteQueue],
    outcomes: CallerOutcomes,
    *,
    counters: bool,
    runs: int = 1,
) -> None:
    """Run the whole audit."""
    # The streams first: what is still in one of them may be written after its caller has failed.
    for queue in queues:
        await check_stream(queue, redis)
    check_database(database, outcomes, runs=runs)
    if counters:
        await check_counters(database, queues)


async def check_stream(queue: WriteQueue, redis: Redis) -> None:
    """Check that the stream, its pending list and its markers are empty, or become so."""

    async def is_empty() -> bool:
        statistics = await queue.statistics()
        markers = await redis.exists(queue.live_key, queue.alone_key, queue.held_key, queue.orders_key)
        return (statistics.backlog, statistics.pending, markers) == (0, 0, 0)

    await eventually(is_empty, within_s=EMPTY_WITHIN_S)


def lost_and_doubled(
    rows: Counter[str], outcomes: CallerOutcomes, *, runs: int = 1
) -> tuple[Counter[str], Counter[str]]:
    """How many rows each caller with a receipt lacks, and how many rows each caller has too many."""
    lost = Counter(dict.fromkeys(outcomes.results, runs)) - rows
    doubled = rows - Counter(dict.fromkeys(rows, runs))
    return lost, doubled


def rows_by_caller(database: Database) -> Counter[str]:
    return Counter(dict(database.query("SELECT workflow_id, count(*) FROM main_writes GROUP BY workflow_id")))


def check_database(database: Database, outcomes: CallerOutcomes, *, runs: int = 1) -> None:
    """Check that rows, ledger and callers agree: each write is there once, or its caller was told otherwise.

    Each workflow id has had `runs` runs that wrote; `outcomes` are those of the last ones.
    """
    rows = rows_by_caller(database)
    lost, doubled = lost_and_doubled(rows, outcomes, runs=runs)
    assert not doubled, f"doubled: {dict(doubled)}"
    assert not lost, f"lost: {dict(lost)}"
    lied_to = [caller for caller, (kind, _) in outcomes.failures.items() if kind in NOT_WRITTEN and rows[caller]]
    assert not lied_to, f"written although their callers were told otherwise: {lied_to}"
    unknown = rows.keys() - outcomes.results.keys() - outcomes.failures.keys()
    assert not unknown, f"rows of callers that were never started: {unknown}"
    ledger = {
        request_id: (Outcome(outcome), batch_id)
        for request_id, outcome, batch_id in database.ledger("request_id, outcome, batch_id")
    }
    for caller, result in outcomes.results.items():
        assert ledger[result.request_id] == (Outcome.WRITTEN, result.batch_id), f"{caller} has another receipt"
    written = Counter(
        caller_of(request_id) for request_id, (outcome, _) in ledger.items() if outcome is Outcome.WRITTEN
    )
    assert written == rows, f"a row without a ledger entry, or the reverse: {(written - rows) + (rows - written)}"
    ledger_outcomes = {caller_of(request_id): outcome for request_id, (outcome, _) in ledger.items()}
    for caller, (kind, _) in outcomes.failures.items():
        found = ledger_outcomes.get(caller)
        assert found is LEDGER_OUTCOMES.get(kind, found), f"{caller} failed with {kind}, the ledger says {found}"


def caller_of(request_id: str) -> str:
    """Default request ids are `<workflow id>/<run>/<number>`."""
    return request_id.rsplit("/", 2)[0]


async def check_counters(database: Database, queues: Sequence[WriteQueue]) -> None:
    """Check that the counters add up, and agree with the database and the dead letters.

    Does not hold after Redis has lost data.
    """
    counted: Counter[str] = Counter()
    dead = 0
    for queue in queues:
        statistics = await queue.statistics()
        counted.update(statistics.counters)
        dead += statistics.dead
    accounted_for = sum(counted[name] for name in ("written", "duplicate", "rejected", "withdrawn", "dead"))
    assert counted["appended"] == accounted_for, counted
    rows = database.count("main_writes")
    assert counted["written"] <= rows <= counted["written"] + counted["duplicate"], (rows, counted)
    assert counted["rejected"] + counted["dead"] == dead, (dead, counted)
