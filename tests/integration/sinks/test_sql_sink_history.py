"""Any sequence of batches and settlements leaves exactly the rows that its receipts report."""

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given, settings, strategies as st

from tests.support.target_databases import QUEUE, Database, PostgresDatabase, SqliteDatabase, batch, decided, order
from write_batcher.models import Outcome, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.workers.embedded.postgres_server import PostgresServer


@dataclass(frozen=True)
class Settle:
    request: WriteRequest


History = list[list[WriteRequest] | Settle]


def asked(request: WriteRequest, workflow_id: str, attempt: int) -> WriteRequest:
    """The request as asked by attempt number `attempt` of a workflow; later attempts ask later."""
    name = f"{workflow_id}-{attempt}-{sorted(request.record.items())}"  # an attempt has one record
    return replace(
        request, reply=ReplyAddress(workflow_id=workflow_id, run_id=name, attempt=name), asked_ms=1_000 * attempt
    )


orders = st.builds(
    order,
    st.integers(0, 5),
    request_id=st.sampled_from("abc"),
    cents=st.sampled_from([1, 2, -1, "one", 2**70]),
)
requests = st.builds(asked, orders, st.sampled_from(["first", "second"]), st.integers(1, 3))
batches = st.lists(requests, max_size=6, unique_by=lambda request: request.request_id)
histories = st.lists(st.one_of(batches, st.builds(Settle, requests)), max_size=8)


@settings(max_examples=25)
@given(histories)
def test_rows_match_the_receipts_on_sqlite(history: History) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(SqliteDatabase(Path(folder)), history)


@settings(max_examples=15)
@given(history=histories)
def test_rows_match_the_receipts_on_postgresql(postgres_server: PostgresServer, history: History) -> None:
    check(PostgresDatabase.fresh(postgres_server), history)


def check(database: Database, history: History) -> None:
    written: dict[str, tuple[WriteRequest, str | None]] = {}
    withdrawn: dict[tuple[str, str], int] = {}
    withdrawn_attempts: set[tuple[str, str]] = set()
    for request, receipt in asyncio.run(answers(database, history)):
        assert receipt.request_id == request.request_id
        assert request.reply is not None
        assert receipt.attempt == request.reply.attempt
        assert (receipt.error is not None) == (receipt.outcome is Outcome.REJECTED)
        binding, asked_ms = (request.request_id, request.reply.workflow_id), request.asked_ms or 0
        known = written.get(request.request_id)
        match receipt.outcome:
            case Outcome.WRITTEN if known is None:
                assert asked_ms >= withdrawn.get(binding, 0)
                assert (request.request_id, request.reply.attempt) not in withdrawn_attempts
                written[request.request_id] = request, receipt.batch_id
            case Outcome.DUPLICATE | Outcome.WRITTEN:
                assert known is not None
                assert (request.record, receipt.batch_id) == (known[0].record, known[1])
            case Outcome.WITHDRAWN:
                assert known is None
                withdrawn[binding] = max(asked_ms, withdrawn.get(binding, 0))
                withdrawn_attempts.add((request.request_id, request.reply.attempt))
    rows = database.query("SELECT order_id, cents FROM orders")
    assert sorted(rows) == sorted((r.record["order_id"], r.record["cents"]) for r, _ in written.values())


async def answers(database: Database, history: History) -> list[tuple[WriteRequest, WriteReceipt]]:
    async with database.sink(["orders"]) as sink:
        answered: list[tuple[WriteRequest, WriteReceipt]] = []
        for number, step in enumerate(history):
            if isinstance(step, Settle):
                answered.append((step.request, await sink.settle(step.request, queue=QUEUE)))
            else:
                receipts = await sink.write(batch(*step, batch_id=str(number)))
                answered += zip(step, decided(receipts), strict=True)
        return answered
