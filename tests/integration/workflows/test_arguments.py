"""Options and arguments are coerced, or refused by failing the workflow: never a workflow task that is retried."""

import asyncio
import gc
import uuid
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import pydantic
import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.fakes import FakeQueue, MemorySink, written
from tests.support.order_callers import failure_of, result_of, settling
from write_batcher.models import MAX_REQUEST_ID_BYTES, Outcome
from write_batcher.workflows.batched_writes import BatchedWrites
from write_batcher.workflows.write_options import WriteOptions

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Customer(str, Enum):  # noqa: UP042 - an enum as many applications have it
    ACME = "acme"


@dataclass
class Line:
    item: str
    cents: int


@dataclass
class Sale:
    customer: str
    lines: list[Line]


class Invoice(pydantic.BaseModel):
    number: int
    tags: set[str] = set()


class Unreadable(dict[str, Any]):
    """A mapping that promises more than it has."""

    def items(self) -> Any:
        return [(name, self[name]) for name in ("item",)]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


Given = Callable[[], dict[str, Any]]
GIVEN: dict[str, Given] = {}


@workflow.defn
class Submitting:
    """Submits with what `GIVEN` has under the name, which no input of a workflow could carry."""

    @workflow.init
    def __init__(self, given: str) -> None:
        self.given = GIVEN[given]()
        self.writes = BatchedWrites(WriteOptions(**self.given.pop("options", {})))

    @workflow.run
    async def run(self, given: str) -> str:
        table = self.given.pop("table", "orders")
        record = self.given.pop("record", {"item": "tea"})
        return (await self.writes.submit(table, record, **self.given)).outcome.value


class Arena:
    """Workers for `Submitting`, with a queue that writes everything."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name
        self.queue = FakeQueue(
            lambda request: written(request.request_id) if request.reply and request.reply.waits else None
        )

    async def submit(self, **given: Any) -> WorkflowHandle[Submitting, str]:
        key = f"{self.name}-{uuid.uuid4().hex}"
        GIVEN[key] = lambda: dict(given)
        async with self.worker(Submitting), asyncio.timeout(20):
            handle = await self.client.start_workflow(Submitting.run, key, id=key, task_queue=self.name)
            with suppress(WorkflowFailureError):
                await handle.result()
        return handle

    def worker(self, workflow_type: type) -> Worker:
        return Worker(
            self.client,
            task_queue=self.name,
            workflows=[workflow_type],
            activities=[self.queue.enqueue_write, settling(MemorySink())],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )

    async def refusal(self, **given: Any) -> ApplicationError:
        return await failure_of(await self.submit(**given))


@pytest.fixture
def arena(client: Client, name: str) -> Arena:
    return Arena(client, name)


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"confirm_by": "none"}, Outcome.QUEUED),
        ({"confirm_by": "signal"}, Outcome.WRITTEN),
        ({"confirm_by": "completion"}, Outcome.WRITTEN),
        ({"confirm_timeout": 60, "submit_timeout": 0.5, "settle_timeout": timedelta(seconds=3)}, Outcome.WRITTEN),
        ({"on_rejected": "wait"}, Outcome.WRITTEN),
    ],
    ids=str,
)
async def test_options_may_be_given_as_texts_and_seconds(
    arena: Arena, options: dict[str, Any], outcome: Outcome
) -> None:
    assert await result_of(await arena.submit(options=options)) == outcome


@pytest.fixture
def _init_fails() -> Iterator[None]:
    """For tests that ignore a warning of the SDK: it never awaits the coroutine of a run whose `__init__` failed."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore:coroutine '_WorkflowInstanceImpl:RuntimeWarning")
