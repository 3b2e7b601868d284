from collections import Counter

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from write_batcher.config import load_settings
from write_batcher.errors import ConfigurationError, QueueUnavailable
from write_batcher.queue.partitions import MAX_PARTITIONS, Partitions
from write_batcher.queue.routing import partition_of


@pytest.mark.parametrize(
    ("key", "crc32"),
    [("", 0), ("a", 0xE8B7BE43), ("123456789", 0xCBF43926), ("customer-42", 0x49FDA815), ("Zoë", 0x67AC422A)],
)
def test_partition_is_the_crc32_of_the_key_modulo_the_partitions(key: str, crc32: int) -> None:
    # Producers in other languages must arrive at the same numbers.
    assert partition_of(key, 2**32) == crc32
    assert partition_of(key, 7) == crc32 % 7


def test_key_that_is_not_valid_unicode_has_a_partition_too() -> None:
    assert 0 <= partition_of("\ud800", 7) < 7


@pytest.mark.parametrize("partitions", [2, 3, 8, 100])
def test_keys_spread_evenly(partitions: int) -> None:
    sizes = Counter(partition_of(f"customer-{number}", partitions) for number in range(partitions * 1000))
    assert len(sizes) == partitions
    assert max(sizes.values()) < 1.3 * min(sizes.values())


@pytest.fixture
def redis() -> Redis:
    return FakeAsyncRedis()


@pytest.fixture
def partitions(redis: Redis) -> Partitions:
    return Partitions(redis, "orders")


async def test_queue_without_a_batcher_is_unavailable_and_says_so(partitions: Partitions) -> None:
    with pytest.raises(QueueUnavailable, match=r"^Queue 'orders' has no batcher yet: start one"):
        await partitions.count()


async def test_announced_number_is_read_by_producers(partitions: Partitions) -> None:
    await partitions.announce(4)
    assert await partitions.count() == 4


async def test_announcing_returns_the_larger_of_the_old_and_the_new_number(partitions: Partitions) -> None:
    assert await partitions.announce(4) == 4
    assert await partitions.announce(2) == 4
    assert await partitions.announce(3) == 3


async def test_lost_number_is_announced_again(partitions: Partitions) -> None:
    assert await partitions.announced_or(4) == 4
    assert await partitions.count() == 4


async def test_announced_number_is_not_replaced_by_the_configured_one(partitions: Partitions) -> None:
    await partitions.announce(2)
    assert await partitions.announced_or(4) == 2
    assert await partitions.count() == 2


garbage = pytest.mark.parametrize(
    "value", ["abc", "", "0", "-1", "1.5", "1_0", " 4", "1001", "9" * 5000], ids=lambda value: value[:8]
)


@garbage
async def test_garbled_number_counts_as_not_announced(redis: Redis, partitions: Partitions, value: str) -> None:
    await redis.set(partitions.key, value)
    assert await partitions.known() == 0
    assert await partitions.announced_or(4) == 4
    await redis.set(partitions.key, value)
    assert await partitions.announce(3) == 3
    assert await partitions.count() == 3


@garbage
async def test_garbled_number_is_shown_with_its_key(redis: Redis, partitions: Partitions, value: str) -> None:
    await redis.set(partitions.key, value)
    with pytest.raises(QueueUnavailable, match=f"write-batcher:orders:partitions holds b'{value[:80]}' instead of"):
        await partitions.count()


async def test_limit_of_partitions_is_that_of_the_setting(partitions: Partitions) -> None:
    assert load_settings(partitions=MAX_PARTITIONS).partitions == MAX_PARTITIONS
    with pytest.raises(ConfigurationError):
        load_settings(partitions=MAX_PARTITIONS + 1)
    assert await partitions.announce(MAX_PARTITIONS) == await partitions.count() == MAX_PARTITIONS
