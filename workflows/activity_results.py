"""Reading what an activity returned, or why it failed: anybody may complete or fail an activity by hand."""

from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    RetryState,
    TimeoutError as ActivityTimeout,
    TimeoutType,
)

T = TypeVar("T")


def decoded(result: RawValue | None, kind: type[T]) -> T | None:
    """Return the result of an activity; None when it is something else."""
    value = _value(result, kind)
    return value if isinstance(value, kind) else None


def decoded_list(result: RawValue | None, kind: type[T], length: int) -> list[T] | None:
    """Return the result of an activity as a list of this length; None when it is something else."""
    values = _value(result, list[kind])  # type: ignore[valid-type] # a type is a value
    right = isinstance(values, list) and len(values) == length and all(isinstance(value, kind) for value in values)
    return values if right else None


def _value(result: RawValue | None, kind: Any) -> Any:
    try:
        return workflow.payload_converter().from_payload(result.payload, kind) if result else None
    except Exception:  # noqa: BLE001 - a payload converter may raise anything
        return None


def timed_out(error: BaseException) -> bool:
    """Whether an activity failed because its time, with all attempts, was over."""
    return isinstance(error, ActivityError) and (
        isinstance(error.cause, ActivityTimeout) or error.retry_state is RetryState.TIMEOUT
    )


def attempt_timed_out(error: BaseException) -> bool:
    """Whether an activity failed because an attempt did not answer in time, and is not to be repeated."""
    return (
        isinstance(error, ActivityError)
        and isinstance(error.cause, ActivityTimeout)
        and error.cause.type is TimeoutType.START_TO_CLOSE
    )


def reason_of(error: BaseException, *, silence: str) -> str:
    """Return why an activity failed: the error of its last attempt, or `silence` when no attempt has failed."""
    # Temporal's own text of a timeout speaks of retries and ScheduleToClose, which tells an operator nothing.
    cause: BaseException | None = error.cause if isinstance(error, ActivityError) else error
    while isinstance(cause, ActivityTimeout):
        cause = cause.__cause__
    if cause is None:
        return silence
    return cause.message if isinstance(cause, ApplicationError) else str(cause)
