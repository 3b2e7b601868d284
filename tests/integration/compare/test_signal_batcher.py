"""The batcher workflow of the older design, used by callers of the original demo."""

import uuid
from collections import Counter
from typing import Any

import pytest
from temporalio.client import Client

from tests.support.order_callers import kinds_of
from tests.support.signal_callers import (
    FailingSink,
    batching,
    confirmations_of,
    limits,
    request,
    settings_of,
)
from tests.support.target_databases import SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.compare.signal_batcher.roles import make_batcher_worker, start_batchers
from write_batcher.config import Settings
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Batch, WriteRequest


@pytest.fixture
def settings(name: str, sqlite: SqliteDatabase) -> Settings:
    return settings_of(name, sqlite)


async def test_caller_of_the_original_is_confirmed_by_batcher_main(
    client: Client, name: str, sqlite: SqliteDatabase
) -> None:
    settings = settings_of("default", sqlite, main_task_queue=name)
    order = request(7, caller=name, request_id=uuid.uuid4().hex)
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
        assert batch.batcher().id == "batcher-main"
        [confirmation] = await confirmations_of([await batch.start_caller(name, order)])
        assert await batch.batcher().query("is_request_processed", order["request_id"]) is True
        assert await batch.batcher().query("is_request_processed", "another") is False
        await batch.batcher().terminate()
    assert (confirmation.status, confirmation.count, confirmation.batch_size) == ("success", 1, 1)
    assert sqlite.query("SELECT order_id, cents FROM orders") == [(7, 100)]
    assert sqlite.ledger("request_id, outcome, batch_id") == [(order["request_id"], "written", confirmation.batch_id)]


