"""Delivers receipts to their callers, by signal or by completing an activity."""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from enum import Enum

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.activities.drain.watch import Watch
from write_batcher.errors import ConfigurationError
from write_batcher.models import CONFIRMATION_SIGNAL, ReplyAddress, WriteReceipt

CONCURRENCY = 32  # more only queues in the server
RPC_TIMEOUT = timedelta(seconds=5)  # per attempt; one hung call must not hold up the others
CALL_LIMIT = timedelta(seconds=60)  # of a call with all the attempts of the SDK, which give up after about 10 s
SIGNAL_BYTES = 500_000  # of receipts, far below the 2 MB that a signal may have, also when a payload codec adds to them

logger = logging.getLogger(__name__)


class Delivery(Enum):
    """What became of one delivery."""

    DELIVERED = "delivered"
    NO_CALLER = "no caller"
    """The caller has ended or never was: final."""
    UNKNOWN = "unknown"
    """May or may not have arrived: try again, a second receipt is ignored."""


class ReceiptSender:
    """Reaches callers the way they asked for: workflows by signal, waiting activities by completing them."""

    def __init__(self, client: Client, watch: Watch) -> None:
        self._client = client
        self._watch = watch
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def deliver(self, caller: ReplyAddress, receipts: Sequence[WriteReceipt]) -> Delivery:
        """Send one caller its `receipts`, in one call unless there are very many. Raises ConfigurationError when no
        caller can be reached.
        """
        for part in _parts(receipts):
            async with self._slots:
                try:
                    with self._watch.step("confirming to one caller", CALL_LIMIT):
                        await self._send(caller, part)
                except RPCError as error:
                    return _delivery(error, caller, self._client.namespace)
                except OSError as error:  # a payload codec that asks a key server
                    logger.warning("receipts of %s cannot be encoded: %s", caller.workflow_id, error)
                    return Delivery.UNKNOWN
        return Delivery.DELIVERED

    async def _send(self, caller: ReplyAddress, receipts: list[WriteReceipt]) -> None:
        if caller.activity_id is None:
            await self._signal(caller, receipts)
            return
        # By id, not by task token: a retry of the activity has another token.
        activity = self._client.get_async_activity_handle(
            workflow_id=caller.workflow_id, run_id=caller.run_id, activity_id=caller.activity_id
        )
        try:
            # An address appears twice in a batch only after a lost acknowledgement; the receipts say the same.
            await activity.complete(receipts[0], rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or _names_missing_namespace(error):
                raise
            # The activity has ended or is between two tries; its workflow may still wait, for a replay too.
            await self._signal(caller, receipts)

    async def _signal(self, caller: ReplyAddress, receipts: list[WriteReceipt]) -> None:
        # Without a run id: the attempt in each receipt decides who is meant, also after a reset.
        workflow = self._client.get_workflow_handle(caller.workflow_id)
        await workflow.signal(CONFIRMATION_SIGNAL, receipts, rpc_timeout=RPC_TIMEOUT)


def _parts(receipts: Sequence[WriteReceipt]) -> Iterator[list[WriteReceipt]]:
    part: list[WriteReceipt] = []
    part_bytes = 0
    for receipt in receipts:
        size = len(json.dumps(asdict(receipt)))
        if part and part_bytes + size > SIGNAL_BYTES:
            yield part
            part, part_bytes = [], 0
        part.append(receipt)
        part_bytes += size
    yield part


def _delivery(error: RPCError, caller: ReplyAddress, namespace: str) -> Delivery:
    match error.status:
        case RPCStatusCode.NOT_FOUND if _names_missing_namespace(error):
            raise ConfigurationError(f"Temporal has no namespace {namespace!r}: create it or set TEMPORAL_NAMESPACE")
        case RPCStatusCode.NOT_FOUND:
            return Delivery.NO_CALLER
        case RPCStatusCode.INVALID_ARGUMENT:
            # Also a caller that has received its 10,000 signals: it must continue as new.
            logger.warning("caller %s cannot be reached: %s", caller.workflow_id, error)
            return Delivery.NO_CALLER
        case RPCStatusCode.PERMISSION_DENIED | RPCStatusCode.UNAUTHENTICATED:
            raise ConfigurationError(f"Temporal refuses the batcher's confirmations: {error}; check its API key or TLS")
        case _:
            return Delivery.UNKNOWN


def _names_missing_namespace(error: RPCError) -> bool:
    """NOT_FOUND means a missing caller or a missing namespace; only the error's detail tells which."""
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details)
