"""The older design: a batcher workflow fed by signals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from write_batcher import Settings
from write_batcher.compare.contenders.design import BATCHER, MAIN, Design, Order, Push, PushRefused
from write_batcher.compare.signal_batcher.caller_workflow import SignalMainInput, SignalMainResult, SignalMainWorkflow
from write_batcher.compare.signal_batcher.roles import run_batcher_worker, run_main_worker
from write_batcher.compare.signal_batcher.wire import SUBMIT_SIGNAL, SignalledWrite, batcher_id

# How the server refuses a signal: its limits, overload, and a batcher that does not run.
REFUSALS = (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.NOT_FOUND)


class SignalDesign(Design):
    """Callers signal a workflow, which collects batches in its state and signals back."""

    roles = (MAIN, BATCHER)
    writer = BATCHER

    def batcher_id(self, settings: Settings) -> str:
        return batcher_id(settings.queue)

    async def run_worker(self, role: str, settings: Settings) -> None:
        await {MAIN: run_main_worker, BATCHER: run_batcher_worker}[role](settings)

    async def start(self, client: Client, settings: Settings, order: Order) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            SignalMainWorkflow.run,
            SignalMainInput(
                item=order.item,
                cents=order.cents,
                queue=settings.queue,
                submit_timeout_s=settings.submit_timeout.total_seconds(),
                confirm_timeout_s=settings.confirm_timeout.total_seconds(),
            ),
            id=order.workflow_id,
            task_queue=settings.main_task_queue,
        )

    def latency_ms(self, result: SignalMainResult) -> int:
        return result.latency_ms

    @asynccontextmanager
    async def producer(self, client: Client, settings: Settings) -> AsyncIterator[Push]:
        """Open a producer that signals as callers do, without asking for confirmation."""
        batcher = client.get_workflow_handle(self.batcher_id(settings))

        async def push(*orders: Order) -> None:
            [order] = orders
            request = SignalledWrite(
                workflow_id=order.workflow_id,
                data=order.record(),
                requesting_workflow="",
                request_id=order.workflow_id,
                submitted_at=datetime.now(UTC).isoformat(),
            )
            try:
                await batcher.signal(SUBMIT_SIGNAL, asdict(request))
            except RPCError as error:
                if error.status not in REFUSALS:
                    raise
                raise PushRefused(f"{error.status.name}: {error}", kind=f"signal: {error.status.name}") from error

        yield push
