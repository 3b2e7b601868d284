"""What only PostgreSQL does: its error codes and types, its timeouts, and a server that goes away."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, TypeDecorator
from sqlalchemy.exc import DBAPIError

from tests.support.target_databases import NO_SYNC, TABLES, PostgresDatabase, batch, held_after, order, outcomes, record
from write_batcher.errors import ConfigurationError, SinkUnavailable
from write_batcher.models import Batch, Outcome, WriteRequest
from write_batcher.sinks.sql import postgresql as dialect, sink as sql
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sink import ALIKE, SqlSink
from write_batcher.workers.embedded.postgres_server import PostgresServer

TYPED = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN short AS text CHECK (length(value) < 5);
CREATE TABLE typed (
    number INTEGER NOT NULL,
    small SMALLINT CHECK (small <> 13),
    amount NUMERIC(10, 2),
    at TIMESTAMPTZ,
    at_utc TIMESTAMP,
    customer UUID,
    document JSONB,
    name VARCHAR(3),
    label TEXT,
    feeling mood,
    code short,
    address INET,
    sizes INTEGER[],
    bytes BYTEA
);
CREATE INDEX ON typed (label);
"""
ID = "12345678-1234-5678-1234-567812345678"


@pytest.fixture
async def sink(postgres: PostgresDatabase) -> AsyncIterator[SqlSink]:
    postgres.execute(TYPED)
    async with postgres.sink(["orders", "typed"]) as sink:
        yield sink


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[PostgresServer]:
    async with PostgresServer(tmp_path, extra=NO_SYNC) as server:
        yield server


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("number", 2**31, "integer out of range"),  # 22003
        ("small", 13, 'violates check constraint "typed_small_check"'),  # 23514
        ("amount", "123456789.00", "numeric field overflow"),  # 22003
        ("name", "long", "value too long"),  # 22001
        ("feeling", "blue", "invalid input value for enum mood"),  # 22P02
        ("code", "too long", 'violates check constraint "short_check"'),  # 23514
        ("address", "nowhere", "invalid input syntax for type inet"),  # 22P02
        ("address", {"not": "text"}, "cannot adapt type 'dict'"),  # by the driver
        ("sizes", [1, "two"], ""),  # by the driver
        ("label", "".join(map(chr, range(256, 6000))), "index row requires"),  # 54000
    ],
)
async def test_value_that_postgresql_refuses_is_rejected_alone(
    postgres: PostgresDatabase, sink: SqlSink, column: str, value: Any, words: str
) -> None:
    good = [record(f"good-{number}", "typed", number=number) for number in range(20)]
    bad = record("bad", "typed", **{"number": 99, column: value})

    receipts = await sink.write(batch(*good[:7], bad, *good[7:]))

    assert outcomes(receipts) == [Outcome.WRITTEN] * 7 + [Outcome.REJECTED] + [Outcome.WRITTEN] * 13
    assert words in (receipts[7].error or "")
    assert postgres.count("typed") == 20


async def test_reason_does_not_show_the_whole_row(postgres: PostgresDatabase, sink: SqlSink) -> None:
    postgres.execute("ALTER TABLE typed ALTER label SET NOT NULL")

    (receipt,) = await sink.write(batch(record("bad", "typed", number=1, name="me")))

    assert receipt.error == 'null value in column "label" of relation "typed" violates not-null constraint'


