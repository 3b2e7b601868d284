import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus, Payload
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, NotFoundFailure
from temporalio.client import Client
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.service import RPCError, RPCStatusCode

from tests.support.fakes import FakeTemporal
from tests.support.virtual_time import now, on_virtual_time
from tests.support.waiting import eventually
from write_batcher.activities.drain import receipt_sender as deliver
from write_batcher.activities.drain.receipt_sender import Delivery, ReceiptSender
from write_batcher.errors import ConfigurationError
from write_batcher.models import ConfirmBy, Outcome, ReplyAddress, WriteReceipt

RECEIPT = WriteReceipt(request_id="r1", outcome=Outcome.WRITTEN, batch_id="b1")
CALLER = ReplyAddress(workflow_id="caller", run_id="run", attempt="first")
WAITING = replace(CALLER, mode=ConfirmBy.COMPLETION, activity_id="5")
WITHIN_S = 5
MAX_SIGNAL_BYTES = 2 * 1024 * 1024  # the limit of Temporal


def rpc_error(status: RPCStatusCode, *details: Message) -> RPCError:
    """An error like the SDK's, with the details in the serialized gRPC status."""
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    raw = GrpcStatus(code=status.value, message="refused", details=packed).SerializeToString()
    return RPCError("refused", status, raw)


class TroubledCodec(PayloadCodec):
    """A codec that has some trouble with everything it encodes."""

    def __init__(self, trouble: Callable[[], Awaitable[None]]) -> None:
        self._trouble = trouble

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        await self._trouble()
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return list(payloads)


async def fails() -> None:
    raise ValueError("the key server answers HTML")


async def hangs() -> None:
    await asyncio.sleep(1e6)


async def is_cancelled() -> None:
    """As where callers share one call to a key server, and the first of them is cancelled."""
    raise asyncio.CancelledError


