from write_batcher.activities.drain.part_size import GROW_AFTER, PartSize


def test_all_of_a_batch_is_written_at_once() -> None:
    assert PartSize().limit(100) == 100


def test_size_is_halved_until_it_is_one() -> None:
    size = PartSize()
    limits = []
    for _ in range(8):
        size.too_large(size.limit(100))
        limits.append(size.limit(100))
    assert limits == [50, 25, 12, 6, 3, 1, 1, 1]


def test_size_grows_slowly_when_parts_are_in_time() -> None:
    size = PartSize()
    size.too_large(100)
    for _ in range(GROW_AFTER - 1):
        size.written(50)
    assert size.limit(100) == 50
    size.written(50)
    assert size.limit(100) == 55


def test_small_parts_prove_nothing() -> None:
    size = PartSize()
    size.too_large(100)
    for _ in range(10 * GROW_AFTER):
        size.written(49)
    assert size.limit(100) == 50


def test_failure_while_growing_begins_anew() -> None:
    size = PartSize()
    size.too_large(100)
    for _ in range(GROW_AFTER):
        size.written(50)
    size.too_large(55)
    assert size.limit(100) == 27
