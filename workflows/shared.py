"""What all `BatchedWrites` of a workflow share: the signal, the numbering of requests, and what is under way."""

from hashlib import sha256
from typing import Any

from temporalio import workflow

from write_batcher.errors import InvalidWriteOptions
from write_batcher.models import CONFIRMATION_SIGNAL
from write_batcher.workflows.alarms import Alarms
from write_batcher.workflows.enqueuing import Enqueuing
from write_batcher.workflows.inbox import Inbox
from write_batcher.workflows.settling import Settling

MAX_WORKFLOW_ID_BYTES = 400  # in a default request id, which may have 512 bytes


class Shared:
    """One for each run of a workflow."""

    def __init__(self) -> None:
        info = workflow.info()
        self.workflow_id = info.workflow_id
        self.first_run_id = info.first_execution_run_id
        # The first execution run id survives a reset. A random id would not, and a reset would write twice. Without
        # `after-`, the first two runs of a continue-as-new chain would use the same ids.
        run = f"after-{info.continued_run_id}" if info.continued_run_id else info.first_execution_run_id
        self._id_prefix = f"{_shortened(info.workflow_id)}/{run}"
        self.inbox = Inbox()
        self.alarms = Alarms()
        self.enqueuing = Enqueuing(self.alarms)
        self.settling = Settling(self.alarms)
        self._evicted = False
        self._submitted = 0
        self._calls = 0

    @classmethod
    def of_this_workflow(cls) -> "Shared":
        """Return what this workflow shares; create it, with its signal handler, if there is none.

        Raises `InvalidWriteOptions` when the workflow has a handler of its own for the signal: its writes would hear of
        no receipt, or the handler of no signal.
        """
        handler: Any = workflow.get_signal_handler(CONFIRMATION_SIGNAL)
        if handler is None:
            shared = cls()
            workflow.set_signal_handler(CONFIRMATION_SIGNAL, shared.on_confirmation)
            return shared
        known = getattr(handler, "__self__", None)
        if not isinstance(known, cls):
            raise InvalidWriteOptions(
                f"This workflow has a handler of its own for the signal {CONFIRMATION_SIGNAL!r}, which BatchedWrites "
                "needs: give your signal another name."
            )
        return known

    def on_confirmation(self, receipts: Any = None, *rest: Any) -> None:
        """Handle the signal `write_confirmation`."""
        self.inbox.on_confirmation(receipts, *rest)

    def is_evicted(self) -> bool:
        """Whether the workflow is being evicted from its worker's cache. That cancels all tasks, as a cancelled
        workflow does, but there must be no commands then, and no task may go on.
        """
        if not self._evicted:
            try:
                workflow.set_current_details(workflow.get_current_details())  # the least of what is refused then
            except Exception:
                raise
            except BaseException:  # noqa: BLE001 - it has no public name
                self._evicted = True
        return self._evicted

    def next_request_id(self) -> str:
        """Return an id that is stable over retries, replays and resets of this run, and new after continue-as-new."""
        self._submitted += 1
        return f"{self._id_prefix}/{self._submitted}"

    def next_attempt(self) -> str:
        """Return the id of a new call of `submit`: new in every run and after every reset, so that no outcome of an
        earlier call binds it.
        """
        # Unlike the run id, the seed stays the same when this history is replayed in a run that was reset later, and is
        # new from the reset on: a replay neither forgets what an earlier attempt was told, nor takes it for its own.
        self._calls += 1
        return f"{workflow.random_seed():x}-{self._calls}"


def _shortened(workflow_id: str) -> str:
    # Temporal allows workflow ids of 1,000 bytes, a request id may have 512.
    if len(workflow_id.encode()) <= MAX_WORKFLOW_ID_BYTES:
        return workflow_id
    return f"{workflow_id[:40]}~{sha256(workflow_id.encode()).hexdigest()}"
