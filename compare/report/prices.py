"""What Temporal actions cost at list price."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The list price of a million Temporal actions. Prices change: it carries its source and the time of reading."""

    usd_per_million_actions: float
    source: str
    """URL of the price list."""
    read: str
    """When it was read."""

    def of_million_writes(self, actions_per_write: float) -> float:
        """Return US dollars per million writes, without storage, support plan and the callers' other actions."""
        return actions_per_write * self.usd_per_million_actions

    def of_month(self, actions_per_day: float) -> float:
        """Return US dollars per 30 days."""
        return actions_per_day * 30 * self.usd_per_million_actions / 1e6


LIST_PRICE = Price(
    # Pay-as-you-go, for the first 5 million actions of a month; further actions and business plans cost less.
    usd_per_million_actions=50.0,
    source="https://docs.temporal.io/cloud/pricing",
    read="2026",
)
