"""Errors of PostgreSQL that are the fault of a record, of its table, or of neither."""

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, TypeDecorator
from sqlalchemy.exc import DBAPIError

from tests.support.target_databases import (
    TABLES,
    PostgresDatabase,
    batch,
    break_inserts,
    order,
    outcomes,
    reason,
    record,
    slow_down,
)
from write_batcher.errors import BatchTooLarge, SinkUnavailable
from write_batcher.models import Outcome, WriteRequest
from write_batcher.sinks.sql import batch_write, inserts, postgresql, sink as sql, time_budget
from write_batcher.sinks.sql.dialect import Fault
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sink import SqlSink

WRITTEN, REJECTED, HELD = Outcome.WRITTEN, Outcome.REJECTED, None


@pytest.fixture
async def sink(postgres: PostgresDatabase) -> AsyncIterator[SqlSink]:
    async with postgres.sink() as sink:
        yield sink


def stock(number: int) -> WriteRequest:
    return record(f"stock-{number:03}", "stock", shop="here", sku=f"{number:03}", pieces=1)


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
    break_inserts(postgres, when="new.order_id = 2", does=statement)

    assert outcomes(await sink.write(batch(order(1), order(2), order(3)))) == [WRITTEN, REJECTED, WRITTEN]


async def test_broken_trigger_holds_its_table_until_it_is_repaired(postgres: PostgresDatabase, sink: SqlSink) -> None:
    break_inserts(postgres)
    requests = [*map(order, range(10)), stock(1)]

    answers = await sink.write(batch(*requests))

    assert outcomes(answers) == [HELD] * 10 + [WRITTEN]
    assert "are refused alike: not today (P0001)" in reason(answers[0])
    postgres.execute("DROP TRIGGER stop ON orders")
    assert outcomes(await sink.write(batch(*requests[:10]))) == [WRITTEN] * 10


@pytest.mark.parametrize(
    ("broken", "bad"),
    [
        pytest.param("", {"m": "sad"}, id="enum"),
        pytest.param("ALTER TABLE orders ADD region TEXT NOT NULL", {}, id="dropped default"),
    ],
)
async def test_ten_equal_refusals_hold_nobody_else(
    postgres: PostgresDatabase, broken: str, bad: dict[str, Any]
) -> None:
    postgres.execute("CREATE TYPE mood AS ENUM ('ok'); ALTER TABLE orders ADD m mood")
    async with postgres.sink() as sink:
        postgres.execute(broken)
        answers = await sink.write(batch(*(order(number, **bad) for number in range(10)), *map(stock, range(90))))

    assert outcomes(answers) == [HELD] * 10 + [WRITTEN] * 90


@pytest.mark.parametrize(
    "statement",
    [
        "RAISE EXCEPTION 'no' USING ERRCODE = '42501'",
        "PERFORM to_tsquery('a b')",  # 42601
        "EXECUTE 'INSERT INTO orders_of_' || new.order_id || ' DEFAULT VALUES'",  # 42P01
        "RAISE EXCEPTION 'no' USING ERRCODE = '38000'",  # of another language
        "RAISE EXCEPTION 'parse error - invalid geometry' USING ERRCODE = 'XX000'",  # by extensions
        "RAISE EXCEPTION 'no' USING ERRCODE = '0A000'",
        "RAISE EXCEPTION 'stack depth limit exceeded' USING ERRCODE = '54001'",  # a trigger that recurses for some rows
    ],
)
async def test_doubtful_error_rejects_a_record_only_if_a_similar_one_is_accepted(
    postgres: PostgresDatabase, sink: SqlSink, statement: str
) -> None:
    break_inserts(postgres, when="new.order_id = 2", does=statement)

    beside_similar = await sink.write(batch(order(1), order(2), *map(order, range(3, 22))))
    alone = await sink.write(batch(order(2, request_id="alone"), order(22, details={}), stock(1)))

    assert outcomes(beside_similar) == [WRITTEN, REJECTED, *[WRITTEN] * 19]
    assert outcomes(alone) == [HELD, WRITTEN, WRITTEN]
    assert "Either table 'orders' or this record is at fault" in reason(alone[0])


@pytest.mark.parametrize("code", ["55000", "55P03", "40001", "40P01", "53100", "53200", "58030", "XX001", "08001"])
async def test_error_that_may_pass_holds_its_record_alone(postgres: PostgresDatabase, sink: SqlSink, code: str) -> None:
    break_inserts(postgres, when="new.order_id = 2", raises=code)

    answers = await sink.write(batch(*map(order, range(22))))

    assert outcomes(answers) == [WRITTEN] * 2 + [HELD] + [WRITTEN] * 19
    assert f"not today ({code})" in reason(answers[2])


@pytest.mark.parametrize("code", ["53100", "58030"])
async def test_batch_without_disk_is_unavailable(postgres: PostgresDatabase, sink: SqlSink, code: str) -> None:
    break_inserts(postgres, raises=code)

    with pytest.raises(SinkUnavailable, match=rf"No table can be written: not today \({code}\)"):
        await sink.write(batch(*map(order, range(22))))

    assert postgres.count("write_batcher_ledger") == 0


