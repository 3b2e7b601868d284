"""What a scenario hands back."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """As a `Run` of the results holds it."""

    figures: dict[str, float | None]
    samples: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def per(amount: float | None, number: int) -> float | None:
    """A share, with four digits; None when it cannot be told."""
    return None if amount is None or number == 0 else round(amount / number, 4)


def refusals(messages: Counter[str]) -> list[str]:
    """One sentence for each reason."""
    return [f"{number} requests were refused: {message}" for message, number in messages.most_common()]
