"""Keeping the contract of a queue announced for as long as a worker serves it, whether it drains anything or not."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from write_batcher.errors import QueueUnavailable
from write_batcher.queue.contract import ANNOUNCE_EVERY, Contract, ContractStore, Terms

LEAVE_WITHIN = timedelta(seconds=2)

logger = logging.getLogger(__name__)


class ContractKeeper:
    """Announces the terms of one worker again and again: Redis may lose them, and the other workers forget it when it
    is silent.
    """

    def __init__(self, store: ContractStore, worker: str, terms: Terms) -> None:
        """`worker` names this process; no other may have the same name."""
        self._store = store
        self._worker = worker
        self._terms = terms
        self._contract: Contract | None = None

    @property
    def contract(self) -> Contract:
        """The latest known contract, at first that of this worker alone."""
        return self._contract or Contract.of_one(self._terms)

    async def start(self) -> Contract:
        """Announce the terms once; returns the contract. Raises `WrongSink` when the queue belongs to another sink, and
        `QueueUnavailable` when Redis cannot be asked.
        """
        before, self._contract = self.contract, await self._store.announce(self._worker, self._terms)
        if self._contract.set_live != before.set_live:
            logger.info("set for the running queue: %s, before: %s", self._contract.set_live, before.set_live)
        return self._contract

    async def run(self) -> None:
        """Announce the terms every `ANNOUNCE_EVERY`, also through outages of Redis, until it is cancelled.

        Raises `WrongSink` when Redis lost the contract and a worker with another sink was faster.
        """
        unavailable = False
        while True:
            await asyncio.sleep(ANNOUNCE_EVERY.total_seconds())
            try:
                await self.start()
            except QueueUnavailable as error:
                if not unavailable:
                    logger.warning("the contract of the queue cannot be announced, trying again: %s", error)
                unavailable = True
            else:
                if unavailable:
                    logger.info("the contract of the queue is announced again")
                unavailable = False

    async def leave(self) -> None:
        """Take the terms back, as far as Redis can be asked within `LEAVE_WITHIN`: else the others forget them soon."""
        with suppress(QueueUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN.total_seconds()):
                await self._store.leave(self._worker)
