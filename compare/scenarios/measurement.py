"""What a scenario returns."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The part of a `Run` that a scenario provides."""

    figures: dict[str, float | None]
    samples: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def per(amount: float | None, number: int) -> float | None:
    """Return `amount` per one of `number`, with four decimals; None when it is not known."""
    return None if amount is None or number == 0 else round(amount / number, 4)


def refusal_notes(refused: Counter[str]) -> list[str]:
    """Return a sentence for each reason for which requests were refused."""
    return [f"{number} requests were refused: {reason}" for reason, number in refused.most_common()]
