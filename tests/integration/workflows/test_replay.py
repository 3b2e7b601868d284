"""Workflows that an earlier version started go on under this one. `record_histories.py` recorded their histories."""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.support.order_callers import Orders
from write_batcher.workers.plugin import with_passthrough
from write_batcher.workflows.batcher import BatcherWorkflow
from write_batcher.workflows.main import MainInput, MainWorkflow

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))

END_OF = {
    "main_completed": "WORKFLOW_EXECUTION_COMPLETED",
    "main_resubmitted": "WORKFLOW_EXECUTION_COMPLETED",
    "main_settled_withdrawn": "WriteNotConfirmed",
    "main_settled_written": "WORKFLOW_EXECUTION_COMPLETED",
    "main_outcome_unknown": "WriteOutcomeUnknown",
    "main_cancelled": "WORKFLOW_EXECUTION_CANCELED",
    "main_not_submitted": "WriteNotSubmitted",
    "main_rejected": "WriteRejected",
    "main_by_completion_completed": "WORKFLOW_EXECUTION_COMPLETED",
    "main_by_completion_resubmitted": "WORKFLOW_EXECUTION_COMPLETED",
    "main_by_completion_rejected": "WriteRejected",
    "main_by_completion_cancelled": "WORKFLOW_EXECUTION_CANCELED",
    "orders_rejected_then_replayed": "WORKFLOW_EXECUTION_COMPLETED",
    "orders_rejected_then_reset": "WORKFLOW_EXECUTION_COMPLETED",
    "orders_several_at_once": "WORKFLOW_EXECUTION_COMPLETED",
    "batcher_cancelled": "WORKFLOW_EXECUTION_CANCELED",
    "batcher_continued_as_new": "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    "batcher_reconfigured": "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    "batcher_paused_resumed_flushed_stopped": "WORKFLOW_EXECUTION_COMPLETED",
    "batcher_retired": "WORKFLOW_EXECUTION_COMPLETED",
}


@workflow.defn(name="MainWorkflow")
class ChangedMain:
    @workflow.run
    async def run(self, _order: MainInput) -> None:
        await workflow.sleep(1)


def history_in(file: Path) -> WorkflowHistory:
    workflow_id = file.stem.partition("_")[0]  # as recorded, because request ids begin with it
    return WorkflowHistory.from_json(workflow_id, file.read_text("utf-8"))


def replayer_of(file: Path) -> Replayer:
    if file.stem.startswith("orders"):  # a workflow of the tests: its sandbox would load pytest anew
        return Replayer(workflows=[Orders], workflow_runner=UnsandboxedWorkflowRunner())
    return Replayer(workflows=[MainWorkflow, BatcherWorkflow], workflow_runner=with_passthrough(None))


@pytest.mark.parametrize("file", HISTORIES, ids=lambda file: file.stem)
async def test_replay_follows_the_recorded_history(file: Path) -> None:
    await replayer_of(file).replay_workflow(history_in(file))


@pytest.mark.parametrize(("name", "end"), END_OF.items())
def test_recorded_history_ends_as_its_name_says(name: str, end: str) -> None:
    [file] = [file for file in HISTORIES if file.stem == name]
    last: dict[str, Any] = json.loads(file.read_text("utf-8"))["events"][-1]
    assert end in json.dumps(last)


async def test_replay_notices_a_workflow_that_does_something_else() -> None:
    [file] = [file for file in HISTORIES if file.stem == "main_completed"]
    replayer = Replayer(workflows=[ChangedMain], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(workflow.NondeterminismError):
        await replayer.replay_workflow(history_in(file))