@pytest.mark.usefixtures("_init_fails")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"confirm_by": "nonsense"}, "confirm_by is 'nonsense': use one of 'signal', 'completion', 'none'"),
        ({"on_rejected": "never"}, "on_rejected is 'never': use one of 'fail', 'wait'"),
        ({"confirm_timeout": -1}, "confirm_timeout is -1: use a timedelta, or a number of seconds, above 0"),
        ({"submit_timeout": "10m"}, "submit_timeout is '10m'"),
        ({"settle_timeout": float("nan")}, "settle_timeout is nan"),
        ({"confirm_timeout": timedelta(days=7)}, "add up to 605460 seconds, the limit is 604800: shorten one"),
        ({"queue": "my orders"}, "queue is 'my orders': use 1 to 64 letters"),
        ({"queue": 10**5000}, "queue is an integer of 16610 bits"),
        ({"confirm_by": Unprintable()}, "confirm_by is of type Unprintable"),
        ({"confirm_timeout": 10**5000}, "confirm_timeout is an integer of 16610 bits"),
        ({"batcher_task_queue": ""}, "batcher_task_queue is '': use the name of a task queue"),
        ({"batcher_task_queue": "q" * 2_000}, "use the name of a task queue: 1 to 500 printable ASCII characters"),
        ({"batcher_task_queue": "/_sys/x"}, "not beginning with /_sys/"),
        ({"batcher_task_queue": "a\ud800"}, "batcher_task_queue is 'a\\ud800'"),
    ],
    ids=lambda given: ascii(given)[:40] if isinstance(given, str) else "",
)
async def test_wrong_option_fails_the_workflow_with_its_name(arena: Arena, options: dict[str, Any], named: str) -> None:
    refusal = await arena.refusal(options=options)
    assert (refusal.type, refusal.non_retryable) == ("InvalidWriteOptions", True)
    assert named in refusal.message


@pytest.mark.parametrize(
    ("given", "text"),
    [(5, "5"), (UUID, str(UUID)), (Customer.ACME, "acme"), ("order-7", "order-7")],
    ids=str,
)
async def test_ids_and_keys_may_be_integers_uuids_and_enums(arena: Arena, given: Any, text: str) -> None:
    assert await result_of(await arena.submit(request_id=given, key=given)) == Outcome.WRITTEN
    [request] = arena.queue.requests
    assert (request.request_id, request.key) == (text, text)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"request_id": ""}, "has 0 bytes: use 1 to 512"),
        ({"request_id": "x" * (MAX_REQUEST_ID_BYTES + 1)}, "has 513 bytes: use 1 to 512"),
        ({"request_id": "é" * 257}, "has 514 bytes: use 1 to 512"),
        ({"request_id": "a\ud800"}, "is not valid Unicode"),
        ({"request_id": "a\0b"}, "contains a NUL character"),
        ({"request_id": 5.0}, "Request id is 5.0: use text, an integer or a UUID"),
        ({"request_id": True}, "Request id is True"),
        ({"key": ["a"]}, "Key is of type list: use text, an integer or a UUID"),
        ({"key": "k" * 513}, "Key 'kkkk"),
        ({"table": 5}, "The table is 5: use its name"),
        ({"table": ""}, "Table '' has 0 bytes: use 1 to 512."),
        ({"table": 10**5000}, "The table is an integer of 16610 bits"),
        ({"key": ""}, "Key '' has 0 bytes: use 1 to 512, or leave it out"),
        ({"request_id": 10**5000}, "Request id is an integer of 16610 bits: use up to 512 digits"),
    ],
    ids=lambda given: ascii(given)[:40] if isinstance(given, str) else "",
)
async def test_wrong_argument_fails_the_workflow_before_any_activity(
    arena: Arena, given: dict[str, Any], named: str
) -> None:
    refusal = await arena.refusal(**given)
    assert (refusal.type, refusal.non_retryable) == ("WriteNotSubmitted", True)
    assert named in refusal.message
    assert arena.queue.submissions == []


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"item": value}


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (lambda: {"item": object()}, "cannot be encoded: column 'item' is of type object"),
        (lambda: {"item": "tea", "cents": Decimal(1)}, "cannot be encoded: column 'cents' is of type Decimal"),
        (lambda: nested(10_000), "nested too deeply"),
        (lambda: {"item": "x" * 1_100_000}, "the limit is 1000000"),
        (lambda: {"item": "ж" * 200_000}, "the limit is 1000000"),
        (lambda: {"item": "tea", "cents": float("nan")}, "cannot be encoded: column 'cents' is nan: use JSON"),
        (lambda: {"item": "a\ud800"}, "cannot be encoded: column 'item' is 'a\\ud800': use JSON"),
        (lambda: {"item": 10**5000}, "column 'item' is an integer of 16610 bits: use JSON"),
        (lambda: {"item": "tea", 1: "x"}, "cannot be encoded: 1 is no column name: use text"),
        (lambda: {"item": b"ab"}, "column 'item' holds bytes, which JSON cannot hold"),
        (lambda: {"item": {"a": 1}.keys()}, "holds a dict_keys, which has no lasting order"),
        (Unreadable, "it cannot be read: KeyError: 'item'"),
        (lambda: {"item": {"tea", "milk"}}, "column 'item' holds a set, which has no lasting order: use a list"),
        (lambda: {"item": [frozenset()]}, "a frozenset, which has no lasting order"),
        (lambda: {"item": (part for part in "ab")}, "a generator, which has no lasting order"),
        (lambda: [1, 2], "it is of type list: use a mapping"),
        (lambda: "text", "it is 'text': use a mapping"),
        (lambda: None, "it is None: use a mapping"),
        (lambda: b"bytes", "it is of type bytes: use a mapping"),
    ],
    ids=lambda given: ascii(given)[:40] if isinstance(given, str) else "",
)
async def test_record_without_a_lasting_encoding_fails_the_workflow_before_any_activity(
    arena: Arena, record: Callable[[], Any], named: str
) -> None:
    refusal = await arena.refusal(record=record())
    assert (refusal.type, refusal.non_retryable) == ("WriteNotSubmitted", True)
    assert named in refusal.message
    assert "'orders'" in refusal.message
    assert arena.queue.submissions == []


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (Sale("acme", [Line("tea", 450)]), {"customer": "acme", "lines": [{"item": "tea", "cents": 450}]}),
        ({"id": UUID, "tags": ("a", "b")}, {"id": str(UUID), "tags": ["a", "b"]}),
        ({"a": 2**70, "b": 0.1, "c": None, "d": {}}, {"a": 2**70, "b": 0.1, "c": None, "d": {}}),
        ({1: "number"}, {"1": "number"}),
        (ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    ],
    ids=["dataclass", "values that the converter encodes", "plain values", "integer keys", "another mapping"],
)
async def test_record_may_be_whatever_the_converter_encodes_as_an_object(
    arena: Arena, record: Any, columns: dict[str, Any]
) -> None:
    assert await result_of(await arena.submit(record=record)) == Outcome.WRITTEN
    assert [request.record for request in arena.queue.requests] == [columns]


