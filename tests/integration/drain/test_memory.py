"""How much memory a drain takes, measured in a process of its own."""

import asyncio
import sys
from pathlib import Path

from tests.support.drain_stage import CODEC, Stage
from tests.support.redis_kinds import AnyRedis
from write_batcher.models import WriteRequest

MAX_MEGABYTES = 250
ENTRIES = 400  # 100 MB, of which a drain may take as many at once as `max_items` says


async def test_memory_is_bounded_by_bytes_whatever_the_number_of_items(
    stage: Stage, redis_server: AnyRedis, tmp_path: Path
) -> None:
    text = "x" * 250_000
    for number in range(ENTRIES):
        request = WriteRequest(request_id=f"r{number}", table="documents", record={"id": number, "text": text})
        await stage.queue.append(await CODEC.encode(request), max_backlog=ENTRIES)
    for number in range(3):  # of which nobody should read all bytes
        huge = {b"v": b"1", b"id": b"huge-%d" % number, b"payload": b"x" * 40_000_000}
        await stage.redis.xadd(stage.queue.stream_key, huge)  # type: ignore[arg-type] # invariant
    drain = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.drain_memory",
        redis_server.url,
        stage.ref.name,
        f"sqlite+aiosqlite:///{tmp_path / 'target.db'}",
        "4000",
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, _ = await drain.communicate()
    assert await stage.counts() == (0, 0, 3)
    await stage.redis.delete(*stage.queue.keys)
    assert int(output) < MAX_MEGABYTES
