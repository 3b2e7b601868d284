"""What a sink answers, checked: the drain believes nothing that it does not understand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from write_batcher.errors import SinkContractBroken
from write_batcher.models import Batch, Held, Outcome, WriteReceipt, WriteRequest

DECIDED = (Outcome.WRITTEN, Outcome.DUPLICATE, Outcome.REJECTED, Outcome.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Failed:
    """The sink has raised an error, or broken its contract: what became of the request is not known."""

    reason: str


Answer = WriteReceipt | Held | Failed


def checked_answers(sink: object, batch: Batch, answers: Any) -> list[WriteReceipt | Held]:
    """Return the answers for a batch. Raises `SinkContractBroken` unless there is one per request, in order."""
    if not (
        isinstance(answers, Sequence)
        and len(answers) == len(batch.requests)
        and all(map(_answers, answers, batch.requests))
    ):
        raise SinkContractBroken(
            f"{type(sink).__name__} must return one receipt or `Held` per request, in order, and did not for batch "
            f"{batch.batch_id}."
        )
    return list(answers)


def checked_receipt(sink: object, request: WriteRequest, receipt: Any) -> WriteReceipt:
    """Return the receipt of a settled request. Raises `SinkContractBroken` when it is none."""
    if not (isinstance(receipt, WriteReceipt) and _answers(receipt, request)):
        raise SinkContractBroken(f"{type(sink).__name__} must return the receipt of the request that it settles.")
    return receipt


def _answers(answer: object, request: WriteRequest) -> bool:
    match answer:
        case WriteReceipt():
            return answer.request_id == request.request_id and answer.outcome in DECIDED
        case Held():
            return answer.request_id == request.request_id
    return False
