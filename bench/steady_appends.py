"""Requests that keep coming, and the rows that become of them."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.config import Settings
from write_batcher.errors import WrongWork
from write_batcher.models import Submission, WriteRequest
from write_batcher.queue.producer import Producer
from write_batcher.workers.embedded.main_writes import MAIN_WRITES, count_rows
from write_batcher.workers.embedded.temporal_server import NAMESPACE

APPEND_EVERY = timedelta(milliseconds=20)
WRITTEN_WITHIN = timedelta(seconds=60)
POLL_EVERY = timedelta(milliseconds=20)


class SteadyAppends:
    """Appends a request every 20 ms, one after the other, while the context `running` is open and until `stop`."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._producer = Producer(redis, DataConverter.default, namespace=NAMESPACE)
        self._settings = settings
        self._series = f"bench-{secrets.token_hex(4)}-"
        self._stopping = asyncio.Event()
        self.appended = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Append while the context is open. What no batcher takes yet is tried again."""
        self._appending = asyncio.create_task(self._append(), name="append")
        try:
            yield
        finally:
            self._appending.cancel()
            await asyncio.wait({self._appending})

    async def stop(self) -> None:
        """Append nothing more. Raises what the appending has raised."""
        self._stopping.set()
        await self._appending

    async def _append(self) -> None:
        while not self._stopping.is_set():
            number = f"{self._series}{self.appended}"
            request = WriteRequest(
                request_id=number,
                table=MAIN_WRITES.name,
                record={"workflow_id": number, "item": "book", "cents": 100},
            )
            [answer] = await self._producer.append(Submission(queue=self._settings.queue, requests=[request]))
            self.appended += answer.entry is not None
            await asyncio.sleep(APPEND_EVERY.total_seconds())

    async def rows(self) -> int:
        """Return how many have been written. Raises `WrongWork` when one has been written twice."""
        rows, duplicates = await count_rows(self._settings.database_url, self._series)
        if duplicates:
            raise WrongWork(f"{duplicates} of {rows} rows have been written twice.")
        return rows

    async def wait_for_rows(self, count: int) -> None:
        """Return when so many rows are there. Raises `WrongWork` when they are not within a minute."""
        deadline = asyncio.get_running_loop().time() + WRITTEN_WITHIN.total_seconds()
        while (rows := await self.rows()) < count:
            if asyncio.get_running_loop().time() > deadline:
                raise WrongWork(
                    f"{rows} rows were written within {WRITTEN_WITHIN.total_seconds():g} s, expected were {count}."
                )
            await asyncio.sleep(POLL_EVERY.total_seconds())
