"""Settings: every tunable with its unit and default. The only place that reads WRITE_BATCHER_* from the environment."""

import os
import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from write_batcher.errors import ConfigurationError
from write_batcher.models import ConfirmBy, batcher_task_queue
from write_batcher.queue.redis_url import parse_address

ENV_PREFIX = "WRITE_BATCHER_"

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str) -> timedelta:
    """`20s`, `500ms`, `2m`, `1h`, `7d` as a timedelta. Raises ValueError for anything else, negative ones included."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 500ms, 20s, 2m, 1h or 7d")
    try:
        return timedelta(**{_UNITS[match["unit"]]: float(match["number"])})
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any duration can be") from None


def _as_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _as_names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_as_duration), Field(gt=timedelta(0))]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_names), Field(min_length=1)]


class Settings(BaseSettings):
    """All tunables but Temporal's own address, namespace, TLS and API key, which `temporalio.envconfig` reads."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis or Valkey: redis://, rediss:// for TLS, redis+cluster://, redis+sentinel://",
    )
    database_url: str = Field(
        "sqlite+aiosqlite:///write-batcher.db", description="target database, as a SQLAlchemy URL with an async driver"
    )
    tables: Names = Field(
        ("main_writes",),
        description="target tables, comma-separated; they must exist; NAME:upsert updates the row of the primary key",
    )

    queue: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="name of the queue")
    partitions: int = Field(1, ge=1, le=1000, description="streams of the queue, each drained on its own")
    max_items: int = Field(100, ge=1, le=10_000, description="a batch never holds more write requests")
    max_bytes: ByteSize = Field(
        ByteSize(4 * 1024**2), ge=1024, description="a batch never holds more bytes of encoded requests"
    )
    max_wait: Duration = Field(timedelta(seconds=20), description="a batch closes when its oldest request is this old")
    max_request_bytes: ByteSize = Field(
        ByteSize(256 * 1024), ge=1024, description="a larger encoded write request is refused"
    )
    max_backlog: int = Field(100_000, ge=1, description="entries one stream may hold; beyond it appends wait")

    ledger_retention: Duration = Field(
        timedelta(days=7), description="how long an outcome is remembered; an older request is not written any more"
    )

    confirm_by: ConfirmBy = Field(
        ConfirmBy.SIGNAL, description="signal, completion or none: how callers learn the outcome"
    )
    confirm_timeout: Duration = Field(timedelta(minutes=2), description="how long MainWorkflow waits for its receipt")
    submit_timeout: Duration = Field(
        timedelta(minutes=10), description="how long MainWorkflow tries to append its request"
    )
    main_task_queue: str = Field("main-workflow-queue", min_length=1, description="Temporal task queue of the callers")
    batcher_task_queue: str = Field(
        "",
        description="Temporal task queue of the batcher; batcher-queue-NAME for a queue NAME",
    )
    log_format: Literal["text", "json"] = Field("text", description="one line per record, for people or for machines")

    @field_validator("redis_url")
    @classmethod
    def _redis_url_names_a_server(cls, url: str) -> str:
        try:
            parse_address(url)
        except ValueError as error:
            raise ValueError(f"{hide_password(url)!r} is {error}") from None
        return url

    @model_validator(mode="before")
    @classmethod
    def _batcher_task_queue_is_of_the_queue(cls, values: dict[str, Any]) -> dict[str, Any]:
        # Two queues must not share one by accident: their workers write to different databases.
        queue = str(values.get("queue") or "default")
        return {**values, "batcher_task_queue": values.get("batcher_task_queue") or batcher_task_queue(queue)}

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Self:
        if self.max_wait >= self.confirm_timeout:
            raise ValueError(
                f"max_wait ({self.max_wait.total_seconds():g}s) must be below confirm_timeout "
                f"({self.confirm_timeout.total_seconds():g}s), or callers give up before their batch closes"
            )
        if self.ledger_retention <= self.submit_timeout + self.confirm_timeout:
            raise ValueError(
                f"ledger_retention ({as_text(self.ledger_retention)}) must be above submit_timeout + confirm_timeout "
                f"({as_text(self.submit_timeout + self.confirm_timeout)}), or waiting callers are forgotten"
            )
        if self.max_request_bytes > self.max_bytes:
            raise ValueError(
                f"max_request_bytes ({self.max_request_bytes:d}) must not exceed max_bytes ({self.max_bytes:d}), "
                "or a permitted request fits into no batch"
            )
        return self


def load_settings(**flags: Any) -> Settings:
    """Settings from `flags` (None: not given), then WRITE_BATCHER_*, then the defaults.

    Raises ConfigurationError with one sentence that names the setting, the value and the cure.
    """
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]}; the settings are {', '.join(sorted(known))}")
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_one_sentence(error, given)) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process load the same settings."""
    return {f"{ENV_PREFIX}{name.upper()}": as_text(value) for name, value in settings}


def as_text(value: object) -> str:
    """A setting's value as it is written in a variable or behind a flag."""
    match value:
        case timedelta():
            return f"{value.total_seconds():.15g}s"
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def hide_password(url: str) -> str:
    """`url` fit for a log: password and query, which may hold one, are replaced by ***, also in a malformed URL."""
    scheme = re.match(r"[\w+.-]+://+", url)
    start = scheme[0] if scheme else ""
    rest = url[len(start) :]
    login, at, address = rest.rpartition("@")
    if "?" in login:
        # Either the @ belongs to a password in the query, or the ? to one in front of the host; drivers disagree.
        name, colon, _password = rest.partition("?")[0].partition(":")
        return start + name + (":***" if colon else "?***")
    user, colon, _password = login.partition(":")
    address, mark, _query = address.partition("?")
    return start + user + (":***" if colon else "") + at + address + ("?***" if mark else "")


def _one_sentence(error: ValidationError, given: dict[str, Any]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    name = str(first["loc"][0])
    variable = f"{ENV_PREFIX}{name.upper()}"
    value = hide_password(str(given.get(name, os.environ.get(variable))))
    return f"{name} = {value}: {reason} (set by --{name.replace('_', '-')} or {variable})"
