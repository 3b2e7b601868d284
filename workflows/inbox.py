"""The receipts that a workflow waits for, and the ids that it gives to its requests."""

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from temporalio import workflow
from temporalio.converter import value_to_type

from write_batcher.errors import WriteRejected
from write_batcher.models import CONFIRMATION_SIGNAL, Outcome, WriteReceipt

MAX_WORKFLOW_ID_BYTES = 400  # in a default request id, which may have 512 bytes

Identity = tuple[str, str]  # of a request in this workflow: queue and request id


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What one call of `submit` wants written."""

    queue: str
    request_id: str
    table: str
    record: dict[str, Any]
    key: str
    call: int
    """Numbers the calls of this workflow, from 1. Concurrent calls for one request share a number and a receipt."""

    @property
    def identity(self) -> Identity:
        return self.queue, self.request_id


def current_attempt() -> str:
    """Return the id of the current attempt: new for every run, and for every reset of a run."""
    # Unlike the run id, the seed stays the same when this history is replayed in a run that was reset later, and is new
    # from the reset on: a replay neither forgets what an earlier attempt was told, nor takes it for its own.
    return f"{workflow.random_seed():x}"


class Inbox:
    """The receipts that this workflow waits for. All `BatchedWrites` of a workflow share one, as they share the signal
    and the numbering of requests.
    """

    def __init__(self) -> None:
        self._submitted = 0
        self._calls = 0
        self._waiting: dict[Identity, list[Write]] = {}
        self._receipts: dict[Identity, WriteReceipt] = {}

    @classmethod
    def of_this_workflow(cls) -> "Inbox":
        """Return the workflow's inbox; create it, with its signal handler, if there is none."""
        handler = workflow.get_signal_handler(CONFIRMATION_SIGNAL)
        inbox = getattr(handler, "__self__", None)
        if not isinstance(inbox, cls):
            inbox = cls()
            workflow.set_signal_handler(CONFIRMATION_SIGNAL, inbox.on_confirmation)
        return inbox

    def next_request_id(self) -> str:
        """Return an id that is stable over retries, replays and resets of this run, and new after continue-as-new."""
        # The first execution run id survives a reset. A random id would not, and a reset would write twice. Without
        # `after-`, the first two runs of a continue-as-new chain would use the same ids.
        info = workflow.info()
        self._submitted += 1
        run = f"after-{info.continued_run_id}" if info.continued_run_id else info.first_execution_run_id
        return f"{_shortened(info.workflow_id)}/{run}/{self._submitted}"

    def next_call(self, queue: str, request_id: str) -> int:
        """Return the number of a new call of `submit`."""
        if waiting := self._waiting.get((queue, request_id)):
            return waiting[0].call
        self._calls += 1
        return self._calls

    def expect(self, write: Write) -> None:
        """Begin to wait for the receipt of `write`.

        Raises `WriteRejected` when its id is being submitted with another record: the receipt of one could not be told
        from that of the other.
        """
        waiting = self._waiting.setdefault(write.identity, [])
        if any((other.table, other.record) != (write.table, write.record) for other in waiting):
            raise WriteRejected(
                f"Request id {write.request_id!r} is being submitted with another record: "
                "give each record its own request id."
            )
        waiting.append(write)

    def forget(self, write: Write) -> None:
        """Stop waiting for the receipt of `write`."""
        self._waiting[write.identity].pop()
        if not self._waiting[write.identity]:
            del self._waiting[write.identity]
            self._receipts.pop(write.identity, None)

    def receipt(self, write: Write) -> WriteReceipt | None:
        """Return the receipt if it has arrived."""
        return self._receipts.get(write.identity)

    async def wait(self, write: Write, timeout: timedelta) -> WriteReceipt | None:
        """Wait for the receipt; None when it does not arrive within `timeout`."""
        if timeout > timedelta(0):
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: write.identity in self._receipts, timeout=timeout, timeout_summary="write confirmation"
                )
        return self.receipt(write)

    async def wait_for_replacement(self, write: Write, known: WriteReceipt) -> WriteReceipt:
        """Wait for the receipt that replaces `known`, however long that takes."""
        # Several calls may wait for one request: none of them takes the receipt away from the others.
        await workflow.wait_condition(lambda: self.receipt(write) not in (None, known))
        return self._receipts[write.identity]

    def on_confirmation(self, receipts: Any = None, *_rest: Any) -> None:
        """Handle the signal `write_confirmation`."""
        # Anyone may send this signal, and a handler that raises would fail the workflow task for ever. So it takes any
        # arguments, and ignores what is not a receipt, not awaited, or known already.
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
            for identity in [identity for identity in self._waiting if binds and _is_for(receipt, identity)]:
                # A rejection is not final: its dead letter may be replayed before this workflow has heard of either.
                known = self._receipts.get(identity)
                if known is None or known.outcome is Outcome.REJECTED:
                    self._receipts[identity] = receipt


def _is_for(receipt: WriteReceipt, identity: Identity) -> bool:
    queue, request_id = identity
    return receipt.request_id == request_id and receipt.queue in (None, queue)


def _shortened(workflow_id: str) -> str:
    # Temporal allows workflow ids of 1,000 bytes, a request id may have 512.
    if len(workflow_id.encode()) <= MAX_WORKFLOW_ID_BYTES:
        return workflow_id
    return f"{workflow_id[:40]}~{sha256(workflow_id.encode()).hexdigest()}"
