from collections import Counter

import pytest

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
