"""Settings: every tunable with its unit and default. No other module reads `WRITE_BATCHER_*` from the environment."""

import logging
import os
import re
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from write_batcher.errors import ConfigurationError
from write_batcher.models import (
    HEARTBEAT_TIMEOUT,
    PARK_AFTER,
    PARKED_FOR,
    ConfirmBy,
    batcher_task_queue,
    checked_task_queue,
)
from write_batcher.queue.redis_url import parse_redis_url

ENV_PREFIX = "WRITE_BATCHER_"
LONGEST_TIMEOUT = timedelta(days=3)  # of a caller, so that all of them together stay below MAX_REQUEST_AGE
# The drain beats every second, and the SDK sends one heartbeat to the server per 80 % of the timeout.
SHORTEST_HEARTBEAT_TIMEOUT = timedelta(seconds=2)
# A pause reaches the drain with a heartbeat, and `write-batcher queue pause` waits for it for 30 s.
LONGEST_HEARTBEAT_TIMEOUT = timedelta(seconds=30)
SLOWEST_RATE, FASTEST_RATE = 1 / 60, 1e6  # per second; by a slower one a request could wait longer than it may
SHORTEST_WAIT = timedelta(milliseconds=1)
SHORTEST_TARGET_LATENCY = timedelta(milliseconds=10)
LONGEST_TARGET_LATENCY = timedelta(seconds=10)  # databases give a first try up after 12 s
MIN_SIGNING_KEY = 16  # characters
NEAR_MISS = 0.8  # likeness of an unknown variable to a setting, from 0 to 1, from which on it is a typing error

# Kubernetes sets variables like these in every container for each of its Services, of which one may be named
# `write-batcher`, or `write-batcher-redis`.
INJECTED_NAME = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://.*")  # the value of a variable that ends with PORT

_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*/\s*(?P<unit>s|m|h)")
_SECONDS_PER = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str) -> timedelta:
    """Parse a number and a unit: `500ms`, `20s`, `2m`, `1h`, `7d`.

    Raises `ValueError` for any other text, a negative number included. Its message fits into a sentence.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 500ms, 20s, 2m, 1h or 7d")
    try:
        return timedelta(**{_UNITS[match["unit"]]: float(match["number"])})
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any duration can be") from None


def parse_rate(text: str) -> float:
    """Parse a number per second, minute or hour: `10/s`, `0.5/s`, `30/m`, `100/h`; returns it per second.

    Raises `ValueError` for any other text, a negative number included. Its message fits into a sentence.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a rate; write a number and s, m or h, such as 10/s, 30/m or 100/h")
    return float(match["number"]) / _SECONDS_PER[match["unit"]]


def rate_as_text(per_second: float) -> str:
    """Return a rate in the form that `parse_rate` takes, per second if that is at least one."""
    in_units = {unit: per_second * seconds for unit, seconds in _SECONDS_PER.items()}
    unit = next((unit for unit, number in in_units.items() if number >= 1), "h")
    return f"{in_units[unit]:.15g}/{unit}"


def _as_rate(value: object) -> object:
    return parse_rate(value) if isinstance(value, str) else value


def _as_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _as_names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_as_duration), Field(gt=timedelta(0))]


def _within(lowest: Any, highest: Any, what: str = "it") -> AfterValidator:
    """A check of a duration or a rate, whose message fits into a sentence."""

    def check(value: Any) -> Any:
        if not lowest <= value <= highest:
            raise ValueError(f"{what} is from {as_text(lowest)} to {as_text(highest)}")
        return value

    return AfterValidator(check)


def _none_if_told(value: object) -> object:
    return None if value == "none" else value


NONE_IF_TOLD = BeforeValidator(_none_if_told)
Rate = Annotated[float, BeforeValidator(_as_rate), _within(SLOWEST_RATE, FASTEST_RATE, "a rate")]
TaskQueue = Annotated[str, AfterValidator(checked_task_queue)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_names), Field(min_length=1)]

logger = logging.getLogger(__name__)


