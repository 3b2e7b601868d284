from datetime import timedelta

import pytest

from write_batcher.activities.drain.age import age_of
from write_batcher.queue.stream_entry import StreamEntry

DAY_MS = 86_400_000
NOW = 20_000 * DAY_MS


@pytest.mark.parametrize(
    ("first_ms", "asked_ms", "redis_ms", "own_ms", "days"),
    [
        (NOW - DAY_MS, None, NOW, NOW, 1),
        (NOW - DAY_MS, NOW - 3 * DAY_MS, NOW, NOW, 3),
        (NOW - DAY_MS, NOW, NOW, NOW, 1),
        (NOW - 8 * DAY_MS, None, NOW - 30 * DAY_MS, NOW, 8),
        (NOW - 8 * DAY_MS, None, NOW, NOW - 30 * DAY_MS, 8),
        (NOW + 30 * DAY_MS, NOW - 8 * DAY_MS, NOW, NOW, 8),
        (NOW + 30 * DAY_MS, None, NOW, NOW, 0),
        (10**18, 10**18, NOW, NOW, 0),
        (0, None, NOW, NOW, 20_000),
    ],
    ids=[
        "appended",
        "asked before",
        "asked after",
        "clock of Redis set back",
        "own clock set back",
        "stamped in the future",
        "from the future",
        "absurd",
        "ancient",
    ],
)
def test_age_counts_from_the_earliest_time_by_the_later_clock(
    first_ms: int, asked_ms: int | None, redis_ms: int, own_ms: int, days: int
) -> None:
    fields = {} if asked_ms is None else {b"asked": b"%d" % asked_ms}
    entry = StreamEntry.of(f"{first_ms}-0", fields)
    age = age_of(first_ms=entry.first_ms, redis_ms=redis_ms, own_ms=own_ms)
    assert age == timedelta(days=days)
