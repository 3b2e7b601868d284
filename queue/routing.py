"""Which partition a key belongs to. Imports no driver, so that workflows may import it."""

from zlib import crc32


def partition_of(key: str, partitions: int) -> int:
    """Return CRC-32 of the UTF-8 key, modulo the number of partitions: the same in every process and language."""
    return crc32(key.encode("utf-8", "surrogatepass")) % partitions
