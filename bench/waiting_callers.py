"""Workflows that wait for a receipt on a real Temporal, and what has arrived at them."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from write_batcher.errors import WrongWork
from write_batcher.models import ConfirmBy, ReplyAddress
from write_batcher.workers.embedded.starter import START_CONCURRENCY, gather_bounded

TASK_QUEUE = "bench-callers"
ACTIVITY_ID = "write"
OPEN_FOR = timedelta(hours=1)
WAITING_WITHIN = timedelta(seconds=60)
POLL_EVERY = timedelta(milliseconds=500)

ARRIVED = {
    ConfirmBy.SIGNAL: EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
    ConfirmBy.COMPLETION: EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
}
# Started, and a workflow task scheduled, started, completed; with completion, an activity scheduled.
EVENTS_WHEN_WAITING = {ConfirmBy.SIGNAL: 4, ConfirmBy.COMPLETION: 5}


@workflow.defn
class WaitingCaller:
    """Waits for ever for a signal, or for an activity that somebody else completes."""

    @workflow.run
    async def run(self, by_completion: bool) -> None:
        if by_completion:
            await workflow.execute_activity(
                leave_open, activity_id=ACTIVITY_ID, start_to_close_timeout=OPEN_FOR, schedule_to_close_timeout=OPEN_FOR
            )
        await workflow.wait_condition(lambda: False)


@activity.defn
async def leave_open() -> None:
    """Stay open after this function has returned."""
    activity.raise_complete_async()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCallers:
    """Callers that wait, all for the same kind of confirmation. No worker runs them any more: whatever happens next is
    the work of those who confirm and of the server.
    """

    client: Client
    mode: ConfirmBy
    addresses: Sequence[ReplyAddress]

    @classmethod
    async def start(cls, client: Client, mode: ConfirmBy, count: int) -> "WaitingCallers":
        """Start `count` callers, and run them until they wait. Raises `WrongWork` when not all of them do within a
        minute of the last start.
        """
        series = f"bench-{secrets.token_hex(4)}"

        async def start(number: int) -> ReplyAddress:
            handle = await client.start_workflow(
                WaitingCaller.run, mode is ConfirmBy.COMPLETION, id=f"{series}-{number}", task_queue=TASK_QUEUE
            )
            return ReplyAddress(
                workflow_id=handle.id,
                run_id=handle.first_execution_run_id or "",
                attempt=f"{number:x}-1",
                mode=mode,
                activity_id=ACTIVITY_ID if mode is ConfirmBy.COMPLETION else None,
            )

        worker = Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=[WaitingCaller],
            activities=[leave_open],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async with worker:
            callers = cls(
                client=client, mode=mode, addresses=await gather_bounded(start, range(count), START_CONCURRENCY)
            )
            try:
                async with asyncio.timeout(WAITING_WITHIN.total_seconds()):
                    await callers._wait()
            except TimeoutError:
                raise WrongWork(
                    f"{count} workflows do not all wait after {WAITING_WITHIN.total_seconds():g} s: measure fewer at a "
                    "time (--callers)."
                ) from None
        return callers

    async def _wait(self) -> None:
        unknown = list(self.addresses)
        while unknown:
            await asyncio.sleep(POLL_EVERY.total_seconds())
            waiting = await gather_bounded(self._is_waiting, unknown, START_CONCURRENCY)
            unknown = [address for address, is_waiting in zip(unknown, waiting, strict=True) if not is_waiting]

    async def _is_waiting(self, address: ReplyAddress) -> bool:
        described = await self.client.get_workflow_handle(address.workflow_id).describe()
        if described.history_length < EVENTS_WHEN_WAITING[self.mode]:
            return False
        # An activity is open once a worker has taken it; the history has no event of that yet.
        return all(
            one.attempt == 1 and one.HasField("last_started_time")
            for one in described.raw_description.pending_activities
        )

    async def check(self, *, receipts_each: int) -> None:
        """Raise `WrongWork` unless so many receipts have arrived at every caller."""
        found = await gather_bounded(self._arrived, self.addresses, START_CONCURRENCY)
        wrong = [count for count in found if count != receipts_each]
        if wrong:
            raise WrongWork(
                f"{len(wrong)} of {len(found)} callers have another number of receipts than {receipts_each}, "
                f"for instance {wrong[0]}."
            )

    async def _arrived(self, address: ReplyAddress) -> int:
        history = await self.client.get_workflow_handle(address.workflow_id).fetch_history()
        return sum(event.event_type == ARRIVED[self.mode] for event in history.events)

    async def end(self) -> None:
        """Terminate them, so that they are no work for the server during the next measurement."""

        async def terminate(address: ReplyAddress) -> None:
            await self.client.get_workflow_handle(address.workflow_id).terminate()

        await gather_bounded(terminate, self.addresses, START_CONCURRENCY)

    def parts(self, size: int) -> list["WaitingCallers"]:
        """Return them in groups of `size`."""
        return [
            WaitingCallers(client=self.client, mode=self.mode, addresses=self.addresses[first : first + size])
            for first in range(0, len(self.addresses), size)
        ]
