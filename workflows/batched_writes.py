"""BatchedWrites, with which any workflow submits writes and awaits their receipts."""

from collections.abc import Coroutine
from typing import Any, NoReturn
from uuid import UUID

from temporalio import workflow

from write_batcher.errors import InvalidWriteOptions, WriteNotSubmitted
from write_batcher.models import ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.workflows.awaited_write import Write
from write_batcher.workflows.call import Call, waits_for_replay
from write_batcher.workflows.record_snapshot import snapshot_of
from write_batcher.workflows.request_checks import checked_id, checked_table
from write_batcher.workflows.shared import Shared
from write_batcher.workflows.write_options import WriteOptions


class BatchedWrites:
    """Submits write requests of the current workflow.

    Create it in `__init__`, under `@workflow.init`: it registers the handler of the signal `write_confirmation`, which
    must exist before the first signal is delivered. A workflow may have several, for several queues.
    """

    def __init__(self, options: WriteOptions | None = None) -> None:
        """Raises `InvalidWriteOptions` when the workflow has a handler of its own for the signal."""
        if options is not None and not isinstance(options, WriteOptions):
            raise InvalidWriteOptions(f"BatchedWrites takes WriteOptions, not a {type(options).__name__}.")
        self._options = options or WriteOptions()
        self._shared = Shared.of_this_workflow()

    def submit(
        self,
        table: str,
        record: Any,
        *,
        key: str | int | UUID | None = None,
        request_id: str | int | UUID | None = None,
    ) -> Coroutine[Any, Any, WriteReceipt]:
        """Submit `record` for the target table `table`; await the result, which comes when its batch is written. May be
        called any number of times, also thousands of times at once.

        The record is a mapping of column names to JSON values, a dataclass, or, with Temporal's pydantic converter, a
        pydantic model. It is encoded in this call: what the workflow changes in it before it awaits is not written.

        Requests with the same `key` go to the same partition and are written in the order of their append; the default
        is the request id. The default `request_id` is stable over retries, replays and resets of this workflow, and new
        after continue-as-new. Give your own of at most 512 bytes, such as an order number, to have the record written
        once whichever workflows submit it. Submitted with another record, the same id is rejected.

        The result is the receipt, with the outcome `written` or `duplicate`. With `ConfirmBy.NONE` the outcome is
        `queued`, as soon as the request is appended.

        Awaiting it raises `WriteRejected` when the database refuses the record, unless `on_rejected` is
        `OnRejected.WAIT`; `WriteNotSubmitted` when the request is invalid or cannot be appended within
        `submit_timeout`; `WriteNotConfirmed` when no receipt comes within `confirm_timeout` and the write has been
        withdrawn; and `WriteOutcomeUnknown` when the database cannot be asked for the outcome within `settle_timeout`.

        When it is cancelled, it first withdraws the write, unless the outcome is decided; the message of the
        `CancelledError` names the outcome.
        """
        began = workflow.time()
        try:
            write = self._write(table, record, key, request_id, began)
        except WriteNotSubmitted as invalid:
            return _raised(invalid)
        return Call(self._options, self._shared, write, began).run()

    def _write(self, table: object, record: object, key: object, request_id: object, began: float) -> Write:
        own_id = self._shared.next_request_id() if request_id is None else checked_id("Request id", request_id)
        own_key = "" if key is None else checked_id("Key", key)
        own_table = checked_table(table)
        try:
            columns = snapshot_of(record)
        except ValueError as error:
            raise WriteNotSubmitted(
                f"The record of request {own_id!r} for table {own_table!r} cannot be encoded: {error}."
            ) from error
        reply = ReplyAddress(
            workflow_id=self._shared.workflow_id,
            # The activity replaces it with the run that it belongs to. That they differ tells it of a reset.
            run_id=self._shared.first_run_id,
            attempt=self._shared.next_attempt(),
            awaits_replay=waits_for_replay(self._options),
        )
        return Write(
            queue=self._options.queue,
            request=WriteRequest(
                request_id=own_id,
                table=own_table,
                record=columns,
                key=own_key,
                reply=reply,
                asked_ms=round(began * 1000),
            ),
        )


async def _raised(error: WriteNotSubmitted) -> NoReturn:
    raise error
