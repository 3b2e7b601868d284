"""Errors of PostgreSQL that are the fault of a record, of its table, or of neither."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from tests.support.target_databases import TABLES, PostgresDatabase, batch, order, outcomes, record
from write_batcher.errors import SinkUnavailable
from write_batcher.models import Outcome, WriteRequest
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.sinks.sql.table_faults import MIN_UNIFORM_REFUSALS

LARGE = MIN_UNIFORM_REFUSALS  # requests in a batch that is held when all are refused with one code


@pytest.fixture
async def sink(postgres: PostgresDatabase) -> AsyncIterator[SqlSink]:
    async with postgres.sink(["orders"]) as sink:
        yield sink


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
    held = batch(*map(order, range(LARGE)))

    with pytest.raises(SinkUnavailable, match=r"refused alike \(P0001\): not today"):
        await sink.write(held)

    postgres.execute("DROP TRIGGER stop ON orders")
    assert outcomes(await sink.write(held)) == [Outcome.WRITTEN] * LARGE


async def test_dropped_default_holds_a_large_batch(postgres: PostgresDatabase, sink: SqlSink) -> None:
    postgres.execute("ALTER TABLE orders ADD region TEXT NOT NULL")

    with pytest.raises(SinkUnavailable, match=r"refused alike \(23502\)"):
        await sink.write(batch(*map(order, range(LARGE))))


async def test_outage_inside_a_trigger_holds_the_batch(postgres: PostgresDatabase, sink: SqlSink) -> None:
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
async def test_ambiguous_error_rejects_a_record_if_a_similar_one_is_accepted(
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
            order(1),
            order(2),
            id="an error at commit",
        ),
    ],
)
async def test_ambiguous_error_holds_the_batch_if_the_accepted_record_differs(
    postgres: PostgresDatabase, broken: str, good: WriteRequest, bad: WriteRequest
) -> None:
    postgres.execute("CREATE TABLE copies AS TABLE orders; INSERT INTO stock VALUES ('here', 'old')")
    async with postgres.sink([*TABLES, "copies"]) as sink:
        postgres.execute(broken)
        with pytest.raises(SinkUnavailable, match="does not exist"):
            await sink.write(batch(good, bad))

    assert postgres.count("write_batcher_ledger") == 0


def break_inserts(postgres: PostgresDatabase, *, when: str, statement: str = "RAISE EXCEPTION 'not today'") -> None:
    postgres.execute(
        f"CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {statement}; RETURN new; END$$;"
        f"CREATE TRIGGER stop BEFORE INSERT ON orders FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION stop()"
    )


@pytest.mark.parametrize(
    "code", ["22001", "22P02", "22P05", "23502", "23514", "23P01", "44000", "54000", "P0001", "P0002"]
)
def test_error_code_blames_the_record(code: str) -> None:
    assert PostgresDialect().blames_record(error_with(code))


@pytest.mark.parametrize(
    "code",
    [
        *("08006", "25P02", "40001", "40P01", "42501", "42703", "42P01", "53100", "53300", "55P03", "57014", "57P01"),
        *("42601", "57P03", "58030", "XX000", "0A000"),
    ],
)
def test_error_code_does_not_blame_the_record(code: str) -> None:
    assert not PostgresDialect().blames_record(error_with(code))


def error_with(code: str) -> DBAPIError:
    error = DBAPIError.instance("", {}, psycopg.errors.lookup(code)(), psycopg.Error)
    assert isinstance(error, DBAPIError)
    return error
