"""Outages of the database that outlast a run of the batcher, and batchers that were terminated."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from tests.support.signal_callers import Batching, FailingSink, batching, confirmations_of, limits, request, settings_of
from tests.support.target_databases import SqliteDatabase
from tests.support.waiting import eventually
from write_batcher.compare.signal_batcher import batcher_workflow, roles
from write_batcher.compare.signal_batcher.batcher_limits import BatcherLimits
from write_batcher.compare.signal_batcher.batcher_monitor import Monitor
from write_batcher.compare.signal_batcher.roles import start_missing_batchers
from write_batcher.compare.signal_batcher.wire import Confirmation, Status
from write_batcher.config import Settings
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Batch
from write_batcher.workers.embedded.temporal_server import TemporalServer

pytestmark = pytest.mark.thorough

REQUESTS = 1_000
MAILBOXES = 5
TERMINATED_AT_EVENTS = 1_500  # by the server


@pytest.fixture
def settings(name: str, sqlite: SqliteDatabase) -> Settings:
    return settings_of(name, sqlite)


class Outage:
    """A hook that fails writes until the outage is over."""

    def __init__(self) -> None:
        self.is_over = False

    def __call__(self, _batch: Batch) -> None:
        if not self.is_over:
            raise SinkUnavailable("database is down")


async def test_outage_that_outlasts_a_run_loses_no_accepted_request(
    tmp_path: Path, settings: Settings, sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_workflow, "MAX_CARRIED_BYTES", 50_000)  # about 100 requests
    events = {"suggestContinueAsNew": 150, "warn": TERMINATED_AT_EVENTS - 1, "error": TERMINATED_AT_EVENTS}
    few = [part for name, count in events.items() for part in _dynamic_config(f"limit.historyCount.{name}={count}")]
    outage = Outage()
    async with TemporalServer(tmp_path, in_memory=True, extra=few) as server, sqlite.sink() as sink:
        client = await Client.connect(server.address)
        boxes = [await _mailbox(client, f"mailbox-{number}") for number in range(MAILBOXES)]
        failing = FailingSink(sink, before=outage)
        async with batching(client, settings, failing, limits(max_items=20, write_attempts=1_000)) as batch:
            for first in range(0, REQUESTS, REQUESTS // 5):
                wave = range(first, first + REQUESTS // 5)
                await batch.signal(*(request(number, caller=f"mailbox-{number % MAILBOXES}") for number in wave))
            await eventually(lambda: _cycle_is_above(batch, 2))
            assert failing.writes > 1
            assert sqlite.count("orders") == 0
            outage.is_over = True
            await eventually(batch.is_idle, within_s=40)
            await eventually(lambda: _all_are_told(boxes))
            told = [one for box in boxes for one in await _confirmations(box)]
            assert (await batch.batcher().describe()).status is WorkflowExecutionStatus.RUNNING
    assert len({one.request_id for one in told}) == len(told) == REQUESTS
    written = {request_id for (request_id,) in sqlite.ledger("request_id")}
    assert {one.request_id for one in told if one.status is Status.SUCCESS} == written
    assert len(written) == sqlite.count("orders") >= 20
    refused = [one for one in told if one.status is Status.FAILED]
    assert all(one.is_certain and (one.error or "").startswith("the batcher is full: ") for one in refused)


def _dynamic_config(setting: str) -> tuple[str, str]:
    return ("--dynamic-config-value", setting)


async def _mailbox(client: Client, name: str) -> WorkflowHandle[Any, Any]:
    """Start a workflow whose history keeps the confirmations that it gets; no worker runs it."""
    return await client.start_workflow("mailbox", id=name, task_queue="without-a-worker")


async def _all_are_told(boxes: Iterable[WorkflowHandle[Any, Any]]) -> bool:
    return sum([len(await _confirmations(box)) for box in boxes]) >= REQUESTS


async def _confirmations(box: WorkflowHandle[Any, Any]) -> list[Confirmation]:
    return [
        Confirmation.parse(json.loads(event.workflow_execution_signaled_event_attributes.input.payloads[0].data))
        async for event in box.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]


async def _cycle_is_above(batch: Batching, cycle: int) -> bool:
    return (await batch.stats()).continue_as_new_cycle > cycle


async def test_batch_in_retry_is_handed_over_with_its_attempts(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    tried: list[tuple[str, int]] = []

    def fail(batch: Batch) -> None:
        tried.append((batch.batch_id, len(batch.requests)))
        raise SinkUnavailable("database is down")

    async with sqlite.sink() as sink:
        few = limits(max_items=2, max_wait_s=60, signals_per_run=4, write_attempts=4)
        async with batching(client, settings, FailingSink(sink, before=fail), few) as batch:
            callers = await batch.call(range(2))
            await eventually(lambda: len(tried) >= 1)
            await batch.signal(request(2), request(3))
            await eventually(lambda: _cycle_is_above(batch, 0))
            assert (await batch.stats()).processed_batches == 0
            confirmations = await confirmations_of(callers)
    assert [one.status for one in confirmations] == ["failed"] * 2
    assert len(set(tried[:4])) == 1
    rejected = sqlite.query("SELECT decisions FROM write_batcher_ledger WHERE outcome = 'rejected'")
    assert len(rejected) == 2
    assert all("given up after 4 attempts: " in decisions for (decisions,) in rejected)


async def test_shorter_max_wait_closes_the_open_batch(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    async with sqlite.sink() as sink, batching(client, settings, sink, limits(max_wait_s=3600)) as batch:
        await batch.signal(request(1))
        await eventually(lambda: _has_timer(batch))
        await batch.batcher().signal("configure", BatcherLimits(max_wait_s=0.5))
        await eventually(lambda: sqlite.count("orders") == 1)


async def _has_timer(batch: Batching) -> bool:
    kinds = [event.event_type async for event in batch.batcher().fetch_history_events()]
    return EventType.EVENT_TYPE_TIMER_STARTED in kinds


async def test_terminated_batcher_is_reported_and_started_again(
    client: Client, settings: Settings, sqlite: SqliteDatabase
) -> None:
    monitor = Monitor(client, settings.queue, 1)
    async with sqlite.sink() as sink, batching(client, settings, sink) as batch:
        run_id = (await batch.batcher().describe()).run_id
        await start_missing_batchers(client, settings, limits())
        assert (await batch.batcher().describe()).run_id == run_id
        await batch.batcher().terminate()
        [view] = await monitor.look()
        assert (view.state, view.stats) == ("terminated", None)
        assert "has ended (terminated)" in (view.problem or "")
        await start_missing_batchers(client, settings, limits())
        await batch.signal(request(1))
        await eventually(lambda: sqlite.count("orders") == 1)
        assert [view.problem for view in await monitor.look()] == [None]


async def test_replay_of_a_long_run_has_more_time_than_the_default(client: Client, settings: Settings) -> None:
    await roles.start_batchers(client, settings)
    handle = client.get_workflow_handle(f"{settings.queue}/batcher-main")
    started = await anext(handle.fetch_history_events())
    timeout = started.workflow_execution_started_event_attributes.workflow_task_timeout
    assert timeout.ToTimedelta() == batcher_workflow.TASK_TIMEOUT
