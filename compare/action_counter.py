"""The billable actions that a Temporal dev server has counted, from its Prometheus endpoint."""

import asyncio
import re
import urllib.request
from collections.abc import Awaitable, Callable
from datetime import timedelta

METRIC = "action"
SCRAPE_TIMEOUT = timedelta(seconds=5)
# The server reports its counters once a second: two equal answers this far apart are the whole truth.
SETTLED_AFTER = timedelta(milliseconds=1100)
SETTLED_WITHIN = timedelta(seconds=20)

SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \d+)?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse_actions(text: str, namespace: str) -> int:
    """The sum of the counter over all kinds of actions of a namespace; the server's own namespace is not billed."""
    total = 0.0
    for line in text.splitlines():
        sample = SAMPLE.fullmatch(line)
        if sample is None or sample["name"] != METRIC:
            continue
        if dict(LABEL.findall(sample["labels"] or "")).get("namespace") == namespace:
            total += float(sample["value"])
    return round(total)


async def scrape(url: str) -> str:
    """The text of a metrics endpoint. Raises OSError."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT.total_seconds()) as answer:  # noqa: S310 - our own
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def settled(read: Callable[[], Awaitable[int]]) -> int:
    """A counter that lags behind, once it stands still. After SETTLED_WITHIN as it is."""
    last = await read()
    async with asyncio.timeout(SETTLED_WITHIN.total_seconds() * 2):
        for _ in range(SETTLED_WITHIN // SETTLED_AFTER):
            await asyncio.sleep(SETTLED_AFTER.total_seconds())
            before, last = last, await read()
            if last == before:
                break
    return last
