"""The floors on SQLite, and how it is noticed that something else was written."""

from contextlib import closing
from pathlib import Path

import pytest

from write_batcher.bench.floors.sqlite_inserts import SQLITE_INSERTS
from write_batcher.bench.fresh_databases import contents_of, expected_contents, fresh_sqlite
from write_batcher.bench.record_shapes import PLAIN, WIDE, RecordShape

ROWS = 5_000  # more parameters than SQLite takes in one statement


@pytest.mark.parametrize("shape", [PLAIN, WIDE], ids=["plain", "wide"])
@pytest.mark.parametrize("name", SQLITE_INSERTS)
def test_each_way_inserts_every_row(name: str, shape: RecordShape, tmp_path: Path) -> None:
    rows = [shape.row(shape.record(number)) for number in range(ROWS)]
    with fresh_sqlite(tmp_path, shape) as database, closing(database.connect()) as connection:
        SQLITE_INSERTS[name](connection, shape)(rows)
        assert contents_of(database, shape) == expected_contents(ROWS, with_ledger=False)
        assert sorted(database.query(f"SELECT id FROM {shape.table}"))[0] == (rows[0][0],)


def test_row_that_is_missing_shows_in_the_contents(tmp_path: Path) -> None:
    with fresh_sqlite(tmp_path, PLAIN) as database:
        assert contents_of(database, PLAIN) == expected_contents(0, with_ledger=False)
        assert contents_of(database, PLAIN) != expected_contents(1, with_ledger=False)


def test_files_of_a_database_are_gone_after_its_run(tmp_path: Path) -> None:
    with fresh_sqlite(tmp_path, PLAIN) as database:
        assert database.path.exists()
    assert list(tmp_path.iterdir()) == []
