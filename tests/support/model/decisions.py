"""The product's own pure decisions, as the model asks for them: nothing here decides anything itself."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from fakeredis import FakeRedis

from write_batcher.activities.drain.age import SURELY_REMEMBERED_FOR, age_of
from write_batcher.models import MAX_REQUEST_AGE, Outcome, WriteReceipt, WriteRequest
from write_batcher.queue import lua
from write_batcher.sinks.sql.ledger_row import LedgerRow, expiry
from write_batcher.workflows.inbox import accepts as accepts_receipt

DAY = timedelta(days=1)
DAY_ZERO = datetime(2030, 1, 1, tzinfo=UTC)
WINDOW = timedelta(days=7)


class Row(NamedTuple):
    """A row of the ledger's table."""

    row: LedgerRow
    expires: float
    """In days."""


def expires(written_day: float) -> float:
    """Return the day on which a row may be forgotten."""
    return (expiry(DAY_ZERO + written_day * DAY, WINDOW) - DAY_ZERO) / DAY


def age(*, first_day: float, asked_day: float | None, redis_day: float, own_day: float) -> timedelta:
    """The age of an entry."""
    made_day = first_day if asked_day is None else min(first_day, asked_day)
    return age_of(first_ms=_ms(made_day), redis_ms=_ms(redis_day), own_ms=_ms(own_day))


def too_old(age: timedelta) -> bool:
    """Whether an entry of that age is not written any more, and a call of that age knows nothing by the ledger's
    silence.
    """
    return age > MAX_REQUEST_AGE


def forgotten(age: timedelta) -> bool:
    """Whether the ledger may have forgotten what became of an entry of that age."""
    return age > MAX_REQUEST_AGE + SURELY_REMEMBERED_FOR


def accepts(receipt: WriteReceipt, request: WriteRequest, queue: str) -> bool:
    """Whether a caller takes a receipt for one about its request."""
    return accepts_receipt(replace(receipt, queue=queue), queue=queue, request=request)


def is_refusal(outcome: Outcome) -> bool:
    """Whether an outcome says that a record is not written."""
    return outcome in (Outcome.REJECTED, Outcome.WITHDRAWN)


@cache
def may_join(announced_sink: str | None, sink: str) -> bool:
    """Whether a batcher with this sink may serve a queue, by the script that announces it."""
    announce = FakeRedis().register_script(lua.ANNOUNCE)
    if announced_sink is not None:
        announce(keys=["contract"], args=["one", json.dumps({"sink_id": announced_sink}), announced_sink, 0])
    accepted, _terms = announce(keys=["contract"], args=["another", json.dumps({"sink_id": sink}), sink, 0])
    return bool(accepted)


def _ms(day: float) -> int:
    return round((DAY_ZERO + day * DAY).timestamp() * 1000)
