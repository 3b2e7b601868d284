"""How an operator names one queued request or one dead letter: `<partition>/<id in its Redis stream>`."""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from write_batcher.errors import ConfigurationError

MAX_ID_PART = 2**64 - 1  # of a Redis stream id

_STREAM_ID = re.compile(r"(\d{1,20})/(\d{1,20})-(\d{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class StreamId:
    """A place in a stream of one partition; ordered as Redis orders them."""

    KIND: ClassVar[str]
    """What stands there."""
    LISTED_BY: ClassVar[str]
    """The command that shows these ids."""

    partition: int
    ms: int
    """Milliseconds since the epoch at which it was added, by the clock of Redis."""
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an id as it is listed. Raises `ConfigurationError` when `text` is not an id."""
        match = _STREAM_ID.fullmatch(text.strip())
        partition, ms, number = map(int, match.groups()) if match else (0, MAX_ID_PART + 1, 0)
        if max(partition, ms, number) > MAX_ID_PART:
            raise ConfigurationError(
                f"ID {text!r} does not name a {cls.KIND}: write it as `{cls.LISTED_BY}` shows it, "
                "such as 0/1735689600000-0."
            )
        return cls(partition=partition, ms=ms, number=number)

    @classmethod
    def at(cls, partition: int, redis_id: str) -> Self:
        """The id of what stands at `redis_id` in a stream of this partition."""
        return cls.parse(f"{partition}/{redis_id}")

    @property
    def redis_id(self) -> str:
        """The id within the stream."""
        return f"{self.ms}-{self.number}"

    def __str__(self) -> str:
        return f"{self.partition}/{self.redis_id}"


class EntryId(StreamId):
    """The id of a queued request: of its entry in the stream of a partition."""

    __slots__ = ()
    KIND = "queued request"
    LISTED_BY = "write-batcher queue list"


class LetterId(StreamId):
    """The id of a dead letter."""

    __slots__ = ()
    KIND = "dead letter"
    LISTED_BY = "write-batcher dead-letters list"
