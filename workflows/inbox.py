"""The receipts that one workflow waits for, and the names it gives its requests."""

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from temporalio import workflow
from temporalio.converter import value_to_type

from write_batcher.errors import WriteRejected
from write_batcher.models import CONFIRMATION_SIGNAL, Outcome, WriteReceipt

MAX_WORKFLOW_ID_BYTES = 400  # in a request id, which has at most 512 bytes


Name = tuple[str, str]  # of a request in this workflow: queue and request id


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What one call of `submit` wants written."""

    queue: str
    request_id: str
    table: str
    record: dict[str, Any]
    key: str
    call: int
    """Numbers the calls of this workflow, from 1; calls at once for one request have one number and one answer."""

    @property
    def name(self) -> Name:
        return self.queue, self.request_id


def current_attempt() -> str:
    """Names the try that this code is: new for every run, and for every reset of a run."""
    # The seed, unlike the run id, is the same when this very history is replayed in a run that was reset later, and
    # new from the reset on: what an earlier attempt was told is neither forgotten in replay nor taken for this one's.
    return f"{workflow.random_seed():x}"


class Inbox:
    """Receipts that this workflow waits for. One per workflow: all BatchedWrites share its signal and its counter."""

    def __init__(self) -> None:
        self._submitted = 0
        self._calls = 0
        self._waiting: dict[Name, list[Write]] = {}
        self._receipts: dict[Name, WriteReceipt] = {}

    @classmethod
    def of_this_workflow(cls) -> "Inbox":
        """The one that is there, or a new one with its signal handler."""
        handler = workflow.get_signal_handler(CONFIRMATION_SIGNAL)
        inbox = getattr(handler, "__self__", None)
        if not isinstance(inbox, cls):
            inbox = cls()
            workflow.set_signal_handler(CONFIRMATION_SIGNAL, inbox.on_confirmation)
        return inbox

    def next_request_id(self) -> str:
        """Stable over retries, replays and resets of this run; new in a run that continues another."""
        # The first execution run id survives a reset; a random id would not, and a reset would write twice.
        # Without `after-` the first two runs of a continue-as-new chain would share their ids.
        info = workflow.info()
        self._submitted += 1
        run = f"after-{info.continued_run_id}" if info.continued_run_id else info.first_execution_run_id
        return f"{_shortened(info.workflow_id)}/{run}/{self._submitted}"

    def next_call(self, queue: str, request_id: str) -> int:
        """The number of this call of `submit`."""
        if waiting := self._waiting.get((queue, request_id)):
            return waiting[0].call
        self._calls += 1
        return self._calls

    def expect(self, write: Write) -> None:
        """Raises WriteRejected when the id is being submitted with another record: one receipt could not tell them
        apart.
        """
        waiting = self._waiting.setdefault(write.name, [])
        if any((other.table, other.record) != (write.table, write.record) for other in waiting):
            raise WriteRejected(
                f"request id {write.request_id} is being submitted with another record: "
                "give each record a request id of its own"
            )
        waiting.append(write)

    def forget(self, write: Write) -> None:
        """This call no longer waits."""
        self._waiting[write.name].pop()
        if not self._waiting[write.name]:
            del self._waiting[write.name]
            self._receipts.pop(write.name, None)

    def receipt(self, write: Write) -> WriteReceipt | None:
        """The receipt, if it is here."""
        return self._receipts.get(write.name)

    async def wait(self, write: Write, timeout: timedelta) -> WriteReceipt | None:
        """The receipt, or None when it does not come within `timeout`."""
        if timeout > timedelta(0):
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: write.name in self._receipts, timeout=timeout, timeout_summary="write confirmation"
                )
        return self.receipt(write)

    async def wait_for_another(self, write: Write, than: WriteReceipt) -> WriteReceipt:
        """The receipt that replaces `than`, however long that takes."""
        # Several may wait for one request: none takes a receipt away from the others.
        await workflow.wait_condition(lambda: self.receipt(write) not in (None, than))
        return self._receipts[write.name]

    def on_confirmation(self, receipts: Any = None, *_rest: Any) -> None:
        """Handler of the signal `write_confirmation`."""
        # Anyone may send this signal. A handler that raises would fail the workflow task for ever, so it takes any
        # arguments and ignores what is no receipt, not awaited, or known already.
        for item in receipts if isinstance(receipts, list) else []:
            try:
                receipt: WriteReceipt = value_to_type(WriteReceipt, item)
            except Exception:  # noqa: BLE001 - see above
                workflow.logger.warning("ignored a malformed receipt")
                continue
            binds = receipt.outcome in (Outcome.WRITTEN, Outcome.DUPLICATE) or receipt.attempt in (
                None,
                current_attempt(),
            )
            for name in [name for name in self._waiting if binds and _is_for(receipt, name)]:
                # A rejection is not final: its dead letter may be replayed before this workflow has heard of either.
                known = self._receipts.get(name)
                if known is None or known.outcome is Outcome.REJECTED:
                    self._receipts[name] = receipt


def _is_for(receipt: WriteReceipt, name: Name) -> bool:
    queue, request_id = name
    return receipt.request_id == request_id and receipt.queue in (None, queue)


def _shortened(workflow_id: str) -> str:
    # Temporal allows workflow ids of 1,000 bytes, a request id has 512.
    if len(workflow_id.encode()) <= MAX_WORKFLOW_ID_BYTES:
        return workflow_id
    return f"{workflow_id[:40]}~{sha256(workflow_id.encode()).hexdigest()}"
