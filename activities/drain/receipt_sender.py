"""Delivering receipts to their callers, by signal or by completing an activity."""

import asyncio
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from enum import Enum

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.activities.drain.receipt_text import reason_of
from write_batcher.errors import ConfigurationError
from write_batcher.models import CONFIRMATION_SIGNAL, ReplyAddress, WriteReceipt

CONCURRENCY = 32  # more only queues in the server
RPC_TIMEOUT = timedelta(seconds=5)  # per attempt; one hung call must not hold up the others
# For a call with all attempts of the SDK, which gives up after about 10 s, and with encoding the receipts first, for
# which the SDK has no limit: a payload codec may ask a key server.
CALL_LIMIT = timedelta(seconds=12)
SLOW_AFTER = timedelta(seconds=1)  # then the others no longer wait for a call: neither for its slot, nor in its batch
ENDS_WITHIN = timedelta(seconds=1)  # after it has been cancelled; a payload codec may ignore that
MOST_TROUBLED = 10_000  # callers remembered as such; beyond, all are forgotten
WARN_EVERY = timedelta(seconds=10)  # about deliveries that fail
SIGNAL_BYTES = 500_000  # of receipts: far below a signal's limit of 2 MB, even if a payload codec adds to them

logger = logging.getLogger(__name__)


class Delivery(Enum):
    """What became of one delivery."""

    DELIVERED = "delivered"
    NO_CALLER = "no caller"
    """The caller has ended, never existed, or takes no more signals: final."""
    UNKNOWN = "unknown"
    """May have arrived: try again, as a second receipt is ignored."""