async def test_record_may_be_a_pydantic_model_with_the_pydantic_converter(client: Client, name: str) -> None:
    config = client.config()
    config["data_converter"] = pydantic_data_converter
    arena = Arena(Client(**config), name)
    assert await result_of(await arena.submit(record=Invoice.model_construct(number=7, tags=()))) == Outcome.WRITTEN
    assert [request.record for request in arena.queue.requests] == [{"number": 7, "tags": []}]
    refusal = await arena.refusal(record=Invoice(number=7, tags={"a"}))
    assert "column 'tags' holds a set, which has no lasting order" in refusal.message


@workflow.defn
class ChangingItsRecord:
    """Submits the same object three times, changed in between, before it awaits anything."""

    @workflow.init
    def __init__(self) -> None:
        self.writes = BatchedWrites()

    @workflow.run
    async def run(self) -> None:
        record = {"item": "tea", "cents": 0}
        submits = []
        for cents in range(3):
            record["cents"] = cents
            submits.append(self.writes.submit("orders", record))
        record["cents"] = 99
        await asyncio.gather(*submits)


async def test_record_is_encoded_in_the_call_and_not_when_it_is_awaited(arena: Arena) -> None:
    async with arena.worker(ChangingItsRecord):
        handle = await arena.client.start_workflow(ChangingItsRecord.run, id=arena.name, task_queue=arena.name)
        await handle.result()
    assert [request.record["cents"] for request in arena.queue.requests] == [0, 1, 2]


@workflow.defn
class OwnHandler:
    """Has a handler of its own for the signal that BatchedWrites needs."""

    @workflow.init
    def __init__(self) -> None:
        self.writes = BatchedWrites()

    @workflow.run
    async def run(self) -> None:
        pass

    @workflow.signal
    def write_confirmation(self, receipts: list[str]) -> None:
        pass


@pytest.mark.filterwarnings("ignore:coroutine '_WorkflowInstanceImpl:RuntimeWarning")
@pytest.mark.usefixtures("_init_fails")
async def test_handler_of_ones_own_for_the_confirmation_signal_is_refused(client: Client, name: str) -> None:
    async with Worker(client, task_queue=name, workflows=[OwnHandler], workflow_runner=UnsandboxedWorkflowRunner()):
        handle = await client.start_workflow(OwnHandler.run, id=name, task_queue=name)
        failure = await failure_of(handle)
    assert failure.type == "InvalidWriteOptions"
    assert "a handler of its own for the signal 'write_confirmation'" in failure.message
