"""Whatever callers submit, the database holds exactly what the receipts report."""

import asyncio
import tempfile
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings, strategies as st
from temporalio.converter import DataConverter
from temporalio.testing import ActivityEnvironment

from tests.support.fakes import FakeTemporal, contract_of
from tests.support.redis_kinds import AnyRedis
from tests.support.target_databases import SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.loop import Drain
from write_batcher.errors import InvalidRequest
from write_batcher.models import Outcome, PartitionRef, QueueRef, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.queue.redis_client import connect
from write_batcher.queue.stream import WriteQueue
from write_batcher.queue.wire_form import Codec
from write_batcher.sinks.sql.table_faults import MIN_ALIKE

CODEC = Codec(DataConverter.default)
BATCH = BatchLimits(
    max_items=7,
    max_bytes=100_000,
    max_wait=timedelta(milliseconds=20),
    max_request_bytes=100_000,
    max_dead_letters=100,
    dead_letter_retention=timedelta(days=1),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
columns = {"order_id": st.integers(0, 50) | json_values, "cents": st.integers(0, 10**6) | json_values}
records = st.fixed_dictionaries(columns) | st.dictionaries(
    st.sampled_from(["order_id", "cents", "note", "no such column"]) | st.text(max_size=5), json_values, max_size=4
)


# Fewer than the sink takes for the fault of their table when they are refused alike: it would hold them.
@settings(max_examples=15)
@given(st.lists(records, min_size=1, max_size=MIN_ALIKE - 1))
def test_rows_match_the_receipts_whatever_the_records_are(
    redis_server: AnyRedis, submitted: list[dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = SqliteDatabase(Path(folder))
        requests = [
            WriteRequest(
                request_id=f"request-{number}",
                table="orders",
                record=record,
                reply=ReplyAddress(workflow_id=f"caller-{number}", run_id="run", attempt="run"),
            )
            for number, record in enumerate(submitted)
        ]
        receipts = asyncio.run(written(database, redis_server.url, requests))
        assert all(receipt.outcome in (Outcome.WRITTEN, Outcome.REJECTED) for receipt in receipts.values())
        assert all(
            (receipt.error is not None) == (receipt.outcome is Outcome.REJECTED) for receipt in receipts.values()
        )
        reported = [r.record for r in requests if receipts[r.request_id].outcome is Outcome.WRITTEN]
        rows = database.query("SELECT order_id, cents FROM orders")
        assert sorted(rows) == sorted((int(one["order_id"]), int(one["cents"])) for one in reported)


async def written(database: SqliteDatabase, redis_url: str, requests: list[WriteRequest]) -> dict[str, WriteReceipt]:
    """Send requests through the whole path except Temporal: encode, append, take, write, confirm, acknowledge."""
    ref = QueueRef(namespace="fake", name=f"any-{uuid.uuid4().hex[:8]}")
    receipts: dict[str, WriteReceipt] = {}
    temporal = FakeTemporal()
    async with (
        asyncio.timeout(60),
        connect(redis_url) as redis,
        connect(redis_url, longest_block=timedelta(seconds=2)) as reader,
        database.sink(["orders"]) as sink,
    ):
        queue = WriteQueue(redis, ref, 0, reader=reader)
        for request in requests:
            try:
                await queue.append(await CODEC.encode(request), max_backlog=1000)
            except InvalidRequest as error:
                receipts[request.request_id] = WriteReceipt(
                    request_id=request.request_id, outcome=Outcome.REJECTED, error=str(error)
                )
        drain = Drain(
            PartitionRef(queue=ref.name, partition=0),
            ref=ref,
            queue=queue,
            sink=sink,
            limits=BATCH,
            contract=lambda: contract_of(sink),
            client=temporal.client,
        )
        draining = asyncio.create_task(ActivityEnvironment().run(drain.run))

        async def is_empty() -> bool:
            return (await queue.statistics()).backlog == 0

        await eventually(is_empty)
        drain.stop()
        await queue.append_flush()  # wakes the reader
        await draining
    for request in requests:
        received = temporal.receipts(f"caller-{request.request_id.removeprefix('request-')}")
        assert len(received) <= 1
        receipts |= {receipt.request_id: receipt for receipt in received}
    return receipts
