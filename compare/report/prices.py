"""What a million Temporal actions cost by list."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A list price, with where and when it was read: prices change."""

    usd_per_million_actions: float
    source: str
    read: str

    def of_million_writes(self, actions_per_write: float) -> float:
        """USD for a million writes, without storage, support plan and the callers' other actions."""
        return actions_per_write * self.usd_per_million_actions

    def of_month(self, actions_per_day: float) -> float:
        """USD for 30 days."""
        return actions_per_day * 30 * self.usd_per_million_actions / 1e6


LIST_PRICE = Price(
    usd_per_million_actions=50.0,  # pay-as-you-go, the first 5 million of a month; beyond, business plans pay less
    source="https://docs.temporal.io/cloud/pricing",
    read="2026",
)
