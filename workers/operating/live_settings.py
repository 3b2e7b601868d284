"""Setting limits of a queue while its batchers run."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from write_batcher.config import load_settings
from write_batcher.errors import ConfigurationError, OperationFailed
from write_batcher.models import QueueRef
from write_batcher.queue.contract import OPTIONAL_TERMS, Contract, ContractStore

LIVE_SETTINGS = {
    "pace": "pace",
    "max_rate": "max_rate",
    "target_latency": "target_latency_ms",
    "max_items": "max_items",
    "max_wait": "max_wait_ms",
}
"""The settings that can be set so, each with the name of its term in the contract."""
NO_LIMIT, UNSET = "none", "default"


async def set_live(redis: Redis, queue: QueueRef, given: Mapping[str, str]) -> Contract:
    """Set some of `LIVE_SETTINGS` for all batchers of a queue, those that start later included; returns the contract.

    A value is what its variable takes; `none` for no limit; `default` for what the batchers themselves have. Raises
    `ConfigurationError` when one is wrong, `OperationFailed` when the queue has no contract, and `QueueUnavailable`
    when Redis cannot be asked.
    """
    unset = [LIVE_SETTINGS[name] for name, text in given.items() if text == UNSET]
    terms: dict[str, float | None] = {}
    for name, text in given.items():
        if text == NO_LIMIT and LIVE_SETTINGS[name] in OPTIONAL_TERMS:
            terms[LIVE_SETTINGS[name]] = None
        elif text == NO_LIMIT:
            option = name.replace("_", "-")
            raise ConfigurationError(f"Option --{option} cannot be {NO_LIMIT!r}: give a value, or {UNSET!r}.")
        elif text != UNSET:
            value = _value(name, text)
            terms[LIVE_SETTINGS[name]] = value // timedelta(milliseconds=1) if isinstance(value, timedelta) else value
    store = ContractStore(redis, queue)
    if await store.read() is None:
        raise OperationFailed(
            f"Queue {queue.name!r} has no contract in namespace {queue.namespace!r}, so there is nothing to set: start "
            f"its batcher with `write-batcher worker batcher --queue {queue.name}`."
        )
    await store.set_live(terms, unset=unset)
    contract = await store.read()
    if contract is None:
        raise OperationFailed(f"Queue {queue.name!r} has lost its contract in this moment: set it again.")
    return contract


def _value(name: str, text: str) -> Any:
    try:
        return getattr(load_settings(**{name: text}), name)
    except ConfigurationError as error:
        if not str(error).startswith(f"Setting {name} ="):
            raise  # about a variable of this process
        # Here it is given by a flag: the variable of the setting is that of a batcher.
        raise ConfigurationError(str(error).partition(" (set by")[0] + ".") from None
