"""What samples of a process's memory say."""

import pytest

from write_batcher.bench.resident_memory import MIB, MemoryFigures
from write_batcher.errors import WrongWork


def points(*sizes_mib: int) -> list[tuple[int, int]]:
    return [(10 * number, size * MIB) for number, size in enumerate(sizes_mib)]


def test_first_is_taken_when_a_tenth_was_written() -> None:
    figures = MemoryFigures.of(points(20, 90, 99, 95), 100)
    assert (figures.first, figures.highest, figures.last) == (90, 99, 95)
    figures.check_flat()


def test_growth_is_an_error_also_when_memory_was_given_back() -> None:
    with pytest.raises(WrongWork, match="grew from 90 to 111 MiB"):
        MemoryFigures.of(points(20, 90, 111, 90), 100).check_flat()


def test_process_that_ended_before_it_was_looked_at_is_an_error() -> None:
    with pytest.raises(WrongWork, match="--requests"):
        MemoryFigures.of([], 100)
