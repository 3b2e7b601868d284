"""The floor of confirming: bare calls of the SDK, a fixed number at a time, without timeouts, retries or order."""

from temporalio.client import Client

from write_batcher.bench.at_once import work_off
from write_batcher.models import CONFIRMATION_SIGNAL, ConfirmBy, ReplyAddress, WriteReceipt

Receipts = list[tuple[ReplyAddress, WriteReceipt]]


async def confirm(client: Client, receipts: Receipts, *, at_once: int) -> None:
    """Send each caller its receipt, the way it asked for."""

    async def send(one: tuple[ReplyAddress, WriteReceipt]) -> None:
        address, receipt = one
        if address.mode is ConfirmBy.SIGNAL:
            await client.get_workflow_handle(address.workflow_id).signal(CONFIRMATION_SIGNAL, [receipt])
        else:
            activity = client.get_async_activity_handle(
                workflow_id=address.workflow_id, run_id=address.run_id, activity_id=address.activity_id or ""
            )
            await activity.complete(receipt)

    await work_off(receipts, send, tasks=at_once)
