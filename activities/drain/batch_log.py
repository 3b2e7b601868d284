"""The log line of a written batch."""

import logging
from collections import Counter
from collections.abc import Sequence

from write_batcher.activities.drain.answers import DECIDED
from write_batcher.models import FlushReason, WriteReceipt


def log_batch(
    logger: logging.Logger,
    batch_id: str,
    reason: FlushReason,
    receipts: Sequence[WriteReceipt],
    write_ms: int,
    *,
    held: int,
) -> dict[str, int]:
    """Log a phrase for people, with the figures for machines as `batch`; returns the number of requests per outcome."""
    counts = Counter(receipt.outcome for receipt in receipts)
    outcomes = {outcome.value: counts[outcome] for outcome in DECIDED}
    logger.info(
        "batch %s: %d requests (%s) in %d ms, %s",
        batch_id,
        len(receipts) + held,
        reason.value,
        write_ms,
        ", ".join(f"{number} {outcome}" for outcome, number in {**outcomes, "held": held}.items() if number),
        extra={
            "batch": {
                "batch_id": batch_id,
                "size": len(receipts) + held,
                "flush_reason": reason.value,
                "write_ms": write_ms,
                **outcomes,
                "held": held,
            }
        },
    )
    return outcomes
