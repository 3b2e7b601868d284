"""The clock of Redis, which dates the entries and tells their age, jumps: correctness does not depend on it."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.conftest import OpenArena
from tests.support.target_databases import Database
from tests.support.waiting import eventually
from write_batcher.models import ConfirmBy
from write_batcher.workers.embedded.redis_server import RedisServer

CALLERS = 12
JUMP = timedelta(hours=2)
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class RedisWithClock(RedisServer):
    """A Redis whose clock is off by what its file `clock` says, through libfaketime."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._clock = folder / "clock"

    def set_clock(self, offset: str) -> None:
        self._clock.write_text(offset)

    async def _program(self) -> Path:
        if not LIBRARIES:
            pytest.skip("libfaketime is not installed; Debian has a package of that name")
        program = self.folder / "redis-with-clock"
        program.write_text(
            f"#!/bin/sh\nexport LD_PRELOAD={LIBRARIES[0]} FAKETIME_TIMESTAMP_FILE={self._clock}\n"
            "export DONT_FAKE_MONOTONIC=1 FAKETIME_CACHE_DURATION=1\n"
            f'exec {await super()._program()} "$@"\n'
        )
        program.chmod(0o700)
        self.set_clock("+0")
        return program


@pytest.mark.parametrize(("jump", "by"), [("+2h", JUMP), ("-2h", -JUMP)])
async def test_jump_of_the_redis_clock_loses_and_doubles_nothing(
    open_arena: OpenArena, target: Database, confirm_by: ConfirmBy, tmp_path: Path, jump: str, by: timedelta
) -> None:
    async with (
        RedisWithClock(tmp_path / "jumping") as server,
        open_arena(target, redis_server=server, confirm_by=confirm_by) as arena,
    ):
        _, batcher = await arena.start_workers("--crash", "after_commit")
        await arena.start_callers(CALLERS)
        await batcher.exited()
        before_ms = await arena.queue.now_ms()
        server.set_clock(jump)

        async def has_jumped() -> bool:
            return abs(await arena.queue.now_ms() - before_ms - by / timedelta(milliseconds=1)) < 60_000

        await eventually(has_jumped)
        await arena.start_callers(CALLERS)
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == 2 * CALLERS
        server.set_clock("+0")  # and jumps back
        await arena.start_callers(CALLERS)
        assert (await arena.audit()).completed == 3 * CALLERS