class ReceiptSender:
    """Sends receipts the way that callers asked for: to workflows by signal, to open activities by completing them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._slots_of_troubled = asyncio.Semaphore(CONCURRENCY)
        self._troubled: set[ReplyAddress] = set()
        """Callers whose last call was slow or failed. Those that hang keep only each other waiting."""
        self._given_up: defaultdict[ReplyAddress, set[asyncio.Task[None]]] = defaultdict(set)
        """Calls that have been cancelled and have not ended yet."""
        self._failures = 0
        self._warn_at = -math.inf

    async def deliver(self, caller: ReplyAddress, receipts: Sequence[WriteReceipt]) -> Delivery:
        """Send one caller its receipts, in one call unless they exceed `SIGNAL_BYTES`.

        Raises `ConfigurationError` when Temporal has no such namespace or refuses the batcher's credentials, so that no
        caller can be reached. Whatever a payload codec does counts as `Delivery.UNKNOWN` for this caller alone.
        """
        for part in _parts(receipts):
            try:
                async with asyncio.timeout(CALL_LIMIT.total_seconds()):
                    await self._send_in_turn(caller, part)
            except RPCError as error:
                delivery = _delivery(error, caller, self._client.namespace)
                if delivery is Delivery.UNKNOWN:
                    self._note_failure(caller, error)
                return delivery
            except Exception as error:  # noqa: BLE001 - a payload codec may raise anything, or take too long
                self._note_failure(caller, error)
                return Delivery.UNKNOWN
        self._troubled.discard(caller)
        return Delivery.DELIVERED

    def is_troubled(self, caller: ReplyAddress) -> bool:
        """Whether the last call to it was slow or failed: the next one may be, too."""
        return caller in self._troubled

    async def _send_in_turn(self, caller: ReplyAddress, receipts: list[WriteReceipt]) -> None:
        """Send, counted among those at once until it proves slow. Ends when it is cancelled, whatever a codec does."""
        await self._check_ended(caller)
        sending = None
        try:
            async with self._slots_of_troubled if self.is_troubled(caller) else self._slots:
                sending = asyncio.create_task(self._send(caller, receipts))
                await asyncio.wait({sending}, timeout=SLOW_AFTER.total_seconds())
            if not sending.done():
                self._remember(caller)
                await asyncio.wait({sending})
        except asyncio.CancelledError:
            if sending is not None:
                self._give_up(caller, sending)
            raise
        if sending.cancelled():
            # For instance a codec whose callers share one call to a key server. Passed on, this would end our task.
            raise TimeoutError("the payload codec cancelled the call")
        sending.result()

    def _give_up(self, caller: ReplyAddress, sending: "asyncio.Task[None]") -> None:
        def end(_: "asyncio.Task[None]") -> None:
            given_up.discard(sending)
            if not given_up:
                self._given_up.pop(caller, None)
            if not sending.cancelled():
                sending.exception()  # nobody else asks for it, which asyncio would complain about

        given_up = self._given_up[caller]
        given_up.add(sending)
        sending.cancel()
        sending.add_done_callback(end)

    async def _check_ended(self, caller: ReplyAddress) -> None:
        """Raise `TimeoutError` when a call that was given up goes on. With one more at each try, they would pile up."""
        if given_up := self._given_up.get(caller):
            _, going_on = await asyncio.wait(given_up, timeout=ENDS_WITHIN.total_seconds())
            if going_on:
                raise TimeoutError("an earlier call goes on, although it was cancelled")

    def _remember(self, caller: ReplyAddress) -> None:
        if len(self._troubled) >= MOST_TROUBLED:
            self._troubled.clear()
        self._troubled.add(caller)

    def _note_failure(self, caller: ReplyAddress, error: Exception) -> None:
        self._remember(caller)
        self._failures += 1
        now = asyncio.get_running_loop().time()
        if now >= self._warn_at:
            logger.warning(
                "receipts of %s could not be sent: %s (failures since the last warning: %d)",
                caller.workflow_id,
                reason_of(error),
                self._failures,
            )
            self._failures, self._warn_at = 0, now + WARN_EVERY.total_seconds()

    async def _send(self, caller: ReplyAddress, receipts: list[WriteReceipt]) -> None:
        if caller.activity_id is None:
            await self._signal(caller, receipts)
            return
        # By id, not by task token: a retry of the activity has another token.
        activity = self._client.get_async_activity_handle(
            workflow_id=caller.workflow_id, run_id=caller.run_id, activity_id=caller.activity_id
        )
        try:
            # A batch has several receipts for an activity only after a lost acknowledgement; they say the same.
            await activity.complete(receipts[0], rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or _names_missing_namespace(error):
                raise
            # The activity has ended or is between two attempts. Its workflow may still wait, also for a replay.
            await self._signal(caller, receipts)

    async def _signal(self, caller: ReplyAddress, receipts: list[WriteReceipt]) -> None:
        # Without a run id: the attempt in each receipt tells which run it is for, also after a reset.
        workflow = self._client.get_workflow_handle(caller.workflow_id)
        await workflow.signal(CONFIRMATION_SIGNAL, receipts, rpc_timeout=RPC_TIMEOUT)


def _parts(receipts: Sequence[WriteReceipt]) -> Iterator[list[WriteReceipt]]:
    if len(receipts) == 1:
        yield list(receipts)
        return
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
            raise ConfigurationError(f"Temporal has no namespace {namespace!r}: create it or set TEMPORAL_NAMESPACE.")
        case RPCStatusCode.NOT_FOUND:
            return Delivery.NO_CALLER
        case RPCStatusCode.INVALID_ARGUMENT:
            # For instance a caller that has received its 10,000 signals, the limit of a run.
            logger.warning("caller %s cannot be reached: %s", caller.workflow_id, error)
            return Delivery.NO_CALLER
        case RPCStatusCode.PERMISSION_DENIED | RPCStatusCode.UNAUTHENTICATED:
            raise ConfigurationError(
                f"Temporal refuses the batcher's confirmations ({error}): check its API key and its TLS settings."
            )
        case _:
            return Delivery.UNKNOWN


def _names_missing_namespace(error: RPCError) -> bool:
    """Whether NOT_FOUND means a missing namespace, not a missing caller; only the error's details tell."""
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details)
