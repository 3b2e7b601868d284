"""How an operator selects dead letters: by id, by a text in the reason, or all of them."""

from dataclasses import dataclass
from typing import Self

from write_batcher.errors import ConfigurationError
from write_batcher.workers.operating.stream_ids import LetterId


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
