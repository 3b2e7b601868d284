import asyncio
from datetime import timedelta

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, NotFoundFailure
from temporalio.service import RPCError, RPCStatusCode

from tests.support import FakeTemporal, eventually
from write_batcher.activities import confirm
from write_batcher.activities.confirm import Delivery, SignalConfirmer
from write_batcher.activities.watch import Watch
from write_batcher.errors import ConfigurationError
from write_batcher.models import Outcome, WriteReceipt

RECEIPT = WriteReceipt(request_id="r1", outcome=Outcome.WRITTEN, batch_id="b1")
WITHIN_S = 5


def rpc_error(status: RPCStatusCode, *details: Message) -> RPCError:
    """As the SDK raises it: the details are in the serialized gRPC status."""
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    raw = GrpcStatus(code=status.value, message="refused", details=packed).SerializeToString()
    return RPCError("refused", status, raw)


async def delivery_of(error: Exception) -> Delivery:
    temporal = FakeTemporal()
    temporal.fail("caller", error)
    return await SignalConfirmer(temporal.client, Watch()).deliver("caller", [RECEIPT])


async def test_receipts_of_a_caller_arrive_in_one_signal() -> None:
    temporal = FakeTemporal()
    second = WriteReceipt(request_id="r2", outcome=Outcome.REJECTED, error="too long")
    assert await SignalConfirmer(temporal.client, Watch()).deliver("caller", (RECEIPT, second)) is Delivery.DELIVERED
    assert temporal.signals == [("caller", [RECEIPT, second])]


async def test_very_many_receipts_go_in_several_signals_none_of_them_too_large() -> None:
    temporal = FakeTemporal()
    receipts = [RECEIPT] * (2 * confirm.RECEIPTS_PER_SIGNAL + 1)
    assert await SignalConfirmer(temporal.client, Watch()).deliver("caller", receipts) is Delivery.DELIVERED
    assert [len(sent) for _caller, sent in temporal.signals] == [
        confirm.RECEIPTS_PER_SIGNAL,
        confirm.RECEIPTS_PER_SIGNAL,
        1,
    ]


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
    ],
)
async def test_refused_signal_is_final_only_when_the_caller_is_gone(error: Exception, delivery: Delivery) -> None:
    assert await delivery_of(error) is delivery


async def test_missing_namespace_is_a_configuration_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match="no namespace 'fake': create it or set TEMPORAL_NAMESPACE"):
        await delivery_of(rpc_error(RPCStatusCode.NOT_FOUND, NamespaceNotFoundFailure(namespace="fake")))


@pytest.mark.parametrize("status", [RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED])
async def test_refused_credentials_are_a_configuration_error(status: RPCStatusCode) -> None:
    with pytest.raises(ConfigurationError, match="check its API key or TLS"):
        await delivery_of(rpc_error(status))


async def test_error_that_is_no_answer_of_temporal_is_not_taken_for_one() -> None:
    with pytest.raises(ZeroDivisionError):
        await delivery_of(ZeroDivisionError())


async def test_signal_has_a_time_limit() -> None:
    temporal = FakeTemporal()
    await SignalConfirmer(temporal.client, Watch()).deliver("caller", [RECEIPT])
    assert temporal.rpc_timeouts == [confirm.RPC_TIMEOUT]
    assert timedelta(0) < confirm.RPC_TIMEOUT < timedelta(seconds=30)


async def test_deliveries_at_the_same_time_are_bounded() -> None:
    temporal = FakeTemporal()
    temporal.hold("caller")
    confirmer = SignalConfirmer(temporal.client, Watch())
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        deliveries = [group.create_task(confirmer.deliver("caller", [RECEIPT])) for _ in range(confirm.CONCURRENCY + 5)]
        await eventually(lambda: temporal.waiting >= confirm.CONCURRENCY)
        assert temporal.waiting == confirm.CONCURRENCY
        temporal.let_go("caller")
    assert {delivery.result() for delivery in deliveries} == {Delivery.DELIVERED}
