"""What `submit` raises, in words: what became of the request, why, and what to look at."""

import asyncio
from datetime import timedelta

from write_batcher.errors import WriteNotConfirmed, WriteNotSubmitted, WriteOutcomeUnknown, WriteRejected
from write_batcher.models import MAX_REQUEST_AGE, WriteReceipt, batcher_task_queue
from write_batcher.workflows.awaited_write import Write
from write_batcher.workflows.write_options import WriteOptions


def rejected(write: Write, receipt: WriteReceipt) -> WriteRejected:
    return WriteRejected(
        f"The record of request {receipt.request_id!r} for table {write.request.table!r} is rejected: {receipt.error}"
    )


def discarded(write: Write, rejection: WriteReceipt, withdrawal: WriteReceipt) -> WriteRejected:
    return WriteRejected(
        f"{rejected(write, rejection).message.rstrip('.')}; its dead letter was {withdrawal.error or 'withdrawn'}."
    )


def not_submitted(write: Write, options: WriteOptions, *, given_up: bool) -> WriteNotSubmitted:
    within = f" within {_seconds(options.submit_timeout)}" if given_up else ""
    return WriteNotSubmitted(f"{write.name} could not be appended to queue {options.queue!r}{within}: {write.reason}")


def not_confirmed(write: Write, options: WriteOptions, receipt: WriteReceipt) -> WriteNotConfirmed:
    if receipt.error:
        return WriteNotConfirmed(f"{write.name} is withdrawn: {receipt.error}")
    at_first = f" It was refused at first: {_phrase(write.reason)}." if write.reason else ""
    return WriteNotConfirmed(
        f"{write.name} is withdrawn: it was not written within {_seconds(options.confirm_timeout)} (confirm_timeout) "
        f"after it was queued in {options.queue!r}.{at_first} Look at the batcher workers, at the workflow "
        f"write-batcher/{options.queue}/<partition>, and at the database. If they are only slow, raise "
        "confirm_timeout, or lower the batcher's max_wait."
    )


def outcome_unknown(write: Write, options: WriteOptions, why: str | None) -> WriteOutcomeUnknown:
    at_first = f" ({_phrase(write.reason)})" if write.reason else ""
    task_queue = options.batcher_task_queue or batcher_task_queue(options.queue)
    return WriteOutcomeUnknown(
        f"{write.name} is not confirmed{at_first}, and the database could not be asked within "
        f"{_seconds(options.settle_timeout)} whether it was written ({_phrase(why)}): look at the database and at the "
        f"batcher workers of task queue {task_queue!r}, then look up the request id in the table write_batcher_ledger."
    )


def perhaps_forgotten(write: Write) -> WriteOutcomeUnknown:
    return WriteOutcomeUnknown(
        f"{write.name} is not confirmed, and was submitted more than {MAX_REQUEST_AGE.days} days ago: the ledger may "
        "have forgotten it. Look for its record in the table that it is for."
    )


def cancelled(write: Write, outcome: WriteReceipt | WriteOutcomeUnknown) -> asyncio.CancelledError:
    if isinstance(outcome, WriteReceipt):
        return asyncio.CancelledError(f"{write.name} was cancelled, its outcome is {outcome.outcome.value!r}.")
    return asyncio.CancelledError(f"{write.name} was cancelled, and its outcome is unknown. {outcome.message}")


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g}s"


def _phrase(sentence: str | None) -> str:
    return (sentence or "").rstrip(".")