async def test_many_requests_are_written_by_one_activity_in_one_transaction(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with sqlite.sink() as sink:
        counting = FailingSink(sink)
        async with batching(client, settings, counting, limits(max_wait_s=60, max_items=30)) as batch:
            confirmations = await confirmations_of(await batch.call(range(30)))
            kinds = Counter(await kinds_of(batch.batcher()))
    assert {(one.status, one.count, one.batch_size) for one in confirmations} == {("success", 30, 30)}
    assert counting.writes == kinds["activity task scheduled"] == len({one.batch_id for one in confirmations}) == 1
    assert sqlite.count("orders") == 30


async def test_batch_never_holds_more_requests_than_its_limit(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    await start_batchers(client, settings, limits(max_items=10))
    sizes: list[int] = []
    async with sqlite.sink() as sink:
        noting = FailingSink(sink, before=lambda batch: sizes.append(len(batch.requests)))
        # All requests are there before a worker takes them.
        await _signal_all(client, settings, 35)
        async with make_batcher_worker(client, settings, noting):
            await eventually(lambda: sqlite.count("orders") == 35)
    assert sizes == [10, 10, 10, 5]


async def _signal_all(client: Client, settings: Settings, count: int) -> None:
    batcher = client.get_workflow_handle(f"{settings.queue}/batcher-main")
    for number in range(count):
        await batcher.signal("add_write_request", request(number))


async def test_repeated_signal_is_written_and_confirmed_once(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    order, last = request(1, caller=name), request(2, caller=name)
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
        caller = await batch.start_caller(name, order, order, order, wanted=3)
        await eventually(lambda: sqlite.count("orders") == 1)
        await batch.signal(order, order)
        await eventually(lambda: _received(caller, 1))
        await batch.signal(last)
        await eventually(lambda: _received(caller, 2))
        assert (await batch.stats()).processed_request_ids_count == 2
    assert sqlite.count("orders") == 2


async def _received(caller: Any, count: int) -> bool:
    return len(await caller.query("received")) == count


async def test_caller_that_submits_again_is_told_the_batch_that_wrote_it(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
        first = await batch.start_caller(name, request(1, caller=name), request(1, caller=name, attempt=2), wanted=2)
        again = await confirmations_of([first])
        later = await batch.start_caller(f"{name}-2", request(1, caller=f"{name}-2", workflow_id=name, attempt=3))
        again += await confirmations_of([later])
    assert {(one.status, one.batch_id) for one in again} == {("success", again[0].batch_id)}
    assert sqlite.count("orders") == 1


async def test_forgotten_duplicate_is_answered_by_the_database(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
        [first] = await confirmations_of([await batch.start_caller(name, request(1, caller=name))])
        await batch.batcher().terminate()
        await start_batchers(client, settings, limits(max_items=1))
        assert (await batch.stats()).processed_request_ids_count == 0
        [again] = await confirmations_of([await batch.start_caller(name, request(1, caller=name))])
    assert (again.status, again.batch_id) == ("success", first.batch_id)
    assert sqlite.count("orders") == 1


GOOD = request(1)
MALFORMED: list[list[Any]] = [
    [],
    *([value] for value in (None, "text", 17, True, [GOOD], {}, {"request": GOOD})),
    *([{name: GOOD[name] for name in GOOD if name != missing}] for missing in list(GOOD)[:4]),
    *([GOOD | {name: wrong}] for name in GOOD for wrong in (None, ["x"])),
    *([GOOD | {name: ""}] for name in ("workflow_id", "request_id", "data")),
    *([GOOD | {"requesting_workflow": wrong}] for wrong in ("x" * 1001, "\ud800")),
    *([GOOD | {"attempt": wrong}] for wrong in (True, -1, 2**63)),
    [GOOD | {"request_id": "a\0b"}],
    [GOOD | {"data": []}],
]


async def test_malformed_requests_are_ignored_and_do_not_wedge_the_batcher(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"in": deep}
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
        for arguments in [*MALFORMED, [GOOD | {"data": deep}]]:
            await batch.batcher().signal("add_write_request", args=arguments)
        await batch.batcher().signal("configure", {"max_items": 0})
        await batch.batcher().signal("configure", args=["nothing", 3])
        await batch.batcher().signal("no_such_signal", 1)
        await batch.signal(request(2))
        await batch.batcher().signal("add_write_request", args=[request(3), "more", 4])
        await eventually(lambda: sqlite.count("orders") == 2)
        await eventually(batch.is_idle)
        stats = await batch.stats()
    assert sqlite.query("SELECT order_id FROM orders ORDER BY order_id") == [(2,), (3,)]
    assert (stats.session_signals_received, stats.batch_size_limit) == (len(MALFORMED) + 3, 1)


async def test_one_bad_record_fails_one_caller(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=10, max_wait_s=60)) as batch:
        good = await batch.call(range(9))
        bad = await batch.start_caller(f"{name}-bad", request(9, caller=f"{name}-bad", cents=-1))
        confirmations = await confirmations_of([*good, bad])
    assert [one.status for one in confirmations] == ["success"] * 9 + ["failed"]
    assert {(one.count, one.batch_size) for one in confirmations} == {(9, 10)}
    assert sqlite.count("orders") == 9


async def test_request_too_large_for_a_batch_fails_only_its_caller(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    large = request(1, caller=name)
    large["data"]["note"] = "x" * 600_000
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=1)) as batch:
        [refused] = await confirmations_of([await batch.start_caller(name, large)])
        [written] = await confirmations_of(await batch.call([2]))
    assert (refused.status, written.status) == ("failed", "success")


async def test_missing_caller_does_not_affect_the_others(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with sqlite.sink() as sink, batching(client, settings, sink) as batch:
        await batch.signal(*(request(number, caller="nobody-with-this-id") for number in range(100, 120)))
        confirmations = await confirmations_of(await batch.call(range(10)))
        await eventually(lambda: sqlite.count("orders") == 30)
        kinds = Counter(await kinds_of(batch.batcher()))
    assert [one.status for one in confirmations] == ["success"] * 10
    # A missing caller is not signalled a second time.
    assert kinds["signal external workflow execution initiated"] == 30


async def test_confirmations_in_flight_never_exceed_their_limit(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    few = limits(max_items=30, max_wait_s=60, confirmations_at_once=4)
    async with sqlite.sink() as sink, batching(client, settings, sink, few) as batch:
        await confirmations_of(await batch.call(range(30)))
        kinds = await kinds_of(batch.batcher())
    pending = most = 0
    for kind in kinds:
        pending += kind == "signal external workflow execution initiated"
        pending -= kind == "external workflow execution signaled"
        most = max(most, pending)
    assert most == 4


async def test_poisoned_batch_is_given_up_and_its_callers_learn_why(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    def fail(batch: Batch) -> None:
        if any(one.record["cents"] == 13 for one in batch.requests):
            raise RuntimeError("this record breaks the driver")

    async with sqlite.sink() as sink:
        poisoned = FailingSink(sink, before=fail)
        async with batching(client, settings, poisoned, limits(max_items=1, write_attempts=2)) as batch:
            [failed] = await confirmations_of([await batch.start_caller(name, request(1, caller=name, cents=13))])
            assert poisoned.writes == 2
            [written] = await confirmations_of(await batch.call([2]))
    assert (failed.status, failed.count, written.status) == ("failed", 0, "success")
    # The ledger keeps it from being written later.
    [(outcome, error)] = sqlite.query(
        "SELECT outcome, decisions FROM write_batcher_ledger WHERE request_id = 'order-00001'"
    )
    assert outcome == "rejected"
    assert "given up after 2 attempts: " in error
    assert "this record breaks the driver" in error
    assert sqlite.query("SELECT order_id FROM orders") == [(2,)]


async def test_given_up_batch_that_was_committed_is_confirmed_as_written(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str
) -> None:
    def fail(_batch: Batch) -> None:
        raise RuntimeError("the answer was lost")

    async with sqlite.sink() as sink:
        forgetful = FailingSink(sink, after=fail)
        async with batching(client, settings, forgetful, limits(max_items=1, write_attempts=2)) as batch:
            [confirmation] = await confirmations_of([await batch.start_caller(name, request(1, caller=name))])
    assert (confirmation.status, confirmation.count) == ("success", 1)
    assert sqlite.count("orders") == 1


async def test_batch_is_given_up_even_if_the_database_cannot_be_asked(
    client: Client, settings: Settings, sqlite: SqliteDatabase, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("write_batcher.compare.signal_batcher.batcher_workflow.SETTLE_ATTEMPTS", 1)

    def fail(_: Batch | WriteRequest) -> None:
        raise SinkUnavailable("database is down")

    async with sqlite.sink() as sink:
        down = FailingSink(sink, before=fail, settling=fail)
        async with batching(client, settings, down, limits(max_items=1, write_attempts=1)) as batch:
            [confirmation] = await confirmations_of([await batch.start_caller(name, request(1, caller=name))])
    assert (confirmation.status, confirmation.count) == ("failed", 0)


async def test_outage_shorter_than_the_attempts_fails_no_caller(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    failures = iter(["database is down"])

    def fail(_batch: Batch) -> None:
        if reason := next(failures, None):
            raise SinkUnavailable(reason)

    async with (
        sqlite.sink() as sink,
        batching(client, settings, FailingSink(sink, before=fail), limits(max_items=5)) as batch,
    ):
        confirmations = await confirmations_of(await batch.call(range(5)))
    assert [one.status for one in confirmations] == ["success"] * 5
    assert sqlite.count("orders") == 5


async def test_starting_worker_sends_its_limits_to_a_running_batcher(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_items=5)) as batch:
        run_id = (await batch.batcher().describe()).run_id
        assert (await batch.stats()).batch_size_limit == 5
        await start_batchers(client, settings, limits(max_items=6))
        assert (await batch.stats()).batch_size_limit == 6
        assert (await batch.batcher().describe()).run_id == run_id
