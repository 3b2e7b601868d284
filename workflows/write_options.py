"""The options of `BatchedWrites`."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from write_batcher.models import ConfirmBy


class OnRejected(StrEnum):
    """What `submit` does when the database refuses the record."""

    FAIL = "fail"
    """Raise `WriteRejected`."""
    WAIT = "wait"
    """Wait, for days if need be, until an operator has repaired the cause and replayed the dead letter. Has no effect
    with `ConfirmBy.NONE`.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How a workflow writes to one queue."""

    queue: str = "default"
    """The batcher's setting `queue`."""
    confirm_by: ConfirmBy = ConfirmBy.SIGNAL
    on_rejected: OnRejected = OnRejected.FAIL
    submit_timeout: timedelta = timedelta(minutes=10)
    """How long to try to append a request, through outages of Redis and a full stream. Together with `confirm_timeout`
    it must stay below the batcher's `ledger_retention`.
    """
    confirm_timeout: timedelta = timedelta(minutes=2)
    """How long to wait for the receipt after the append. Halfway, the request is submitted once more under the same id,
    in case Redis has lost it. Must be above the batcher's `max_wait`, and should be above twice as much.
    """
    settle_timeout: timedelta = timedelta(minutes=1)
    """How long to ask the database for the outcome after that."""
    batcher_task_queue: str | None = None
    """The task queue of the workers that ask the database; None: the default of the queue."""
