"""Numbers and names as people read them: the same in the tables, the sentences and on the terminal."""

from collections.abc import Iterable

from write_batcher.compare.results import Contender, Scenario

ABSENT = "–"  # noqa: RUF001 - a dash where there is no figure

SCENARIOS = {
    Scenario.PRESSURE: "Pressure",
    Scenario.LOAD: "Load",
    Scenario.GROWTH: "History growth",
    Scenario.CEILING: "Ceiling",
    Scenario.CRASH: "Crash",
    Scenario.POISON: "Bad records",
    Scenario.IDLE: "Idle",
}
CONTENDERS = {
    Contender.DIRECT: "One activity, one connection and one transaction per write: what people do today.",
    Contender.DIRECT_POOLED: "The same, with connections from a pool.",
    Contender.SIGNAL: "A batcher workflow: callers send it signals, it writes batches and signals back.",
    Contender.QUEUE: "write-batcher: a Redis stream and a drain; the receipt comes by signal.",
    Contender.QUEUE_COMPLETION: "write-batcher; the receipt completes the caller's activity.",
    Contender.QUEUE_PACED: "The same with a pace of 20 transactions per second; a quiet queue answers at once.",
}


def format_figure(value: float | None, kind: str) -> str:
    """Return a figure with its unit; a dash for None.

    `kind` is one of about, bytes, count, events, ms, number, percent, rate, s, usd. The figure of a percent is a
    fraction of 1.
    """
    if value is None:
        return ABSENT
    match kind:
        case "ms":
            return f"{_three_digits(value)} ms" if value < 1000 else f"{_three_digits(value / 1000)} s"
        case "s":
            return f"{_three_digits(value)} s"
        case "rate":
            return f"{_three_digits(value)}/s"
        case "bytes":
            return _bytes(value)
        case "percent":
            return f"{_three_digits(100 * value)}%"
        case "usd":
            return f"${_three_digits(value)}"
        case "events":
            return f"{_three_digits(value)} events"
        case "count":
            return f"{value:,.0f}"
        case "about":  # extrapolated: more than two digits would be made up
            return f"about {float(f'{value:.2g}'):,.0f}" if value else "0"
        case _:
            return _three_digits(value)


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size < 0.01:
        return f"{value:.2g}"
    return f"{value:.{1 if size >= 9.995 else 2}f}".rstrip("0").rstrip(".")


def _bytes(value: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value)} B"


def format_range(low: str, high: str) -> str:
    """Join two formatted figures: `1.2 s` and `1.5 s` to `1.2 to 1.5 s`."""
    bare, _, unit = low.partition(" ")
    return f"{bare} to {high}" if unit and high.endswith(f" {unit}") else f"{low} to {high}"


def listed(words: Iterable[str]) -> str:
    """Join one or more words: `a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: float, singular: str, plural: str | None = None) -> str:
    """Return the count with its noun: `1 row`, `2 rows`. `plural` is `singular` with an `s` by default."""
    return f"{count:,.0f} {singular if count == 1 else plural or singular + 's'}"
