"""How an operator names dead letters: by id, by a text in the reason, or all of them."""

import re
from dataclasses import dataclass
from typing import Self

from write_batcher.errors import ConfigurationError
from write_batcher.queue.dead_letters import DeadLetter

MAX_ID_PART = 2**64 - 1  # of a Redis stream id

_LETTER_ID = re.compile(r"(\d{1,20})/(\d{1,20})-(\d{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LetterId:
    """The id of a dead letter in its queue, written as `<partition>/<dead id>`; ordered as Redis orders them."""

    partition: int
    ms: int
    """Milliseconds since the epoch at which it became a dead letter, by the clock of Redis."""
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an id as `dead-letters list` shows it. Raises `ConfigurationError` when `text` is not an id."""
        match = _LETTER_ID.fullmatch(text.strip())
        partition, ms, number = map(int, match.groups()) if match else (0, MAX_ID_PART + 1, 0)
        if max(partition, ms, number) > MAX_ID_PART:
            raise ConfigurationError(
                f"ID {text!r} does not name a dead letter: write it as `write-batcher dead-letters list` shows it, "
                "such as 0/1735689600000-0."
            )
        return cls(partition=partition, ms=ms, number=number)

    @classmethod
    def of(cls, partition: int, dead: DeadLetter) -> Self:
        """The id of a dead letter of this partition."""
        return cls.parse(f"{partition}/{dead.dead_id}")

    @property
    def dead_id(self) -> str:
        """The id in the partition's stream of dead letters."""
        return f"{self.ms}-{self.number}"

    def __str__(self) -> str:
        return f"{self.partition}/{self.dead_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters are meant: one by its id, those with a text in their reason, or all when neither is given."""

    letter_id: LetterId | None = None
    reason: str | None = None

    @classmethod
    def parse(cls, letter_id: str | None, reason: str | None, everything: bool) -> Self:
        """Build it from a command's arguments. Raises `ConfigurationError` unless exactly one of the three is given."""
        if [letter_id is not None, reason is not None, everything].count(True) != 1:
            raise ConfigurationError("Name the dead letters by exactly one of ID, --reason TEXT and --all.")
        if reason == "":
            raise ConfigurationError("Option --reason '' matches every dead letter: write --all to select all of them.")
        return cls(letter_id=None if letter_id is None else LetterId.parse(letter_id), reason=reason)

    def __str__(self) -> str:
        if self.letter_id:
            return f"dead letter {self.letter_id}"
        return "dead letter" if self.reason is None else f"dead letter with {self.reason!r} in its reason"
