"""Who waits for a dead letter: a replay writes what its caller may have been told is refused."""

from enum import Enum

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from write_batcher.models import ReplyAddress
from write_batcher.workers.operating.dead_letter_repair import Letter
from write_batcher.workers.operating.host import RPC_TIMEOUT, temporal_failure


class LeftBecause(Enum):
    """Why a replay leaves a dead letter, in words for the operator."""

    CALLER_FAILED = "its caller was told that it is not written"
    CALLER_ENDED = "its caller waited for a replay and has ended"
    CALLER_UNKNOWN = "its reply address cannot be read, so its caller may have been told that it is not written"


class LetterCallers:
    """Asks Temporal about the callers of dead letters. Methods raise `OperationFailed` when it does not answer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def reason_to_leave(self, letter: Letter) -> LeftBecause | None:
        """Return why the letter is not to be replayed, or None: it has no caller, or its caller still waits for it."""
        if letter.reply_unreadable:
            return LeftBecause.CALLER_UNKNOWN
        if letter.reply is None or not letter.reply.waits:
            return None
        if not letter.reply.awaits_replay:
            return LeftBecause.CALLER_FAILED
        return None if await self._runs(letter.reply) else LeftBecause.CALLER_ENDED

    async def _runs(self, caller: ReplyAddress) -> bool:
        latest = await self._describe(caller.workflow_id, None)
        if latest is None or latest.status is not WorkflowExecutionStatus.RUNNING:
            return False
        if caller.run_id in ("", latest.run_id):
            return True
        # A reset goes on in another run of the same chain; a workflow that has only the same id is another caller.
        asked = await self._describe(caller.workflow_id, caller.run_id)
        return asked is not None and _first_run(asked) == _first_run(latest)

    async def _describe(self, workflow_id: str, run_id: str | None) -> WorkflowExecutionDescription | None:
        try:
            return await self._client.get_workflow_handle(workflow_id, run_id=run_id).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                return None
            raise temporal_failure(error) from error


def _first_run(description: WorkflowExecutionDescription) -> str:
    return description.raw_description.workflow_execution_info.first_run_id