class Settings(BaseSettings):
    """Every tunable, frozen and checked when built. `load_settings` builds it with readable errors.

    Temporal's address, namespace, TLS and API key are not here: `temporalio.envconfig` reads them.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis or Valkey: redis://, rediss:// for TLS, redis+cluster://, redis+sentinel://",
    )
    signing_key: SecretStr | None = Field(
        None,
        description="secret that callers and batcher share: requests without its signature are not written",
    )
    database_url: str = Field(
        "sqlite+aiosqlite:///write-batcher.db", description="target database, as a SQLAlchemy URL with an async driver"
    )
    tables: Names = Field(
        ("main_writes",),
        description="target tables, comma-separated, which must exist; NAME:upsert updates the row with the same "
        "primary key",
    )

    queue: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="name of the queue")
    partitions: int = Field(1, ge=1, le=1000, description="streams of the queue, each with a drain of its own")
    max_items: int = Field(100, ge=1, le=10_000, description="most requests in a batch")
    max_bytes: ByteSize = Field(ByteSize(4 * 1024**2), ge=1024, description="most bytes of encoded requests in a batch")
    max_wait: Annotated[Duration, _within(SHORTEST_WAIT, LONGEST_TIMEOUT)] = Field(
        timedelta(seconds=20), description="age of the oldest request at which a batch closes"
    )
    pace: Annotated[Rate | None, NONE_IF_TOLD] = Field(
        None,
        description="transactions that the database sees at most from all batchers of the queue, such as 10/s; a batch "
        "closes as soon as it may be written",
    )
    max_rate: Annotated[Rate | None, NONE_IF_TOLD] = Field(
        None,
        description="rows that all batchers of the queue write at most, such as 2000/s",
    )
    target_latency: Annotated[
        Annotated[Duration, _within(SHORTEST_TARGET_LATENCY, LONGEST_TARGET_LATENCY)] | None, NONE_IF_TOLD
    ] = Field(
        None,
        description="how long a transaction should take at most, such as 250ms; when it takes longer, batches become "
        "smaller and fewer",
    )
    max_request_bytes: ByteSize = Field(
        ByteSize(256 * 1024), ge=1024, description="most bytes of one encoded request; a larger one is refused"
    )
    max_backlog: int = Field(100_000, ge=1, description="most entries in one stream; beyond that, appends wait")
    max_dead_letters: int = Field(
        10_000, ge=1, description="most dead letters of a partition; beyond that, the oldest are deleted"
    )
    dead_letter_retention: Duration = Field(
        timedelta(days=30), description="age at which a dead letter is deleted, if nobody has replayed or discarded it"
    )

    deduplication_window: Duration = Field(
        timedelta(days=7), description="for how long after its write a request with the same id is not written again"
    )

    heartbeat_timeout: Duration = Field(
        HEARTBEAT_TIMEOUT,
        ge=SHORTEST_HEARTBEAT_TIMEOUT,
        le=LONGEST_HEARTBEAT_TIMEOUT,
        description="silence of a drain, from 2s to 30s, after which Temporal starts it again elsewhere",
    )

    park_after: Duration = Field(
        PARK_AFTER,
        ge=timedelta(seconds=1),
        description="after how long without requests a drain is parked, which costs nothing until a request wakes it",
    )

    parked_for: Duration = Field(
        PARKED_FOR,
        ge=timedelta(seconds=1),
        description="after how long a parked drain is started for a moment, to tidy up",
    )

    confirm_by: ConfirmBy = Field(
        ConfirmBy.SIGNAL, description="how MainWorkflow learns its outcome: signal, completion or none"
    )
    confirm_timeout: Duration = Field(
        timedelta(minutes=2),
        le=LONGEST_TIMEOUT,
        description="how long MainWorkflow waits for its receipt; halfway, it submits again",
    )
    submit_timeout: Duration = Field(
        timedelta(minutes=10), le=LONGEST_TIMEOUT, description="how long MainWorkflow tries to append its request"
    )
    main_task_queue: TaskQueue = Field("main-workflow-queue", description="Temporal task queue of the callers")
    batcher_task_queue: TaskQueue = Field(
        "",
        description="Temporal task queue of the batcher; batcher-queue-NAME for a queue NAME",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text for people, or json with the figures of each batch"
    )

    @field_validator("redis_url")
    @classmethod
    def _redis_url_names_a_server(cls, url: str) -> str:
        try:
            parse_redis_url(url)
        except ValueError as error:
            raise ValueError(f"{hide_password(url)!r} is {error}") from None
        return url

    @field_validator("signing_key")
    @classmethod
    def _signing_key_cannot_be_guessed(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < MIN_SIGNING_KEY:
            raise ValueError(
                f"it has {len(key.get_secret_value())} characters, and needs {MIN_SIGNING_KEY} or more: "
                "use 32 random bytes as hexadecimal digits, or remove the variable to sign nothing"
            )
        return key

    @model_validator(mode="before")
    @classmethod
    def _batcher_task_queue_follows_from_the_queue(cls, values: dict[str, Any]) -> dict[str, Any]:
        # Two queues must not share a task queue by accident: their workers write to different databases.
        queue = str(values.get("queue") or "default")
        return {**values, "batcher_task_queue": values.get("batcher_task_queue") or batcher_task_queue(queue)}

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Self:
        if self.max_request_bytes > self.max_bytes:
            raise ValueError(
                f"Setting max_request_bytes ({self.max_request_bytes:d}) must not exceed max_bytes "
                f"({self.max_bytes:d}), or a permitted request fits into no batch."
            )
        return self


def load_settings(**flags: Any) -> Settings:
    """Build the settings from `flags`, which are fields of `Settings`; what is not given or None comes from its
    `WRITE_BATCHER_*` variable, else from its default.

    A `WRITE_BATCHER_*` variable that is no setting is warned of. Raises `ConfigurationError` when a value is invalid,
    when two settings do not fit together, or when such a variable looks like a mistyped setting. The message names
    setting and value, without secrets, and what to do.
    """
    _check_variables()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, given)) from None


def check_callers_outwait_batches(settings: Settings) -> None:
    """Raise `ConfigurationError` unless `confirm_timeout` is above `max_wait`: for who runs callers and batcher alike.

    Elsewhere, callers are told when their request is refused.
    """
    if settings.confirm_by is not ConfirmBy.NONE and settings.max_wait >= settings.confirm_timeout:
        raise ConfigurationError(
            f"Setting max_wait ({settings.max_wait.total_seconds():g}s) must be below confirm_timeout "
            f"({settings.confirm_timeout.total_seconds():g}s), or callers give up before their batch closes: lower "
            "--max-wait or raise --confirm-timeout."
        )


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that make another process load the same settings, the signing key included: for the
    environment of a child process, not for a log.
    """
    return {f"{ENV_PREFIX}{name.upper()}": as_text(value) for name, value in settings if value is not None}


