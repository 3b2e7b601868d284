"""What one call of `submit` wants written, and what it has heard about it."""

import asyncio
import json
from dataclasses import replace
from functools import cached_property

from write_batcher.errors import WriteNotSubmitted
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.queue.record_encoding import canonical_json, record_hash
from write_batcher.workflows.record_snapshot import fault_of

MAX_RECORD_BYTES = 1_000_000  # the input of an activity may have 2 MB, with everything around the record
ENVELOPE_BYTES = 600  # of a request in an activity's input, beside its record and its ids


class Write:
    """One call of `submit`. It hears of receipts, of the answers of its activities, and of deadlines that pass."""

    def __init__(self, *, queue: str, request: WriteRequest) -> None:
        self.queue = queue
        self._request = request
        self.receipt: WriteReceipt | None = None
        self.rejection: WriteReceipt | None = None
        """The rejection that `receipt` has replaced."""
        self.certain = True
        """Whether no append that failed or was refused can have happened all the same."""
        self.reason: str | None = None
        """Why it was first not appended. Later reasons are mostly an echo of the first."""
        self._woken: asyncio.Future[None] | None = None

    @property
    def identity(self) -> tuple[str, str]:
        """What it shares with the receipts that may be about it."""
        return self.queue, self._request.request_id

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"Request {self._request.request_id!r}"

    @property
    def attempt(self) -> str | None:
        """The attempt that it is."""
        return self._request.attempt

    @property
    def request(self) -> WriteRequest:
        """The request, with its hash. Raises `WriteNotSubmitted` when its record is not JSON, or too large."""
        return self._prepared[0]

    @property
    def size(self) -> int:
        """At most how many bytes the request has in an activity's input. Raises as `request` does."""
        return self._prepared[1]

    @cached_property
    def _prepared(self) -> tuple[WriteRequest, int]:
        # Not when the call begins: of thousands that begin at once, only those are encoded that are sent at once, or
        # the workflow task would take longer than the two seconds that it may take.
        request = self._request
        named = f"The record of request {request.request_id!r} for table {request.table!r}"
        try:
            encoded = canonical_json(request.table, request.record)
        except (TypeError, ValueError) as error:
            fault = fault_of(request.record.items(), lambda value: canonical_json("", {"": value}), error)
            raise WriteNotSubmitted(f"{named} cannot be encoded: {fault}.") from error
        # The default payload converter escapes what is not ASCII.
        size = len(encoded) if encoded.isascii() else len(json.dumps(request.record))
        if size > MAX_RECORD_BYTES:
            raise WriteNotSubmitted(
                f"{named} has {size} bytes, the limit is {MAX_RECORD_BYTES}: store large data elsewhere and write its "
                "address."
            )
        texts = f"{request.request_id}{request.key}{request.reply.workflow_id if request.reply else ''}"
        size += len(json.dumps(texts)) + ENVELOPE_BYTES
        return replace(request, record_hash=record_hash(encoded)), size

    def take(self, receipt: WriteReceipt) -> None:
        """Take a receipt that is about this write. The first is final, but a rejection: its dead letter may be
        replayed before the workflow has heard of either.
        """
        if self.receipt is None or self.receipt.outcome is Outcome.REJECTED:
            self.rejection, self.receipt = self.receipt, receipt
            self.wake()

    def refused(self, reason: str, *, certain: bool) -> None:
        """Remember that it was not appended, or `certain` is False and it may have been."""
        self.reason = self.reason or reason
        self.certain = self.certain and certain

    def news(self) -> "asyncio.Future[None]":
        """Return what is done as soon as there is news: `wake` is called."""
        self._woken = asyncio.get_running_loop().create_future()
        return self._woken

    def wake(self) -> None:
        """Have whoever waits for news look."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