@pytest.mark.parametrize(
    ("broken", "good", "bad"),
    [
        pytest.param(
            "DROP TABLE orders CASCADE",
            record("good", "copies", order_id=1, cents=1),
            order(2),
            id="another table",
        ),
        pytest.param(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM gone; END';"
            "CREATE TRIGGER stop BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION stop()",
            record("good", "stock", shop="here", sku="new", pieces=1),
            record("bad", "stock", shop="here", sku="old", pieces=1),
            id="an upsert that inserts",
        ),
        pytest.param(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM gone; RETURN new; END';"
            "CREATE TRIGGER stop BEFORE INSERT ON nodes FOR EACH ROW WHEN (new.parent_id IS NOT NULL)"
            " EXECUTE FUNCTION stop()",
            record("good", "nodes", node_id=1, parent_id=None),
            record("bad", "nodes", node_id=2, parent_id=1),
            id="an empty column",
        ),
        pytest.param(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM gone; RETURN new; END';"
            "CREATE CONSTRAINT TRIGGER stop AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            " WHEN (new.order_id = 2) EXECUTE FUNCTION stop()",
            record("good", "copies", order_id=1, cents=1),
            order(2),
            id="an error at commit",
        ),
    ],
)
async def test_doubtful_record_is_held_if_the_accepted_one_differs(
    postgres: PostgresDatabase, broken: str, good: WriteRequest, bad: WriteRequest
) -> None:
    postgres.execute("CREATE TABLE copies AS TABLE orders; INSERT INTO stock VALUES ('here', 'old')")
    async with postgres.sink([*TABLES, "copies"]) as sink:
        postgres.execute(broken)
        answers = await sink.write(batch(good, bad))

    assert outcomes(answers) == [WRITTEN, HELD]
    assert "does not exist" in reason(answers[1])
    assert postgres.ledger("request_id") == [("good",)]


async def test_upsert_against_a_row_policy_holds_itself_alone(postgres: PostgresDatabase) -> None:
    async with postgres.sink():
        pass  # the owner creates the ledger
    postgres.execute(
        "CREATE ROLE role_of_upserts LOGIN PASSWORD 'secret';"
        "GRANT USAGE ON SCHEMA public TO role_of_upserts; GRANT SELECT, INSERT, UPDATE ON stock TO role_of_upserts;"
        "GRANT SELECT ON write_batcher_meta TO role_of_upserts;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON write_batcher_ledger TO role_of_upserts;"
        "ALTER TABLE stock ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON stock USING (sku <> '050')"
    )
    url = f"postgresql+psycopg://role_of_upserts:secret@{postgres.url.partition('@')[2]}"
    async with SqlSink.open(url, tables=["stock:upsert"]) as sink:
        answers = await sink.write(batch(*map(stock, range(105))))

    assert outcomes(answers) == [WRITTEN] * 50 + [HELD] + [WRITTEN] * 54
    assert "row-level security policy" in reason(answers[50])


async def test_locked_row_holds_its_own_upsert_alone(postgres: PostgresDatabase, sink: SqlSink) -> None:
    await sink.write(batch(record("first", "stock", shop="here", sku="030")))
    with postgres.connect() as other, other.transaction():
        other.execute("UPDATE stock SET note = 'mine' WHERE sku = '030'")
        begun = time.monotonic()
        answers = await sink.write(batch(*map(stock, range(100))))
        assert time.monotonic() - begun < 4

    assert outcomes(answers) == [WRITTEN] * 30 + [HELD] + [WRITTEN] * 69
    assert "lock timeout" in reason(answers[30])
    assert outcomes(await sink.write(batch(stock(30)))) == [WRITTEN]


async def test_many_locked_rows_hold_the_batch_for_seconds_only(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inserts, "PROBES", 0)
    await sink.write(batch(*map(stock, range(200)), batch_id="batch-0"))
    requests = [record(f"again-{number}", "stock", shop="here", sku=f"{number:03}", pieces=2) for number in range(200)]
    with postgres.connect() as other, other.transaction():
        other.execute("UPDATE stock SET note = 'mine'")
        begun = time.monotonic()
        answers = await sink.write(batch(*requests, order(1)))
        assert time.monotonic() - begun < 6

    assert outcomes(answers) == [HELD] * 200 + [WRITTEN]


async def test_locked_ledger_row_holds_its_own_request_alone(postgres: PostgresDatabase, sink: SqlSink) -> None:
    await sink.write(batch(order(30)))
    with postgres.connect() as other, other.transaction():
        other.execute("SELECT * FROM write_batcher_ledger FOR UPDATE")
        answers = await sink.write(batch(*map(order, range(100)), batch_id="batch-2"))

    assert outcomes(answers) == [WRITTEN] * 30 + [HELD] + [WRITTEN] * 69
    assert "lock timeout" in reason(answers[30])


