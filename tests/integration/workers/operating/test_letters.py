"""What an operator does with a queue: the commands, on real servers, with a batcher worker in this process."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PauseActivityRequest
from temporalio.client import Client
from temporalio.worker import Worker

from tests.integration.cli.test_command import CLEAN, COMMAND, run
from tests.support.fakes import MemorySink
from tests.support.order_callers import Order, caller, failure_of, receipts_of, start
from tests.support.redis_kinds import AnyRedis
from tests.support.waiting import eventually
from write_batcher.activities.drain import loop as loop_module, take, watch
from write_batcher.activities.drain.activity import DrainActivities
from write_batcher.activities.drain.batching import BatchLimits
from write_batcher.activities.drain.deliver import ReceiptSender
from write_batcher.activities.drain.watch import Watch
from write_batcher.activities.enqueue import EnqueueActivities
from write_batcher.errors import OperationFailed, SinkUnavailable
from write_batcher.models import Batch, ConfirmBy, Outcome, PartitionRef, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.queue.codec import Codec, Fields
from write_batcher.queue.dead_letters import DeadLetters
from write_batcher.queue.partitions import Partitions
from write_batcher.queue.stream import StreamEntry, WriteQueue
from write_batcher.sinks.protocol import Sink
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.embedded.temporal_server import TemporalServer
from write_batcher.workers.operating import control
from write_batcher.workers.operating.control import Verb, steer
from write_batcher.workers.operating.host import HostState
from write_batcher.workers.operating.letters import Letter, LetterId, QueueLetters, Selection, Told
from write_batcher.workers.operating.monitor import Monitor, PartitionView
from write_batcher.workers.plugin import passing_through
from write_batcher.workflows.batched_writes import OnRejected
from write_batcher.workflows.batcher import BatcherInput, BatcherWorkflow, batcher_workflow_id

QUICK = timedelta(milliseconds=100)
MAX_WAIT = timedelta(milliseconds=50)
WITHIN_S = 20
ALL = Selection()


class OperatorSink(MemorySink):
    """Rejects requests whose id begins with `bad`, until `repaired`; forgets a rejection when it is told to.

    `loses_answers` is how many batches are written without anybody learning of it at first.
    """

    def __init__(self) -> None:
        super().__init__(lambda request: "cents is no number" if request.request_id.startswith("bad") else None)
        self.outage: str | None = None
        self.forgotten: list[str] = []
        self.loses_answers = 0

    async def write(self, batch: Batch) -> list[WriteReceipt]:
        if self.outage:
            raise SinkUnavailable(self.outage)
        receipts = await super().write(batch)
        if self.loses_answers:
            self.loses_answers -= 1
            raise SinkUnavailable("connection lost")
        return receipts

    def repaired(self) -> None:
        self._refuse = lambda _: None

    async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        self.forgotten.append(request_id)
        known = [key for key, bound in self._bound.items() if key[0] == request_id]
        for key in known:
            if self._bound[key].outcome is Outcome.REJECTED:
                del self._bound[key]
        return bool(known)


@dataclass
class Stage:
    """One queue of one partition, its batcher, and an operator."""

    client: Client
    redis: Redis
    redis_url: str
    queue_name: str
    environment: dict[str, str]
    sink: OperatorSink = field(default_factory=OperatorSink)

    @property
    def partition(self) -> PartitionRef:
        return PartitionRef(queue=self.queue_name, partition=0)

    @property
    def queue(self) -> WriteQueue:
        return WriteQueue(self.redis, self.queue_name, 0)

    @property
    def letters(self) -> QueueLetters:
        return QueueLetters(self.redis, self.queue_name)

    @asynccontextmanager
    async def batching(
        self, max_wait: timedelta = MAX_WAIT, *, start: bool = True, sink: Sink | None = None
    ) -> AsyncIterator[None]:
        """A batcher worker; with `start` also the batcher workflow."""
        limits = BatchLimits(max_items=10, max_bytes=100_000, max_wait=max_wait)
        drains = DrainActivities(
            queue=self.queue_name,
            redis_url=self.redis_url,
            redis=self.redis,
            sink=sink or self.sink,
            limits=limits,
            partitions=1,
        )
        worker = Worker(
            self.client,
            task_queue=f"{self.queue_name}-batcher",
            workflows=[BatcherWorkflow],
            activities=[drains.drain, drains.flush],
            workflow_runner=passing_through(None),
            graceful_shutdown_timeout=timedelta(seconds=10),
            max_heartbeat_throttle_interval=QUICK,
        )
        if start:
            await self.start_batcher()
        async with worker:
            yield
            drains.stop()

    async def start_batcher(self) -> None:
        await Partitions(self.redis, self.queue_name).announce(1)
        await self.client.start_workflow(
            BatcherWorkflow.run,
            BatcherInput(partition=self.partition),
            id=batcher_workflow_id(self.partition),
            task_queue=f"{self.queue_name}-batcher",
        )

    async def append(self, *request_ids: str) -> None:
        for request_id in request_ids:
            await self.queue.append(await self.fields(request_id), max_backlog=1_000)

    async def append_foreign(self, fields: Fields) -> None:
        """Append as a foreign producer does, with a plain XADD."""
        await self.redis.xadd(self.queue.stream_key, fields)  # type: ignore[arg-type] # invariant

    async def fields(self, request_id: str) -> Fields:
        return await Codec(self.client.data_converter).encode(a_request(request_id))

    async def kill(self, fields: Fields, reason: str, partition: int = 0) -> LetterId:
        """Make a dead letter of `fields`; returns its id."""
        queue = WriteQueue(self.redis, self.queue_name, partition)
        await queue.ensure_group()
        added: Any = await self.redis.xadd(queue.stream_key, fields)  # type: ignore[arg-type] # invariant
        await queue.dead_letter(StreamEntry(entry_id=added.decode(), fields=fields), "rejected", reason)
        last = await DeadLetters(self.redis, self.queue_name, partition).last_id()
        assert last is not None
        return LetterId.parse(f"{partition}/{last}")

    async def selected(self, selection: Selection = ALL) -> list[Letter]:
        return [letter async for letter in self.letters.select(selection)]

    async def is_empty(self) -> bool:
        return (await self.queue.statistics()).backlog == 0

    async def has_dead_letters(self, number: int) -> bool:
        return (await self.queue.statistics()).dead == number

    async def seen(self, *, max_wait: timedelta = MAX_WAIT) -> PartitionView:
        monitor = Monitor(self.client, self.redis, self.queue_name, max_items=10, max_wait=max_wait)
        async with asyncio.timeout(WITHIN_S):
            [view] = await monitor.look()
        return view

    async def is_in(self, state: HostState) -> bool:
        return (await self.seen()).host.state is state

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        return await run(*arguments, environment=self.environment)


def a_request(request_id: str) -> WriteRequest:
    return WriteRequest(request_id=request_id, table="orders", record={"item": "tea"})


@pytest.fixture(autouse=True)
def _quick_reactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take, "LONGEST_BLOCK", QUICK)
    monkeypatch.setattr(watch, "BEAT_EVERY", QUICK)
    monkeypatch.setattr(loop_module, "PARTITIONS_EVERY", QUICK)
    monkeypatch.setattr(control, "LOOK_EVERY", timedelta(milliseconds=20))


@pytest.fixture
def stage(client: Client, redis: Redis, redis_server: AnyRedis, temporal_server: TemporalServer, name: str) -> Stage:
    environment = {
        "TEMPORAL_ADDRESS": temporal_server.address,
        "WRITE_BATCHER_REDIS_URL": redis_server.url,
        "WRITE_BATCHER_QUEUE": name,
        "WRITE_BATCHER_MAX_ITEMS": "10",
    }
    return Stage(client=client, redis=redis, redis_url=redis_server.url, queue_name=name, environment=environment)


async def test_counters_reconcile_through_everything_that_can_become_of_a_request(stage: Stage) -> None:
    sink = stage.sink
    await sink.settle(a_request("given-up"))
    async with stage.batching():
        await stage.append(*(f"good-{number}" for number in range(25)), "bad-1", "bad-2", "bad-3", "given-up")
        await eventually(stage.is_empty)
        sink.loses_answers = 1
        await stage.append("twice")
        await eventually(stage.is_empty)
        await stage.append_foreign(await stage.fields("good-1"))
        await stage.append("good-2")
        await stage.append_foreign({b"v": b"1", b"what": b"is this"})
        await stage.append_foreign({b"v": b"9"})
        await stage.queue.append_flush()
        await eventually(stage.is_empty)
        sink.repaired()
        for letter in await stage.selected():
            if letter.dead.request_id != "bad-3":
                await stage.letters.replay(letter, sink)
        await eventually(stage.is_empty)
        await steer(stage.client, stage.partition, Verb.PAUSE)
        await stage.append("later-1", "later-2")

        status, output, errors = await stage.command("monitor", "--once", "--json")

    assert (status, errors) == (0, "")
    [seen] = json.loads(output)["partitions"]
    outcomes = {name: seen[name] for name in ("written", "duplicate", "rejected", "withdrawn", "undecodable")}
    assert outcomes == {"written": 27, "duplicate": 3, "rejected": 3, "withdrawn": 1, "undecodable": 4}
    assert (seen["backlog"], seen["dead_letters"], seen["batcher"]) == (2, 3, "paused")
    assert seen["appended"] == sum(outcomes.values()) + seen["backlog"] == 40
    assert len(sink.rows) == seen["written"] + 1  # `twice` was told to be a duplicate
    written = {batch.batch_id: len(batch.requests) for batch in sink.batches}
    assert sum(seen["batches"].values()) == len(written)
    assert seen["fill"] == pytest.approx(sum(written.values()) / len(written) / 10)


async def test_pause_resume_flush_and_stop_take_effect_before_the_command_ends(stage: Stage) -> None:
    async with stage.batching(max_wait=timedelta(minutes=5)):
        await stage.append("first")
        await eventually(lambda: stage.is_in(HostState.RUNNING))

        assert await stage.command("queue", "pause") == (0, f"{stage.partition}: paused\n", "")
        assert [row.request_id for row in stage.sink.rows] == ["first"]
        await stage.append("second")
        status, output, _ = await stage.command("queue", "status", "--partition", "0")
        assert status == 0
        assert f"{stage.partition} batcher: paused\n" in output
        assert f"{stage.partition} backlog: 1\n" in output

        assert await stage.command("queue", "resume") == (0, f"{stage.partition}: running\n", "")
        assert await stage.command("queue", "flush") == (0, f"{stage.partition}: told to flush\n", "")
        await eventually(stage.is_empty)
        assert [row.request_id for row in stage.sink.rows] == ["first", "second"]

        status, output, _ = await stage.command("queue", "stop")
        assert (status, output) == (0, f"{stage.partition}: stopped, until a batcher worker starts again\n")
        assert (await stage.seen()).host.closed_as == "completed"


async def test_pause_that_no_worker_hears_is_reported_and_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "EFFECT_WITHIN", QUICK)
    await stage.start_batcher()
    with pytest.raises(OperationFailed, match=r"pause has been sent .* the batcher is waiting: is a batcher worker"):
        await steer(stage.client, stage.partition, Verb.PAUSE)
    async with stage.batching(start=False):
        await eventually(lambda: stage.is_in(HostState.PAUSED))


@pytest.mark.thorough
async def test_commands_tell_when_there_is_no_batcher(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(2)
    for verb in ("pause", "stop"):
        status, output, errors = await stage.command("queue", verb, "--partition", "1")
        assert (status, output) == (1, "")
        assert errors == (
            f"write-batcher: {stage.queue_name}/1: no batcher workflow is running; "
            "start one with `write-batcher worker batcher`\n"
        )
    status, output, _ = await stage.command("queue", "status")
    assert status == 0
    assert output.count("batcher: not running\n") == 2
    status, _, errors = await stage.command("queue", "resume")
    assert (status, errors.count("no batcher workflow is running")) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["queue", "pause", "--partition", "7"], ["partition = 7", "0 to 0"]),
        (["queue", "pause", "--partition", "-1"], ["--partition = '-1'", "write 0, 1"]),
        (["queue", "status", "--partition", "x"], ["--partition = 'x'", "write 0, 1"]),
        (["queue", "status", "--queue", "a b"], ["queue = a b"]),
        (["monitor", "--every", "2"], ["'2' is not a duration", "500ms, 20s"]),
        (["monitor", "--every", "1ms"], ["--every = '1ms' is too often", "100ms"]),
        (["dead-letters", "replay"], ["exactly one of ID, --reason TEXT and --all"]),
        (["dead-letters", "discard", "0/5-0", "--all"], ["exactly one of ID, --reason TEXT and --all"]),
        (["dead-letters", "discard", "--reason", ""], ["--reason = ''", "--all"]),
        (["dead-letters", "show", "5-0"], ["ID = '5-0'", "0/1735689600000-0"]),
        (["dead-letters", "list", "--redis-url", "redis://127.0.0.1:1"], ["Redis at redis://127.0.0.1:1"]),
    ],
)
async def test_wrong_usage_ends_with_one_sentence_and_status_2(
    stage: Stage, arguments: list[str], wanted: list[str]
) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    status, output, errors = await stage.command(*arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    for part in wanted:
        assert part in errors


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["dead-letters", "replay", "--all", "--dry-run"], "there is no dead letter; "),
        (["dead-letters", "discard", "--reason", "no such"], "there is no dead letter with 'no such' in its reason; "),
        (["dead-letters", "show", "0/5-0"], "there is no dead letter 0/5-0; "),
        (["dead-letters", "show", "9/5-0"], "there is no dead letter 9/5-0; "),
        (["dead-letters", "list", "--queue", "unused"], "queue 'unused' has never been used: "),
        (["monitor", "--once", "--queue", "unused"], "queue 'unused' has never been used: "),
    ],
)
async def test_commands_that_find_nothing_say_so_and_end_with_1(
    stage: Stage, arguments: list[str], wanted: str
) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    status, output, errors = await stage.command(*arguments)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert wanted in errors


async def test_dead_letters_of_all_partitions_are_listed_those_of_a_queue_that_shrank_too(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    first = await stage.kill(await stage.fields("bad\n1"), "cents is\x1b[2J no number")
    second = await stage.kill({b"what": b"is this"}, "version None is not b'1'", partition=1)

    status, output, _ = await stage.command("dead-letters", "list")
    assert status == 0
    [one, other] = [line.split("\t") for line in output.splitlines()]
    assert (one[0], one[2:]) == (str(first), ["bad\\n1", "orders", "cents is\\x1b[2J no number"])
    assert (other[0], other[2:]) == (str(second), ["-", "-", "version None is not b'1'"])

    status, output, _ = await stage.command("dead-letters", "list", "--json")
    listed = [json.loads(line) for line in output.splitlines()]
    assert [(one["id"], one["request_id"], one["table"]) for one in listed] == [
        (str(first), "bad\n1", "orders"),
        (str(second), "", None),
    ]


async def test_dead_letter_is_shown_with_its_record_or_why_it_has_none(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    readable = await stage.kill(await stage.fields("bad-1"), "cents is no number")
    foreign = await stage.kill({b"what": b"is \xff"}, "version None is not b'1'")
    status, output, _ = await stage.command("dead-letters", "show", str(readable))
    assert status == 0
    for line in ("reason: cents is no number", "request id: bad-1", "table: orders", 'record: {"item": "tea"}'):
        assert f"{line}\n" in output
    status, output, _ = await stage.command("dead-letters", "show", str(foreign))
    assert status == 0
    for line in ("record: cannot be decoded: version None is not b'1'", r"field what: b'is \xff'"):
        assert f"{line}\n" in output


async def test_dry_run_names_what_is_selected_and_changes_nothing(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    await stage.kill(await stage.fields("bad-1"), "cents is no number")
    chosen = await stage.kill(await stage.fields("bad-2"), "no such column")
    for verb, done in (("replay", "replayed"), ("discard", "discarded")):
        status, output, _ = await stage.command("dead-letters", verb, "--reason", "column", "--dry-run")
        assert (status, output.splitlines()) == (
            0,
            [
                f"{chosen} request bad-2: would be {done}: no such column",
                f"1 dead letter would be {done}; nothing has been changed",
            ],
        )
    assert await stage.has_dead_letters(2)
    assert await stage.is_empty()


async def test_discard_deletes_only_what_is_selected(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    kept = await stage.kill(await stage.fields("bad-1"), "cents is no number")
    chosen = await stage.kill(await stage.fields("bad-2"), "no such column")
    status, output, errors = await stage.command("dead-letters", "discard", str(chosen))
    assert (status, errors) == (0, "")
    assert output == f"{chosen} request bad-2: discarded, no caller waits for it\n1 dead letter discarded\n"
    assert [letter.letter_id for letter in await stage.selected()] == [kept]


async def test_replay_clears_the_rejection_before_the_request_is_back(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    await stage.kill(await stage.fields("bad-1"), "cents is no number")
    [letter] = await stage.selected()

    class Ledger:
        async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
            assert (request_id, attempt, asked_ms) == ("bad-1", None, None)
            assert await stage.is_empty()
            assert await stage.has_dead_letters(1)
            return True

    assert await stage.letters.replay(letter, Ledger())
    assert await stage.has_dead_letters(0)
    assert await stage.letters.replay(letter, stage.sink) is None  # somebody else was faster


async def test_replay_that_the_database_cannot_hear_leaves_the_dead_letter(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    await stage.kill(await stage.fields("bad-1"), "cents is no number")
    [letter] = await stage.selected()

    class Ledger:
        async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
            raise SinkUnavailable("database is locked")

    with pytest.raises(SinkUnavailable):
        await stage.letters.replay(letter, Ledger())
    assert await stage.has_dead_letters(1)
    assert await stage.is_empty()


async def test_replay_of_all_meets_none_twice_although_they_die_again(stage: Stage) -> None:
    async with stage.batching():
        await stage.append("bad-1", "bad-2")
        await eventually(lambda: stage.has_dead_letters(2))
        replayed = []
        async for letter in stage.letters.select(ALL):
            replayed.append(letter.dead.request_id)
            await stage.letters.replay(letter, stage.sink)
            await eventually(lambda: stage.has_dead_letters(2))
    assert replayed == ["bad-1", "bad-2"]
    assert stage.sink.forgotten == ["bad-1", "bad-2"]


@asynccontextmanager
async def waiting_caller(stage: Stage, confirm_by: ConfirmBy) -> AsyncIterator[Any]:
    """A workflow whose record is refused and that waits for what an operator decides; the batcher runs."""
    enqueue = EnqueueActivities(stage.redis, max_backlog=10, max_request_bytes=10_000)
    order = Order(queues=(stage.queue_name,), request_id="bad-1", confirm_by=confirm_by, on_rejected=OnRejected.WAIT)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stage.batching())
        await stack.enter_async_context(caller(stage.client, stage.queue_name, enqueue.enqueue_write))
        handle = await start(stage.client, stage.queue_name, order)
        await eventually(lambda: stage.has_dead_letters(1))
        yield handle


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_caller_that_waits_learns_that_its_replayed_request_is_written(
    stage: Stage, confirm_by: ConfirmBy
) -> None:
    async with waiting_caller(stage, confirm_by) as handle:
        stage.sink.repaired()
        [letter] = await stage.selected()
        await stage.letters.replay(letter, stage.sink)
        [receipt] = await receipts_of(handle)
    assert (receipt.outcome, receipt.request_id) == (Outcome.WRITTEN, "bad-1")
    assert [row.request_id for row in stage.sink.rows] == ["bad-1"]


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
async def test_caller_that_waits_learns_that_its_request_is_discarded(stage: Stage, confirm_by: ConfirmBy) -> None:
    async with waiting_caller(stage, confirm_by) as handle:
        status, output, errors = await stage.command("dead-letters", "discard", "--all")
        assert (status, errors) == (0, "")
        assert "request bad-1: discarded, its caller has been told\n" in output
        assert (await failure_of(handle)).type == "WriteNotConfirmed"
    assert stage.sink.rows == []


async def test_discard_does_not_misinform_a_caller_whose_request_is_queued_again(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    reply = ReplyAddress(workflow_id="gone", run_id="run", attempt="run")
    fields = await Codec(stage.client.data_converter).encode(
        WriteRequest(request_id="bad-1", table="orders", record={}, reply=reply)
    )
    await stage.kill(fields, "cents is no number")
    sender = ReceiptSender(stage.client, Watch())
    [letter] = await stage.selected()
    await stage.queue.append(fields | {b"reply": _of_another_call(fields[b"reply"])}, max_backlog=10)
    assert await stage.letters.discard(letter, sender) is Told.QUEUED
    assert await stage.letters.discard(letter, sender) is None
    await stage.kill(fields | {b"reply": fields[b"reply"].replace(b'"run"', b'"other"')}, "cents is no number")
    [letter] = await stage.selected()
    assert await stage.letters.discard(letter, sender) is Told.NO_CALLER


async def test_discard_tells_a_caller_only_with_the_last_dead_letter_of_its_request(stage: Stage) -> None:
    """One that is left may yet be replayed, and written."""
    await Partitions(stage.redis, stage.queue_name).announce(1)
    reply = ReplyAddress(workflow_id="gone", run_id="run", attempt="run")
    fields = await Codec(stage.client.data_converter).encode(
        WriteRequest(request_id="bad-1", table="orders", record={}, reply=reply)
    )
    await stage.kill(fields, "cents is no number")
    await stage.kill(fields | {b"reply": _of_another_call(fields[b"reply"])}, "cents is no number")
    sender = ReceiptSender(stage.client, Watch())
    first, second = await stage.selected()
    assert await stage.letters.discard(first, sender) is Told.DEAD_TOO
    assert await stage.letters.discard(second, sender) is Told.NO_CALLER


async def test_discard_tells_nobody_who_wanted_no_receipt(stage: Stage) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    reply = ReplyAddress(workflow_id="gone", run_id="run", attempt="run", mode=ConfirmBy.NONE)
    request = WriteRequest(request_id="bad-1", table="orders", record={}, reply=reply)
    await stage.kill(await Codec(stage.client.data_converter).encode(request), "cents is no number")
    [letter] = await stage.selected()
    assert await stage.letters.discard(letter, ReceiptSender(stage.client, Watch())) is Told.NOBODY


def _of_another_call(reply: bytes) -> bytes:
    return reply.replace(b'"call": 0', b'"call": 2')


async def test_monitor_tells_what_a_drain_holds_and_which_attempt_it_is(stage: Stage) -> None:
    stage.sink.outage = "the disk is full"

    async def holds() -> bool:
        progress = (await stage.seen()).host.progress
        return progress is not None and progress.holding == "the disk is full"

    async with stage.batching():
        await stage.append("a", "b")
        await eventually(holds)
        view = await stage.seen(max_wait=timedelta(milliseconds=1))
        assert (view.host.state, view.host.attempt, view.in_flight, view.pending) == (HostState.RUNNING, 1, 2, 2)
        assert "its batch is held: the disk is full" in (view.warning or "")
        stage.sink.outage = None
        await eventually(stage.is_empty)
    assert (await stage.seen()).warning is None


async def test_monitor_counts_the_drains_that_have_returned(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "DRAIN_FOR", QUICK)

    async def counted() -> bool:
        return ((await stage.seen()).host.drains or 0) >= 2

    async with stage.batching():
        await eventually(counted)


async def test_monitor_tells_that_the_drain_is_paused_in_temporal(stage: Stage) -> None:
    async with stage.batching():
        await eventually(lambda: stage.is_in(HostState.RUNNING))
        await stage.client.workflow_service.pause_activity(
            PauseActivityRequest(
                namespace=stage.client.namespace,
                execution=WorkflowExecution(workflow_id=batcher_workflow_id(stage.partition)),
                type="drain",
            )
        )
        await eventually(lambda: stage.is_in(HostState.HELD))


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
async def test_monitor_shows_again_and_again_until_it_is_interrupted(stage: Stage, interrupt: signal.Signals) -> None:
    await Partitions(stage.redis, stage.queue_name).announce(1)
    monitor = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("monitor", "--json", "--every", "100ms"),
        env=CLEAN | stage.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert monitor.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        looks = [json.loads(await monitor.stdout.readline()) for _ in range(3)]
        monitor.send_signal(interrupt)
        _, errors = await monitor.communicate()
    assert (monitor.returncode, errors) == (0, b"")
    assert [look["partitions"][0]["batcher"] for look in looks] == ["not running"] * 3


async def test_replayed_request_that_the_database_had_rejected_is_written(stage: Stage, database_url: str) -> None:
    def execute(statement: str) -> list[Any]:
        with (
            contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite+aiosqlite:///"))) as database,
            database,
        ):
            return database.execute(statement).fetchall()

    execute("CREATE TABLE orders (item TEXT)")
    execute("CREATE TRIGGER refuse BEFORE INSERT ON orders BEGIN SELECT RAISE(ABORT, 'closed for today'); END")
    async with SqlSink.open(database_url, tables=["orders"]) as sink, stage.batching(sink=sink):
        await stage.append("bad-1")
        await eventually(lambda: stage.has_dead_letters(1))
        execute("DROP TRIGGER refuse")
        arguments = ("--reason", "closed for today", "--database-url", database_url, "--tables", "orders")
        status, output, errors = await stage.command("dead-letters", "replay", *arguments)
        assert (status, errors) == (0, "")
        assert output.endswith("request bad-1: replayed\n1 dead letter replayed\n")
        await eventually(stage.is_empty)
    assert execute("SELECT * FROM orders") == [("tea",)]
    assert (await stage.seen()).dead_letters == 0
