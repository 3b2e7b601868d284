"""Billable actions as a Temporal dev server counts them, read from its Prometheus endpoint."""

import asyncio
import re
import urllib.request
from collections.abc import Awaitable, Callable
from datetime import timedelta

METRIC = "action"
SCRAPE_TIMEOUT = timedelta(seconds=5)
# The server publishes its counters once a second: two equal readings this far apart mean that nothing is outstanding.
READ_INTERVAL = timedelta(milliseconds=1100)
SETTLE_TIMEOUT = timedelta(seconds=20)

SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \d+)?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse_actions(metrics: str, namespace: str) -> int:
    """Return the actions of all kinds in `namespace`. The server's internal namespace is not billed.

    `metrics` is in Prometheus text format.
    """
    total = 0.0
    for line in metrics.splitlines():
        sample = SAMPLE.fullmatch(line)
        if sample is None or sample["name"] != METRIC:
            continue
        if dict(LABEL.findall(sample["labels"] or "")).get("namespace") == namespace:
            total += float(sample["value"])
    return round(total)


async def scrape(url: str) -> str:
    """Fetch the text of a metrics endpoint. Raises `OSError` when it cannot be reached."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT.total_seconds()) as answer:  # noqa: S310 - our own
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def read_settled(read: Callable[[], Awaitable[int]]) -> int:
    """Read a lagging counter until two readings are equal, or return the last one after `SETTLE_TIMEOUT`."""
    last = await read()
    async with asyncio.timeout(SETTLE_TIMEOUT.total_seconds() * 2):
        for _ in range(SETTLE_TIMEOUT // READ_INTERVAL):
            await asyncio.sleep(READ_INTERVAL.total_seconds())
            before, last = last, await read()
            if last == before:
                break
    return last
