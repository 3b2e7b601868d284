"""The receipts that a workflow waits for, and which of them it takes for its own."""

import contextlib
from typing import Any

from temporalio import workflow
from temporalio.converter import value_to_type

from write_batcher.errors import WriteNotSubmitted
from write_batcher.models import Outcome, WriteReceipt, WriteRequest
from write_batcher.workflows.awaited_write import Write


def accepts(receipt: WriteReceipt, *, queue: str, request: WriteRequest) -> bool:
    """Whether `receipt` tells what became of `request`, which was submitted to `queue` and knows its `record_hash`.

    Whoever wrote an equal record under this id, it is written. A rejection or a withdrawal is about one attempt.
    """
    if (receipt.queue, receipt.request_id) != (queue, request.request_id):
        return False
    match receipt.outcome:
        case Outcome.WRITTEN | Outcome.DUPLICATE:
            return receipt.record_hash == request.record_hash
        case Outcome.REJECTED | Outcome.WITHDRAWN:
            # Without a hash when nobody could decode the record.
            return receipt.attempt == request.attempt and receipt.record_hash in (None, request.record_hash)
        case _:
            return False


class Inbox:
    """The writes of a workflow that wait for receipts. A receipt is looked up, however many wait."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str | None, str], dict[str | None, Write]] = {}
        """By queue and request id, then by attempt: several calls may submit the same request."""

    def expect(self, write: Write) -> None:
        """Begin to take receipts for `write`."""
        self._waiting.setdefault(write.identity, {})[write.attempt] = write

    def forget(self, write: Write) -> None:
        """Take no more receipts for `write`."""
        same_request = self._waiting.get(write.identity, {})
        same_request.pop(write.attempt, None)
        if not same_request:
            self._waiting.pop(write.identity, None)

    def on_confirmation(self, receipts: Any = None, *_rest: Any) -> None:
        """Handle the signal `write_confirmation`."""
        # Anyone may send this signal, and a handler that raises would fail the workflow task for ever. So it takes any
        # arguments, and ignores what is not a receipt, or not awaited.
        for item in receipts if isinstance(receipts, list) else []:
            try:
                receipt: WriteReceipt = value_to_type(WriteReceipt, item)
            except Exception:  # noqa: BLE001 - see above
                workflow.logger.warning("ignored a malformed receipt")
                continue
            for write in self._waiting.get((receipt.queue, receipt.request_id), {}).values():
                with contextlib.suppress(WriteNotSubmitted):  # its record is no JSON: it has not been sent
                    if accepts(receipt, queue=write.queue, request=write.request):
                        write.take(receipt)
