"""Any history of batches and settlements leaves the rows that its receipts speak of."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.databases import Database, PostgresDatabase, SqliteDatabase, batch, order
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.workers.postgres import PostgresServer


@dataclass(frozen=True)
class Settle:
    request: WriteRequest


History = list[list[WriteRequest] | Settle]

requests = st.builds(
    order,
    st.integers(0, 5),
    request_id=st.sampled_from("abcdef"),
    attempt=st.sampled_from(["run-1", "run-2"]),
    cents=st.sampled_from([1, 2, -1, "one", 2**70]),
)
batches = st.lists(requests, max_size=6, unique_by=lambda request: request.request_id)
histories = st.lists(st.one_of(batches, st.builds(Settle, requests)), max_size=8)


@settings(max_examples=25)
@given(histories)
def test_rows_are_what_the_receipts_say_on_sqlite(history: History) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(SqliteDatabase(Path(folder)), history)


@settings(max_examples=15)
@given(history=histories)
def test_rows_are_what_the_receipts_say_on_postgresql(postgres_server: PostgresServer, history: History) -> None:
    check(PostgresDatabase.fresh(postgres_server), history)


def check(database: Database, history: History) -> None:
    written: dict[str, tuple[WriteRequest, str | None]] = {}
    withdrawn: set[tuple[str, str | None]] = set()
    for request, receipt in asyncio.run(answers(database, history)):
        assert receipt.request_id == request.request_id
        assert request.reply is not None
        assert receipt.attempt == request.reply.attempt
        assert (receipt.error is not None) == (receipt.outcome is Outcome.REJECTED)
        binding = (request.request_id, receipt.attempt)
        known = written.get(request.request_id)
        match receipt.outcome:
            case Outcome.WRITTEN if known is None:
                assert binding not in withdrawn
                written[request.request_id] = request, receipt.batch_id
            case Outcome.DUPLICATE | Outcome.WRITTEN:
                assert known is not None
                assert (request.record, receipt.batch_id) == (known[0].record, known[1])
            case Outcome.WITHDRAWN:
                assert known is None
                # One row per id: the withdrawal of another run replaces it.
                withdrawn = {(request_id, run) for request_id, run in withdrawn if request_id != request.request_id}
                withdrawn.add(binding)
            case Outcome.REJECTED if known is None:
                withdrawn.discard((request.request_id, "run-2" if receipt.attempt == "run-1" else "run-1"))
    rows = database.query("SELECT order_id, cents FROM orders")
    assert sorted(rows) == sorted((r.record["order_id"], r.record["cents"]) for r, _ in written.values())


async def answers(database: Database, history: History) -> list[tuple[WriteRequest, WriteReceipt]]:
    async with database.sink(["orders"]) as sink:
        answered: list[tuple[WriteRequest, WriteReceipt]] = []
        for number, step in enumerate(history):
            if isinstance(step, Settle):
                answered.append((step.request, await sink.settle(step.request)))
            else:
                receipts = await sink.write(batch(*step, batch_id=str(number)))
                answered += zip(step, receipts, strict=True)
        return answered
