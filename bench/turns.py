"""Rounds in which contestants take turns, so that what slows the machine down for a while slows down all of them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from write_batcher.bench.duel_figures import Readings

T = TypeVar("T")

Measure = Callable[[], Awaitable[Readings]]
"""Makes one measurement. Raises `WrongWork` when the work was not the work that was asked for."""

Measured = Callable[[str], None]
"""Called after each measurement, with a phrase that says whose it was and what came out."""


async def take_turns(
    contestants: Mapping[str, Measure], *, rounds: int, shown: str, measured: Measured
) -> dict[str, list[Readings]]:
    """Measure everybody once per round, and return what was found by contestant, in the order of the rounds.

    `shown` is the name of the figure that `measured` is told.
    """
    found: dict[str, list[Readings]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, measure in in_turn(contestants, number):
            readings = await measure()
            found[name].append(readings)
            measured(told(name, readings, shown))
    return found


def in_turn(contestants: Mapping[str, T], number: int) -> list[tuple[str, T]]:
    """Return the contestants in the order of the round `number`, every other one backwards, so that nobody
    always comes first.
    """
    return list(contestants.items())[:: 1 if number % 2 == 0 else -1]


def told(name: str, readings: Readings, shown: str) -> str:
    """Return the phrase about one measurement."""
    return f"{name}: {readings[shown]:,.4g} {label(shown)}"


def label(figure: str) -> str:
    """Return the name of a figure as people read it: `cpu_us_per_row` as "CPU µs/row"."""
    return (
        figure.replace("_per_", "/")
        .replace("cpu_us", "CPU µs")
        .replace("cpu_ms", "CPU ms")
        .replace("redis", "Redis")
        .replace("temporal", "Temporal")
        .replace("rss_mib", "RSS MiB")
        .replace("_", " ")
    )
