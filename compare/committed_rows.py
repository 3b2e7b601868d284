"""When the rows of a batching design are committed: its writers write one batch after the other, so ids only grow."""

import asyncio
import time
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import create_async_engine

from write_batcher.workers.embedded.main_writes import MAIN_WRITES

POLL_EVERY_S = 0.01


class CommittedRows:
    """Polls for new rows, and notes for each workflow id when it was seen first; a context."""

    def __init__(self, database_url: str) -> None:
        self.seen_at: dict[str, float] = {}
        """By workflow id, on `time.monotonic`."""
        self._engine = create_async_engine(database_url, pool_size=1, max_overflow=0)
        self._last = 0

    async def __aenter__(self) -> Self:
        async with self._engine.connect() as connection:
            self._last = (await connection.execute(select(func.coalesce(func.max(MAIN_WRITES.c.id), 0)))).scalar_one()
        self._polling = asyncio.create_task(self._keep_polling())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._polling.cancel()
        await asyncio.wait({self._polling})
        await self._engine.dispose()
        if not self._polling.cancelled():
            self._polling.result()

    async def _keep_polling(self) -> None:
        newer = select(MAIN_WRITES.c.id, MAIN_WRITES.c.workflow_id).order_by(MAIN_WRITES.c.id)
        while True:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(newer.where(MAIN_WRITES.c.id > self._last))).all()
            now = time.monotonic()
            for number, workflow_id in rows:
                self._last = number
                self.seen_at.setdefault(workflow_id, now)
            await asyncio.sleep(POLL_EVERY_S)