def as_text(value: object) -> str:
    """Return a setting's value in the form that variables and flags take."""
    match value:
        case None:
            return ""
        case float():
            return rate_as_text(value)
        case timedelta():
            return f"{value.total_seconds():.15g}s"
        case tuple():
            return ",".join(value)
        case SecretStr():
            return value.get_secret_value()
        case _:
            return str(value)


def hide_password(url: str) -> str:
    """Return `url` fit for a log, even if malformed: its password and its query, which may hold one, become `***`."""
    scheme = re.match(r"[\w+.-]+://+", url)
    start = scheme[0] if scheme else ""
    rest = url[len(start) :]
    login, at, address = rest.rpartition("@")
    if "?" in login:
        # Either the @ belongs to a password in the query, or the ? to a password before the host; drivers disagree.
        name, colon, _password = rest.partition("?")[0].partition(":")
        return start + name + (":***" if colon else "?***")
    user, colon, _password = login.partition(":")
    address, mark, _query = address.partition("?")
    return start + user + (":***" if colon else "") + at + address + ("?***" if mark else "")


def _check_variables() -> None:
    known = [name.upper() for name in Settings.model_fields]
    for variable in sorted(os.environ):
        name = variable.removeprefix(ENV_PREFIX)
        if name == variable or name in known or _is_injected(name, os.environ[variable]):
            continue
        if meant := get_close_matches(name, known, n=1, cutoff=NEAR_MISS):
            raise ConfigurationError(
                f"There is no setting {variable}: did you mean {ENV_PREFIX}{meant[0]}? Correct it or remove it."
            )
        logger.warning("variable %s is no setting and is ignored", variable)


def _is_injected(name: str, value: str) -> bool:
    is_port = name == "PORT" or name.endswith("_PORT")
    return INJECTED_NAME.fullmatch(name) is not None or (is_port and INJECTED_PORT.fullmatch(value) is not None)


def _explain(error: ValidationError, given: dict[str, Any]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    name = str(first["loc"][0])
    variable = f"{ENV_PREFIX}{name.upper()}"
    if name == "signing_key":
        return f"Setting {name}: {reason} (set by {variable})."
    value = hide_password(str(given.get(name, os.environ.get(variable))))
    return f"Setting {name} = {value}: {reason} (set by --{name.replace('_', '-')} or {variable})."