class Unsendable(TypeDecorator[str]):
    """Passes the record check and is spoiled afterwards, as a type of the program may do."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value.replace("NUL", "\0").replace("SURROGATE", "\ud800") if value else value


@pytest.mark.parametrize("note", ["NUL", "SURROGATE"])
async def test_text_that_the_driver_cannot_send_is_rejected_alone(postgres: PostgresDatabase, note: str) -> None:
    table = Table(
        "orders", MetaData(), Column("order_id", Integer), Column("cents", Integer), Column("note", Unsendable)
    )
    async with postgres.sink([table]) as sink:
        receipts = await sink.write(batch(order(1, note="fine"), order(2, note=note), order(3, note="fine")))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED, Outcome.WRITTEN]
    assert postgres.count("orders") == 2


async def test_values_arrive_as_what_they_are(postgres: PostgresDatabase, sink: SqlSink) -> None:
    receipts = await sink.write(
        batch(
            record(
                "a",
                "typed",
                number=1,
                small=2,
                amount="19.90",
                at="2026-02-28T12:00:00+02:00",
                at_utc="2026-02-28T12:00:00+02:00",
                customer=ID,
                document={"lines": [1, {"sku": "ü"}], "none": None},
                feeling="glad",
                code="abc",
                address="10.0.0.1/8",
                sizes=[1, None, 3],
                bytes="aGVsbG8=",
            ),
            record("b", "typed", number=2, document=None),
        )
    )

    assert outcomes(receipts) == [Outcome.WRITTEN] * 2
    columns = "small, amount, at, at_utc, customer, document, feeling, code, address::text, sizes, bytes"
    assert postgres.query(f"SELECT {columns} FROM typed WHERE number = 1") == [
        (
            2,
            Decimal("19.90"),
            datetime(2026, 2, 28, 10, tzinfo=UTC),
            datetime(2026, 2, 28, 10),
            UUID(ID),
            {"lines": [1, {"sku": "ü"}], "none": None},
            "glad",
            "abc",
            "10.0.0.1/8",
            [1, None, 3],
            b"hello",
        )
    ]
    assert postgres.query("SELECT number FROM typed WHERE document IS NULL") == [(2,)]


@pytest.mark.parametrize(
    "statement",
    [
        "RAISE EXCEPTION 'not today'",  # P0001
        "RAISE EXCEPTION 'not today' USING ERRCODE = 'OR001'",
        "SELECT cents INTO STRICT new.cents FROM orders WHERE order_id = -1",  # P0002
        "ASSERT false",  # P0004
    ],
)
async def test_record_that_a_trigger_refuses_is_rejected_alone(
    postgres: PostgresDatabase, sink: SqlSink, statement: str
) -> None:
    break_inserts(postgres, when="new.order_id = 2", statement=statement)

    assert outcomes(await sink.write(batch(order(1), order(2), order(3)))) == [
        Outcome.WRITTEN,
        Outcome.REJECTED,
        Outcome.WRITTEN,
    ]


async def test_broken_trigger_holds_a_large_batch_until_it_is_repaired(
    postgres: PostgresDatabase, sink: SqlSink
) -> None:
    break_inserts(postgres, when="true")
    written_together = batch(*map(order, range(ALIKE)))

    with pytest.raises(SinkUnavailable, match=r"refused alike \(P0001\): not today"):
        await sink.write(written_together)

    postgres.execute("DROP TRIGGER stop ON orders")
    assert outcomes(await sink.write(written_together)) == [Outcome.WRITTEN] * ALIKE


async def test_dropped_default_holds_a_large_batch(postgres: PostgresDatabase, sink: SqlSink) -> None:
    postgres.execute("ALTER TABLE orders ADD region TEXT NOT NULL")

    with pytest.raises(SinkUnavailable, match=r"refused alike \(23502\)"):
        await sink.write(batch(*map(order, range(ALIKE))))


async def test_outage_that_a_trigger_sees_blames_no_record(postgres: PostgresDatabase, sink: SqlSink) -> None:
    break_inserts(postgres, when="new.order_id = 2", statement="RAISE EXCEPTION 'not now' USING ERRCODE = '57014'")

    with pytest.raises(SinkUnavailable, match="not now"):
        await sink.write(batch(order(1), order(2)))


@pytest.mark.parametrize(
    "statement",
    [
        "RAISE EXCEPTION 'no' USING ERRCODE = '42501'",
        "PERFORM to_tsquery('a b')",  # 42601
        "EXECUTE 'INSERT INTO orders_of_' || new.order_id || ' DEFAULT VALUES'",  # 42P01
        "RAISE EXCEPTION 'no' USING ERRCODE = '38000'",  # of another language
    ],
)
async def test_error_of_record_or_table_is_that_of_the_record_when_one_like_it_is_accepted(
    postgres: PostgresDatabase, sink: SqlSink, statement: str
) -> None:
    break_inserts(postgres, when="new.order_id = 2", statement=statement)

    assert outcomes(await sink.write(batch(order(1), order(2), order(3)))) == [
        Outcome.WRITTEN,
        Outcome.REJECTED,
        Outcome.WRITTEN,
    ]
    with pytest.raises(SinkUnavailable, match="Either orders or a record for it is at fault"):
        await sink.write(batch(order(2, request_id="alone"), order(4, details={})))


@pytest.mark.parametrize(
    ("broken", "good", "bad"),
    [
        pytest.param(
            "DROP TABLE orders CASCADE",
            record("good", "copies", order_id=1, cents=1),
            order(2),
            id="other table",
        ),
        pytest.param(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM gone; END';"
            "CREATE TRIGGER stop BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION stop()",
            record("good", "stock", shop="here", sku="new", pieces=1),
            record("bad", "stock", shop="here", sku="old", pieces=1),
            id="upsert that inserts",
        ),
        pytest.param(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM gone; RETURN new; END';"
            "CREATE TRIGGER stop BEFORE INSERT ON nodes FOR EACH ROW WHEN (new.parent_id IS NOT NULL)"
            " EXECUTE FUNCTION stop()",
            record("good", "nodes", node_id=1, parent_id=None),
            record("bad", "nodes", node_id=2, parent_id=1),
            id="column that is empty",
        ),
        pytest.param(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM gone; RETURN new; END';"
            "CREATE CONSTRAINT TRIGGER stop AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            " WHEN (new.order_id = 2) EXECUTE FUNCTION stop()",
            order(1),
            order(2),
            id="error at commit",
        ),
    ],
)
async def test_error_of_record_or_table_holds_the_batch_when_the_accepted_record_proves_nothing(
    postgres: PostgresDatabase, broken: str, good: WriteRequest, bad: WriteRequest
) -> None:
    postgres.execute("CREATE TABLE copies AS TABLE orders; INSERT INTO stock VALUES ('here', 'old')")
    async with postgres.sink([*TABLES, "copies"]) as sink:
        postgres.execute(broken)
        with pytest.raises(SinkUnavailable, match="does not exist"):
            await sink.write(batch(good, bad))

    assert postgres.count("write_batcher_ledger") == 0


async def test_row_policy_rejects_the_record_it_does_not_allow(postgres: PostgresDatabase) -> None:
    postgres.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON orders USING (order_id < 100)")
    async with sink_of_role(postgres, "role_with_policy") as sink:
        receipts = await sink.write(batch(order(1), order(100)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]
    assert "violates row-level security policy" in (receipts[1].error or "")


def break_inserts(postgres: PostgresDatabase, *, when: str, statement: str = "RAISE EXCEPTION 'not today'") -> None:
    postgres.execute(
        f"CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {statement}; RETURN new; END$$;"
        f"CREATE TRIGGER stop BEFORE INSERT ON orders FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION stop()"
    )


async def test_upserts_whose_keys_only_postgresql_finds_equal_both_succeed(postgres: PostgresDatabase) -> None:
    postgres.execute("CREATE TABLE padded (code CHAR(5) PRIMARY KEY, number INTEGER)")
    async with postgres.sink(["padded:upsert"]) as sink:
        receipts = await sink.write(
            batch(
                record("1", "padded", code="a", number=1),
                record("2", "padded", code="b", number=2),
                record("3", "padded", code="a ", number=3),
            )
        )

    assert outcomes(receipts) == [Outcome.WRITTEN] * 3
    assert postgres.query("SELECT number FROM padded ORDER BY code") == [(3,), (2,)]


async def test_overlapping_batches_in_opposite_orders_never_deadlock(postgres: PostgresDatabase) -> None:
    async with postgres.sink() as one, postgres.sink() as two:
        make_slow(postgres, "write_batcher_ledger")
        requests = [order(number) for number in range(30)]
        forth, back = await asyncio.gather(
            one.write(batch(*requests[:20], batch_id="forth")), two.write(batch(*requests[:10:-1], batch_id="back"))
        )

    assert outcomes(forth + back).count(Outcome.WRITTEN) == 30
    assert postgres.count("orders") == 30


async def test_upserts_of_the_same_rows_in_opposite_orders_never_deadlock(postgres: PostgresDatabase) -> None:
    def stock(name: str, skus: Iterable[int]) -> Batch:
        return batch(*(record(f"{name}-{sku}", "stock", shop="here", sku=str(sku), pieces=1) for sku in skus))

    async with postgres.sink() as one, postgres.sink() as two:
        make_slow(postgres, "stock")
        forth, back = await asyncio.gather(
            one.write(stock("forth", range(20))), two.write(stock("back", reversed(range(20))))
        )

    assert set(outcomes(forth + back)) == {Outcome.WRITTEN}
    assert postgres.count("stock") == 20


def make_slow(postgres: PostgresDatabase, table: str) -> None:
    """Let two statements meet in the middle."""
    postgres.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.005); RETURN new; END';"
        f"CREATE TRIGGER slow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slow()"
    )


@pytest.mark.parametrize(
    "code", ["22001", "22P02", "22P05", "23502", "23514", "23P01", "44000", "54000", "P0001", "P0002"]
)
def test_error_code_of_a_record(code: str) -> None:
    assert PostgresDialect().blames_record(failure(code))


@pytest.mark.parametrize(
    "code",
    [
        *("08006", "25P02", "40001", "40P01", "42501", "42703", "42P01", "53100", "53300", "55P03", "57014", "57P01"),
        *("42601", "57P03", "58030", "XX000", "0A000"),
    ],
)
def test_error_code_of_something_else(code: str) -> None:
    assert not PostgresDialect().blames_record(failure(code))


def failure(code: str) -> DBAPIError:
    error = DBAPIError.instance("", {}, psycopg.errors.lookup(code)(), psycopg.Error)
    assert isinstance(error, DBAPIError)
    return error


async def test_stopped_server_is_unavailable_until_it_is_back(own_server: PostgresServer) -> None:
    postgres = PostgresDatabase.fresh(own_server)
    async with postgres.sink() as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]
        await own_server.stop()
        with pytest.raises(SinkUnavailable):
            await sink.write(batch(order(2)))
        with pytest.raises(SinkUnavailable):
            await sink.settle(order(2))
        await own_server.start()

        receipts = await sink.write(batch(order(1), order(2)))
        settled = await sink.settle(order(2))

    assert outcomes([*receipts, settled]) == [Outcome.DUPLICATE, Outcome.WRITTEN, Outcome.WRITTEN]


async def test_connection_to_a_server_that_became_read_only_is_left(postgres: PostgresDatabase) -> None:
    async with postgres.sink() as sink:
        try:
            postgres.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'write-batcher'"
            )
            with pytest.raises(SinkUnavailable, match="read-only"):
                await sink.write(batch(order(1)))
        finally:
            with postgres.connect(options="-c default_transaction_read_only=off") as connection:
                connection.execute("ALTER DATABASE postgres RESET default_transaction_read_only")

        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_server_killed_in_the_middle_of_a_batch_writes_all_of_it_or_nothing(own_server: PostgresServer) -> None:
    postgres = PostgresDatabase.fresh(own_server)
    async with postgres.sink() as sink, held_after("INTO orders") as transaction:
        write = asyncio.create_task(sink.write(batch(order(1), order(2))))
        await transaction.reached.wait()
        await own_server.kill()
        transaction.released.set()
        with pytest.raises(SinkUnavailable):
            await write
        await own_server.start()
        assert (postgres.count("orders"), postgres.count("write_batcher_ledger")) == (0, 0)

        assert outcomes(await sink.write(batch(order(1), order(2)))) == [Outcome.WRITTEN] * 2
    assert postgres.count("orders") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="a frozen process of another user can be woken up only by root")
async def test_server_that_does_not_answer_is_unavailable_in_time(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SETTLE_LIMIT", timedelta(seconds=0.3))
    monkeypatch.setattr(sql, "WRITE_LIMIT", timedelta(seconds=0.3))
    monkeypatch.setattr(sql, "CUT_OFF_WITHIN", timedelta(seconds=0.3))
    for ask in (lambda: sink.settle(order(1)), lambda: sink.write(batch(order(1)))):
        await sink.prune(timedelta(days=1))  # connects
        with frozen(postgres):
            begun = time.monotonic()
            with pytest.raises(SinkUnavailable, match=r"no answer within 0\.3 s"):
                await ask()
            assert time.monotonic() - begun < 3

    monkeypatch.setattr(
        sql, "SETTLE_LIMIT", timedelta(seconds=10)
    )  # the server may still be busy with what was cut off
    assert (await sink.settle(order(1))).outcome is Outcome.WITHDRAWN


@contextmanager
def frozen(postgres: PostgresDatabase) -> Iterator[None]:
    """Freeze the processes of the server that serve the sink."""
    pids = postgres.query(
        f"SELECT pid FROM pg_stat_activity WHERE application_name = 'write-batcher' AND datname = '{postgres.name}'"
    )
    assert pids
    try:
        for (pid,) in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)


async def test_locked_table_is_unavailable_until_it_is_free(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "LOCK_WAIT", timedelta(milliseconds=50))
    async with postgres.sink() as sink:
        with postgres.connect() as other, other.transaction():
            other.execute("LOCK TABLE orders, write_batcher_ledger")
            with pytest.raises(SinkUnavailable, match="lock timeout"):
                await sink.write(batch(order(1)))
            with pytest.raises(SinkUnavailable, match="lock timeout"):
                await sink.settle(order(1))

        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_statement_that_takes_too_long_is_ended(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "STATEMENT_TIMEOUT", timedelta(seconds=1))
    postgres.execute("CREATE RULE slow AS ON INSERT TO orders DO ALSO SELECT pg_sleep(30)")
    async with postgres.sink() as sink:
        with pytest.raises(SinkUnavailable, match="statement timeout"):
            await sink.write(batch(order(1)))

    assert postgres.count("orders") == 0


@asynccontextmanager
async def sink_of_role(postgres: PostgresDatabase, role: str) -> AsyncIterator[SqlSink]:
    """A sink for orders whose role may write rows, and nothing else."""
    async with postgres.sink():
        pass  # by its owner, who makes the ledger
    postgres.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret';"
        f"GRANT USAGE ON SCHEMA public TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON orders, write_batcher_ledger TO {role}"
    )
    address = postgres.url.partition("@")[2]
    async with SqlSink.open(f"postgresql+psycopg://{role}:secret@{address}", tables=["orders"]) as sink:
        yield sink


async def test_role_needs_no_more_than_to_write_rows(postgres: PostgresDatabase) -> None:
    role = "role_of_sink"
    async with sink_of_role(postgres, role) as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]

        postgres.execute(f"REVOKE INSERT ON orders FROM {role}")
        with pytest.raises(SinkUnavailable, match="permission denied for table orders"):
            await sink.write(batch(order(2), order(3, cents=-1)))

        postgres.execute(f"GRANT INSERT ON orders TO {role}")
        assert outcomes(await sink.write(batch(order(2)))) == [Outcome.WRITTEN]


async def test_options_of_the_url_are_kept(postgres: PostgresDatabase) -> None:
    postgres.execute("CREATE SCHEMA shop; CREATE TABLE shop.lamps (number INTEGER)")
    url = f"{postgres.url}?options=-c%20search_path%3Dshop&application_name=mine"
    async with SqlSink.open(url, tables=["lamps"]) as sink:
        await sink.write(batch(record("a", "lamps", number=1)))
        names = postgres.query(f"SELECT application_name FROM pg_stat_activity WHERE datname = '{postgres.name}'")

    assert postgres.count("shop.lamps") == 1
    assert postgres.count("shop.write_batcher_ledger") == 1
    assert ("mine",) in names


async def test_missing_driver_names_the_cure(postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigurationError, match=r"install write-batcher\[postgresql\]"):
        async with postgres.sink():
            pass
