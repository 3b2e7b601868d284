"""The key server of a payload codec hangs or answers nonsense: nobody is misinformed, and the others do not wait."""

import pytest

from tests.faults.conftest import OpenArena
from tests.support.target_databases import Database
from write_batcher.models import ConfirmBy
from write_batcher.queue import lua

GOOD, HANGING = 12, 10
MAX_LATENCY_MS = 5_000  # half of what one entry whose key server hangs is waited for
SUBMIT_TIMEOUT_S = 6.0  # two more tries
CONFIRM_TIMEOUT_S = 8.0  # half of which an open activity goes on trying


@pytest.mark.parametrize("confirm_by", [ConfirmBy.SIGNAL, ConfirmBy.COMPLETION])
@pytest.mark.parametrize("drained", [True, False], ids=["drained", "paused"])
async def test_append_whose_reply_is_lost_is_not_denied_when_the_codec_fails_next(
    open_arena: OpenArena, sqlite_target: Database, confirm_by: ConfirmBy, drained: bool
) -> None:
    async with open_arena(sqlite_target, confirm_by=confirm_by) as arena:
        await arena.start_worker("main", "--encodes", "1")
        await arena.start_worker("batcher")
        await arena.until_batcher_ready()
        await arena.pause()
        await arena.redis.script_load(lua.APPEND)  # so that the first call of it appends
        arena.redis_proxy.loses_reply_to = f"{arena.name}-0/".encode()  # its request id
        await arena.start_callers(1, submit_timeout_s=SUBMIT_TIMEOUT_S, confirm_timeout_s=CONFIRM_TIMEOUT_S)
        await arena.until_queued(1)
        assert not arena.redis_proxy.losses
        if drained:
            await arena.resume()
            assert (await arena.audit()).completed == 1
        else:
            outcomes = await arena.outcomes()
            assert outcomes.failure_types == {"WriteNotSubmitted": 1}
            await arena.resume()
            await arena.audit()
            assert arena.rows() == 0


async def test_key_server_that_hangs_costs_the_others_nothing(open_arena: OpenArena, sqlite_target: Database) -> None:
    async with open_arena(sqlite_target) as arena:
        _, batcher = await arena.start_workers("--hang-at", "secret")
        hanging = await arena.start_callers(HANGING, item="secret")
        await arena.until_queued(HANGING)
        arena.handles.clear()
        for _ in range(GOOD // 3):
            await arena.start_callers(3)
        outcomes = await arena.outcomes()
        assert outcomes.completed == GOOD
        assert outcomes.max_latency_ms < MAX_LATENCY_MS
        assert await arena.backlog() == HANGING
        await batcher.stop()  # as a deploy does, while they are still asked for
        arena.handles += hanging
        await arena.start_worker("batcher")
        assert (await arena.audit()).completed == GOOD + HANGING