async def test_lock_that_goes_while_it_is_looked_for_holds_nobody(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_write, "BATCH_LOCK_WAIT", timedelta(milliseconds=50))
    requests = [record(f"s-{number}", "stock", shop="here", sku=str(number), pieces=1) for number in range(64)]
    break_inserts(postgres, table="stock", when="new.sku = '63'", does="PERFORM pg_advisory_xact_lock(7)")
    other = postgres.connect()
    try:
        other.execute("SELECT pg_advisory_lock(7)")
        wait = PostgresDialect.limit_lock_wait

        async def free_then_wait(self: PostgresDialect, *arguments: Any) -> None:
            other.execute("SELECT pg_advisory_unlock(7)")
            await wait(self, *arguments)

        monkeypatch.setattr(PostgresDialect, "limit_lock_wait", free_then_wait)
        answers = await sink.write(batch(*requests))
    finally:
        other.close()

    assert outcomes(answers) == [WRITTEN] * 64


async def test_batch_that_exceeds_the_statement_timeout_is_too_large(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "STATEMENT_TIMEOUT", timedelta(seconds=0.5))
    slow_down(postgres, "orders", 0.02)

    with pytest.raises(BatchTooLarge, match=r"The batch of 100 requests takes too long: .* statement timeout"):
        await sink.write(batch(*map(order, range(100))))

    assert (postgres.count("orders"), postgres.count("write_batcher_ledger")) == (0, 0)
    assert outcomes(await sink.write(batch(*map(order, range(10))))) == [WRITTEN] * 10


async def test_record_that_exceeds_the_statement_timeout_alone_is_held(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "STATEMENT_TIMEOUT", timedelta(seconds=0.3))
    monkeypatch.setattr(time_budget, "SEARCH_LIMIT", timedelta(seconds=0.2))
    slow_down(postgres, "nodes", 5)

    answers = await sink.write(batch(record("slow", "nodes", node_id=1), *map(order, range(10))))

    assert outcomes(answers) == [HELD] + [WRITTEN] * 10
    assert "takes too long" in reason(answers[0])


async def test_search_that_takes_too_long_asks_for_a_smaller_batch(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_budget, "SEARCH_LIMIT", timedelta(seconds=0.3))
    slow_down(postgres, "orders", 0.02)

    with pytest.raises(BatchTooLarge, match="not finished after"):
        await sink.write(batch(*(order(number, cents=-1) for number in range(30))))


async def test_batch_that_is_still_making_progress_at_the_limit_is_too_large(
    postgres: PostgresDatabase, sink: SqlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "WRITE_LIMIT", timedelta(seconds=0.5))
    slow_down(postgres, "orders", 0.1)

    with pytest.raises(BatchTooLarge, match=r"no answer within 0\.5 s"):
        await sink.write(batch(*map(order, range(30))))

    monkeypatch.setattr(sql, "WRITE_LIMIT", timedelta(seconds=30))
    assert outcomes(await sink.write(batch(order(1)))) == [WRITTEN]


class Unsendable(TypeDecorator[str]):
    """A column type whose values make the driver raise."""

    impl = Text
    cache_ok = True
    errors = (AttributeError, KeyError, RecursionError, OverflowError, ZeroDivisionError)

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        for error in self.errors:
            if value == error.__name__:
                raise error("cannot be sent")
        return value


@pytest.mark.parametrize("error", Unsendable.errors)
async def test_value_that_the_driver_fails_on_is_rejected_alone(
    postgres: PostgresDatabase, error: type[Exception]
) -> None:
    table = Table(
        "orders", MetaData(), Column("order_id", Integer), Column("cents", Integer), Column("note", Unsendable)
    )
    async with postgres.sink([table]) as sink:
        answers = await sink.write(batch(order(1, note="a"), order(2, note=error.__name__), order(3, note="b")))

    assert outcomes(answers) == [WRITTEN, REJECTED, WRITTEN]
    assert "cannot be sent" in reason(answers[1])


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (Fault.RECORD, ["22001", "22P02", "22P05", "23502", "23514", "23P01", "44000", "54000", "P0001", "P0002"]),
        (Fault.DOUBTFUL, ["42501", "42703", "42P01", "42601", "38000", "39000", "XX000", "0A000", "54001", "HV000"]),
        (Fault.BUSY, ["40001", "40P01", "55000", "55P03"]),
        (Fault.OUTAGE, ["08006", "28000", "53100", "53300", "57P01", "57P03", "58030", "XX001", "XX002"]),
        (Fault.TIMEOUT, ["57014"]),
        (None, ["25P02", "25006"]),
    ],
)
def test_error_code_says_whose_fault_it_is(fault: Fault | None, codes: list[str]) -> None:
    assert {PostgresDialect().fault(error_with(code)) for code in codes} == {fault}


def error_with(code: str) -> DBAPIError:
    error = DBAPIError.instance("", {}, psycopg.errors.lookup(code)(), psycopg.Error)
    assert isinstance(error, DBAPIError)
    return error
