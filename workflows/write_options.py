"""The options of `BatchedWrites`, checked when they are given."""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from write_batcher.errors import InvalidWriteOptions
from write_batcher.escaping import shown
from write_batcher.models import MAX_REQUEST_AGE, ConfirmBy, checked_task_queue

QUEUE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # as the batcher's setting `queue` has it

E = TypeVar("E", bound=StrEnum)


class OnRejected(StrEnum):
    """What `submit` does when the database refuses the record."""

    FAIL = "fail"
    """Raise `WriteRejected`."""
    WAIT = "wait"
    """Wait until an operator has repaired the cause and replayed the dead letter, which works for 7 days. If the dead
    letter is lost meanwhile, the request is submitted again. Has no effect with `ConfirmBy.NONE`.
    """


@dataclass(frozen=True, slots=True, init=False)
class WriteOptions:
    """How a workflow writes to one queue."""

    queue: str
    """The batcher's setting `queue`."""
    confirm_by: ConfirmBy
    """How the outcome is learned. `ConfirmBy.COMPLETION` is the cheapest for one write at a time. Several that are
    submitted at once are confirmed by signal all the same, and so are those with `OnRejected.WAIT`.
    """
    on_rejected: OnRejected
    submit_timeout: timedelta
    """How long to try to append a request, through outages of Redis and a full stream."""
    confirm_timeout: timedelta
    """How long to wait for the receipt after the append. Halfway, the request is submitted once more under the same id,
    in case Redis has lost it. Must be above the batcher's `max_wait`, and should be above twice as much.
    """
    settle_timeout: timedelta
    """How long to ask the database for the outcome after that. The three timeouts together are at most 7 days."""
    batcher_task_queue: str | None
    """The task queue of the workers that ask the database; None: the default of the queue."""

    def __init__(
        self,
        *,
        queue: str = "default",
        confirm_by: ConfirmBy | str = ConfirmBy.SIGNAL,
        on_rejected: OnRejected | str = OnRejected.FAIL,
        submit_timeout: timedelta | float = timedelta(minutes=10),
        confirm_timeout: timedelta | float = timedelta(minutes=2),
        settle_timeout: timedelta | float = timedelta(minutes=1),
        batcher_task_queue: str | None = None,
    ) -> None:
        """Take texts for the values of enums, and numbers for seconds.

        Raises `InvalidWriteOptions`, a `ValueError`, when one is wrong.
        """
        given = {
            "queue": _queue(queue),
            "confirm_by": _member("confirm_by", confirm_by, ConfirmBy),
            "on_rejected": _member("on_rejected", on_rejected, OnRejected),
            "submit_timeout": _duration("submit_timeout", submit_timeout),
            "confirm_timeout": _duration("confirm_timeout", confirm_timeout),
            "settle_timeout": _duration("settle_timeout", settle_timeout),
            "batcher_task_queue": _task_queue(batcher_task_queue),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)
        if self.longest > MAX_REQUEST_AGE:
            raise InvalidWriteOptions(
                "Options submit_timeout, confirm_timeout and settle_timeout add up to "
                f"{self.longest.total_seconds():g} seconds, the limit is {MAX_REQUEST_AGE.total_seconds():g}: shorten "
                "one, because the ledger may have forgotten by then what became of a request."
            )

    @property
    def longest(self) -> timedelta:
        """How long a submit can take at most, unless it waits for a replay."""
        return self.submit_timeout + self.confirm_timeout + self.settle_timeout


def _queue(value: object) -> str:
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise InvalidWriteOptions(
            f"Option queue is {shown(value)}: use 1 to 64 letters, digits, dots, hyphens and underscores."
        )
    return str.__str__(value)


def _task_queue(value: object) -> str | None:
    if value is None:
        return None
    try:
        return checked_task_queue(value)
    except ValueError as error:
        raise InvalidWriteOptions(f"Option batcher_task_queue is {shown(value)}: {error}, or None.") from None


def _member(name: str, value: object, kind: type[E]) -> E:
    for member in kind:
        if isinstance(value, str) and member == value:
            return member
    allowed = ", ".join(repr(member.value) for member in kind)
    raise InvalidWriteOptions(f"Option {name} is {shown(value)}: use one of {allowed}.")


def _duration(name: str, value: object) -> timedelta:
    try:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        duration = timedelta(seconds=value) if is_number else value  # type: ignore[arg-type] # a number
        if isinstance(duration, timedelta) and timedelta(0) < duration <= MAX_REQUEST_AGE:
            return duration
    except (OverflowError, ValueError):  # a number that no timedelta holds, or NaN
        pass
    raise InvalidWriteOptions(
        f"Option {name} is {shown(value)}: use a timedelta, or a number of seconds, above 0 and up to "
        f"{MAX_REQUEST_AGE / timedelta(seconds=1):.0f}."
    )
