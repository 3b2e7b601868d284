"""What only PostgreSQL needs: no deadlocks, few rights, options in the URL, a driver of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.support.quick_way import carefully
from tests.support.target_databases import PostgresDatabase, batch, order, outcomes, reason, record, statements, verbs
from write_batcher.errors import ConfigurationError
from write_batcher.models import Batch, Outcome
from write_batcher.sinks.sql import batch_write
from write_batcher.sinks.sql.sink import SqlSink


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock is given up before a deadlock is found."""
    monkeypatch.setattr(batch_write, "BATCH_LOCK_WAIT", timedelta(seconds=20))


@pytest.mark.usefixtures("patient")
async def test_overlapping_batches_in_opposite_orders_never_deadlock(postgres: PostgresDatabase) -> None:
    async with postgres.sink() as one, postgres.sink() as two:
        make_slow(postgres, "write_batcher_ledger")
        requests = [order(number) for number in range(30)]
        with carefully(), statements() as sent:
            forth, back = await asyncio.gather(
                one.write(batch(*requests[:20], batch_id="forth")), two.write(batch(*requests[:10:-1], batch_id="back"))
            )

    assert outcomes(forth + back).count(Outcome.WRITTEN) == 30
    assert verbs(sent).count("INSERT") == 4, "after a deadlock, batches are tried again in halves"
    assert postgres.count("orders") == 30


@pytest.mark.usefixtures("patient")
async def test_upserts_of_the_same_rows_in_opposite_orders_never_deadlock(postgres: PostgresDatabase) -> None:
    def stock(name: str, skus: Iterable[int]) -> Batch:
        return batch(*(record(f"{name}-{sku}", "stock", shop="here", sku=str(sku), pieces=1) for sku in skus))

    async with postgres.sink() as one, postgres.sink() as two:
        make_slow(postgres, "stock")
        with statements() as sent:
            forth, back = await asyncio.gather(
                one.write(stock("forth", range(20))), two.write(stock("back", reversed(range(20))))
            )

    assert set(outcomes(forth + back)) == {Outcome.WRITTEN}
    assert "ROLLBACK" not in verbs(sent), "after a deadlock, a part of a batch is tried again"
    assert postgres.count("stock") == 20


def make_slow(postgres: PostgresDatabase, table: str) -> None:
    """Make inserts so slow that two statements overlap."""
    postgres.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.005); RETURN new; END';"
        f"CREATE TRIGGER slow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slow()"
    )


@asynccontextmanager
async def sink_of_role(postgres: PostgresDatabase, role: str) -> AsyncIterator[SqlSink]:
    """A sink for orders with a role that may write rows and nothing else."""
    async with postgres.sink():
        pass  # the owner creates the ledger
    postgres.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret';"
        f"GRANT USAGE ON SCHEMA public TO {role};"
        f"GRANT INSERT ON orders TO {role}; GRANT SELECT ON write_batcher_meta TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON write_batcher_ledger TO {role}"
    )
    address = postgres.url.partition("@")[2]
    async with SqlSink.open(f"postgresql+psycopg://{role}:secret@{address}", tables=["orders"]) as sink:
        yield sink


async def test_role_needs_no_right_but_to_write_rows(postgres: PostgresDatabase) -> None:
    role = "role_of_sink"
    async with sink_of_role(postgres, role) as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]

        postgres.execute(f"REVOKE INSERT ON orders FROM {role}")
        (held,) = await sink.write(batch(order(2)))
        assert "permission denied for table orders" in reason(held)

        postgres.execute(f"GRANT INSERT ON orders TO {role}")
        assert outcomes(await sink.write(batch(order(2)))) == [Outcome.WRITTEN]


async def test_row_policy_rejects_only_the_record_that_violates_it(postgres: PostgresDatabase) -> None:
    postgres.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON orders USING (order_id < 100)")
    async with sink_of_role(postgres, "role_with_policy") as sink:
        receipts = await sink.write(batch(order(1), order(100)))

    assert outcomes(receipts) == [Outcome.WRITTEN, Outcome.REJECTED]
    assert "violates row-level security policy" in reason(receipts[1])


async def test_options_of_the_url_are_kept(postgres: PostgresDatabase) -> None:
    postgres.execute("CREATE SCHEMA shop; CREATE TABLE shop.lamps (number INTEGER)")
    url = f"{postgres.url}?options=-c%20search_path%3Dshop&application_name=mine"
    async with SqlSink.open(url, tables=["lamps"]) as sink:
        await sink.write(batch(record("a", "lamps", number=1)))
        names = postgres.query(f"SELECT application_name FROM pg_stat_activity WHERE datname = '{postgres.name}'")

    assert postgres.count("shop.lamps") == 1
    assert postgres.count("shop.write_batcher_ledger") == 1
    assert ("mine",) in names


async def test_missing_driver_is_reported_with_what_to_install(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ConfigurationError, match=r"install write-batcher\[postgresql\]"):
        async with postgres.sink():
            pass
