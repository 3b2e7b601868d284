"""Sends confirmations from a batcher workflow to its callers."""

import asyncio
from collections import deque
from collections.abc import Iterable

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from write_batcher.compare.signal_batcher.batcher_limits import MAX_CARRIED_CONFIRMATION_BYTES
from write_batcher.compare.signal_batcher.batcher_state import UnsentConfirmation
from write_batcher.compare.signal_batcher.wire import CONFIRMATION_SIGNAL, Confirmation

ATTEMPTS = 4
FIRST_RETRY_S = 0.5  # doubled after each further failure

CALLER_NOT_FOUND = "ExternalWorkflowExecutionNotFound"  # the type of Temporal's failure for such a signal


class ConfirmationSender:
    """Signals callers in the background, at most `at_once` at a time: a caller that cannot be reached delays no other.

    Runs inside a workflow. `unsent` is what the run before it left; `resume` begins with it.
    """

    def __init__(self, unsent: Iterable[UnsentConfirmation], *, at_once: int) -> None:
        self._unsent = deque(unsent)
        self._unsent_bytes = sum(one.size_bytes for one in self._unsent)
        self._at_once = at_once
        self._in_flight: set[asyncio.Task[None]] = set()
        self._is_held_back = False

    @property
    def is_sending(self) -> bool:
        """Whether a confirmation is in flight."""
        return bool(self._in_flight)

    def unsent(self) -> list[UnsentConfirmation]:
        """Return the confirmations that were not begun, the oldest first."""
        return list(self._unsent)

    def send(self, confirmation: UnsentConfirmation) -> None:
        """Send a confirmation once its turn has come."""
        self._unsent.append(confirmation)
        self._unsent_bytes += confirmation.size_bytes
        self._start()

    def hold_back(self) -> None:
        """Begin no further confirmation, unless there are more than the next run can be given.

        Otherwise a stream of refusals would always keep one in flight, and the run could not end.
        """
        self._is_held_back = True

    def resume(self) -> None:
        """Send what is unsent, and no longer hold back."""
        self._is_held_back = False
        self._start()

    def _start(self) -> None:
        while self._unsent and len(self._in_flight) < self._at_once:
            if self._is_held_back and self._unsent_bytes <= MAX_CARRIED_CONFIRMATION_BYTES:
                return
            one = self._unsent.popleft()
            self._unsent_bytes -= one.size_bytes
            sending = asyncio.create_task(_signal(one.caller, one.confirmation))
            self._in_flight.add(sending)
            sending.add_done_callback(self._done)

    def _done(self, sending: asyncio.Task[None]) -> None:
        self._in_flight.discard(sending)
        self._start()


async def _signal(caller: str, confirmation: Confirmation) -> None:
    handle = workflow.get_external_workflow_handle(caller)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await handle.signal(CONFIRMATION_SIGNAL, confirmation)
            return
        except ApplicationError as error:
            if error.type == CALLER_NOT_FOUND or attempt == ATTEMPTS:
                workflow.logger.warning(
                    "the confirmation of request %s (%s) could not be sent to %s: %s",
                    confirmation.request_id,
                    confirmation.status.value,
                    caller,
                    error,
                )
                return
        await workflow.sleep(FIRST_RETRY_S * 2.0 ** (attempt - 1) * workflow.random().uniform(0.5, 1.0))