class StubbornTemporal(FakeTemporal):
    """Calls to `hangs` ignore that they are cancelled, and go on until `ended`."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.calls = 0

    async def call(self, caller: str, rpc_timeout: timedelta | None) -> None:
        self.calls += 1
        while caller == "hangs" and not self.ended.is_set():
            try:
                await self.ended.wait()
            except asyncio.CancelledError:
                continue
        await super().call(caller, rpc_timeout)


async def delivery_of(error: Exception, caller: ReplyAddress = CALLER) -> Delivery:
    temporal = FakeTemporal()
    temporal.fail("caller", error)
    temporal.fail("5", error)
    return await ReceiptSender(temporal.client).deliver(caller, [RECEIPT])


async def test_receipts_of_a_caller_arrive_in_one_signal() -> None:
    temporal = FakeTemporal()
    second = WriteReceipt(request_id="r2", outcome=Outcome.REJECTED, error="too long")
    assert await ReceiptSender(temporal.client).deliver(CALLER, (RECEIPT, second)) is Delivery.DELIVERED
    assert temporal.signals == [("caller", [RECEIPT, second])]


@pytest.mark.parametrize("error", [None, "x" * 500, "\U0001f4a5" * 500], ids=["short", "long", "long in JSON"])
async def test_very_many_receipts_go_in_several_signals_of_bounded_size(error: str | None) -> None:
    temporal = FakeTemporal()
    receipts = [replace(RECEIPT, request_id=str(number), error=error) for number in range(10_000)]
    assert await ReceiptSender(temporal.client).deliver(CALLER, receipts) is Delivery.DELIVERED
    assert [receipt for _caller, sent in temporal.signals for receipt in sent] == receipts
    payloads = await DataConverter.default.encode([sent for _caller, sent in temporal.signals])
    assert max(payload.ByteSize() for payload in payloads) < MAX_SIGNAL_BYTES / 2


@pytest.mark.parametrize(
    ("error", "delivery"),
    [
        (rpc_error(RPCStatusCode.NOT_FOUND, NotFoundFailure()), Delivery.NO_CALLER),
        (rpc_error(RPCStatusCode.NOT_FOUND), Delivery.NO_CALLER),
        (rpc_error(RPCStatusCode.INVALID_ARGUMENT), Delivery.NO_CALLER),
        (RPCError("no connection", RPCStatusCode.UNAVAILABLE, b""), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.CANCELLED), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.DEADLINE_EXCEEDED), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.RESOURCE_EXHAUSTED), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.FAILED_PRECONDITION), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.INTERNAL), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.UNKNOWN), Delivery.UNKNOWN),
        (rpc_error(RPCStatusCode.ABORTED), Delivery.UNKNOWN),
        (ConnectionRefusedError("key server of the payload codec"), Delivery.UNKNOWN),
        (ValueError("the key server answers HTML"), Delivery.UNKNOWN),
    ],
)
@pytest.mark.parametrize("caller", [CALLER, WAITING], ids=["signal", "completion"])
async def test_refused_call_is_final_only_when_the_caller_is_gone(
    caller: ReplyAddress, error: Exception, delivery: Delivery
) -> None:
    assert await delivery_of(error, caller) is delivery


@pytest.mark.parametrize("caller", [CALLER, WAITING], ids=["signal", "completion"])
async def test_missing_namespace_is_a_configuration_error_that_names_it(caller: ReplyAddress) -> None:
    with pytest.raises(ConfigurationError, match=r"no namespace 'fake': create it or set TEMPORAL_NAMESPACE\."):
        await delivery_of(rpc_error(RPCStatusCode.NOT_FOUND, NamespaceNotFoundFailure(namespace="fake")), caller)


@pytest.mark.parametrize("caller", [CALLER, WAITING], ids=["signal", "completion"])
@pytest.mark.parametrize("status", [RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED])
async def test_refused_credentials_are_a_configuration_error(status: RPCStatusCode, caller: ReplyAddress) -> None:
    with pytest.raises(ConfigurationError, match="check its API key and its TLS settings"):
        await delivery_of(rpc_error(status), caller)


async def test_waiting_activity_is_completed_with_its_receipt_by_its_ids() -> None:
    temporal = FakeTemporal()
    assert await ReceiptSender(temporal.client).deliver(WAITING, [RECEIPT]) is Delivery.DELIVERED
    assert (temporal.completions, temporal.signals) == ([("caller", "run", "5", RECEIPT)], [])


async def test_caller_whose_activity_is_over_is_signalled_instead() -> None:
    temporal = FakeTemporal()
    temporal.fail("5", rpc_error(RPCStatusCode.NOT_FOUND, NotFoundFailure()))
    assert await ReceiptSender(temporal.client).deliver(WAITING, [RECEIPT]) is Delivery.DELIVERED
    assert (temporal.completions, temporal.signals) == ([], [("caller", [RECEIPT])])


async def test_caller_whose_activity_may_still_wait_is_not_signalled() -> None:
    temporal = FakeTemporal()
    temporal.fail("5", rpc_error(RPCStatusCode.UNAVAILABLE))
    assert await ReceiptSender(temporal.client).deliver(WAITING, [RECEIPT]) is Delivery.UNKNOWN
    assert temporal.signals == []


@on_virtual_time
async def test_call_that_hangs_is_given_up_and_holds_up_nobody() -> None:
    temporal = FakeTemporal()
    sender = ReceiptSender(temporal.client)
    hanging = [replace(CALLER, workflow_id=f"hangs-{number}") for number in range(deliver.CONCURRENCY)]
    for caller in hanging:
        temporal.hold(caller.workflow_id)
    async with asyncio.TaskGroup() as group:
        deliveries = [group.create_task(sender.deliver(caller, [RECEIPT])) for caller in hanging]
        await asyncio.sleep(0)
        began = now()
        assert await sender.deliver(CALLER, [RECEIPT]) is Delivery.DELIVERED
        assert now() - began < 2
    assert {delivery.result() for delivery in deliveries} == {Delivery.UNKNOWN}
    assert now() - began < 15


@pytest.mark.parametrize("trouble", [fails, hangs, is_cancelled])
@pytest.mark.parametrize("caller", [CALLER, WAITING], ids=["signal", "completion"])
@on_virtual_time
async def test_trouble_of_a_payload_codec_is_an_unknown_delivery(
    caller: ReplyAddress, trouble: Callable[[], Awaitable[None]]
) -> None:
    converter = replace(DataConverter.default, payload_codec=TroubledCodec(trouble))
    client = await Client.connect("127.0.0.1:1", lazy=True, data_converter=converter)  # it encodes before it connects
    began = now()
    assert await ReceiptSender(client).deliver(caller, [RECEIPT]) is Delivery.UNKNOWN
    assert now() - began <= deliver.CALL_LIMIT.total_seconds()


@on_virtual_time
async def test_call_that_ignores_its_cancellation_is_not_joined_by_others() -> None:
    temporal = StubbornTemporal()
    sender = ReceiptSender(temporal.client)
    hanging = replace(CALLER, workflow_id="hangs")
    for _ in range(3):
        assert await sender.deliver(hanging, [RECEIPT]) is Delivery.UNKNOWN
    assert temporal.calls == 1
    temporal.ended.set()
    assert await sender.deliver(hanging, [RECEIPT]) is Delivery.DELIVERED
    assert temporal.calls == 2
    assert not sender._given_up


@on_virtual_time
async def test_call_that_ends_when_it_is_given_up_is_made_again_at_once() -> None:
    temporal = FakeTemporal()
    temporal.hold("caller")
    sender = ReceiptSender(temporal.client)
    for _ in range(3):
        assert await sender.deliver(CALLER, [RECEIPT]) is Delivery.UNKNOWN
    assert temporal.attempts["caller"] == 3


@on_virtual_time
async def test_callers_that_hung_before_keep_no_new_caller_waiting() -> None:
    temporal = FakeTemporal()
    sender = ReceiptSender(temporal.client)
    hanging = [replace(CALLER, workflow_id=f"hangs-{number}") for number in range(20 * deliver.CONCURRENCY)]
    for caller in hanging:
        temporal.hold(caller.workflow_id)
    await asyncio.gather(*(sender.deliver(caller, [RECEIPT]) for caller in hanging))
    async with asyncio.TaskGroup() as group:
        for caller in hanging:
            group.create_task(sender.deliver(caller, [RECEIPT]))
        await asyncio.sleep(0)
        began = now()
        assert await sender.deliver(CALLER, [RECEIPT]) is Delivery.DELIVERED
        assert now() == began


@pytest.mark.parametrize(
    "error", [ValueError("the key server answers HTML"), RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")]
)
@on_virtual_time
async def test_failures_are_logged_with_their_reason_now_and_then(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    temporal = FakeTemporal()
    temporal.fail("caller", error)
    sender = ReceiptSender(temporal.client)
    with caplog.at_level(logging.WARNING, deliver.logger.name):
        for _ in range(200):
            await sender.deliver(CALLER, [RECEIPT])
            await asyncio.sleep(deliver.WARN_EVERY.total_seconds() / 100)
    assert [record.getMessage() for record in caplog.records] == [
        f"receipts of caller could not be sent: {type(error).__name__}: {error} (failures since the last warning: {n})"
        for n in (1, 100)
    ]


@pytest.mark.parametrize("caller", [CALLER, WAITING], ids=["signal", "completion"])
async def test_call_has_a_time_limit(caller: ReplyAddress) -> None:
    temporal = FakeTemporal()
    await ReceiptSender(temporal.client).deliver(caller, [RECEIPT])
    assert temporal.rpc_timeouts == [deliver.RPC_TIMEOUT]
    assert timedelta(0) < deliver.RPC_TIMEOUT < timedelta(seconds=30)


async def test_deliveries_at_the_same_time_are_bounded() -> None:
    temporal = FakeTemporal()
    temporal.hold("caller")
    sender = ReceiptSender(temporal.client)
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        deliveries = [group.create_task(sender.deliver(CALLER, [RECEIPT])) for _ in range(deliver.CONCURRENCY + 5)]
        await eventually(lambda: temporal.held >= deliver.CONCURRENCY)
        assert temporal.held == deliver.CONCURRENCY
        temporal.release("caller")
    assert {delivery.result() for delivery in deliveries} == {Delivery.DELIVERED}


async def test_signals_to_callers_without_their_activity_do_not_deadlock() -> None:
    temporal = FakeTemporal()
    temporal.fail("5", rpc_error(RPCStatusCode.NOT_FOUND, NotFoundFailure()))
    sender = ReceiptSender(temporal.client)
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(*(sender.deliver(WAITING, [RECEIPT]) for _ in range(2 * deliver.CONCURRENCY)))
    assert len(temporal.signals) == 2 * deliver.CONCURRENCY
