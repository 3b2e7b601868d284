"""How PostgreSQL is set up: poolers, durability, encodings, rights; and what the sink says of it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.pgbouncer import PROGRAM, PgBouncer
from tests.support.target_databases import NO_SYNC, QUEUE, PostgresDatabase, batch, order, outcomes, reason, record
from write_batcher.errors import ConfigurationError
from write_batcher.models import Outcome, ReplyAddress, WriteRequest
from write_batcher.sinks.sql import batch_write
from write_batcher.sinks.sql.postgresql import PostgresDialect
from write_batcher.sinks.sql.schema import ddl
from write_batcher.sinks.sql.sink import SqlSink
from write_batcher.workers.embedded.postgres_server import PostgresServer

LIMITS = {
    "statement_timeout": "30s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "30s",
    "synchronous_commit": "on",
}
LIMITS_OF_THE_QUICK_WAY = LIMITS | {"statement_timeout": "12s", "lock_timeout": "100ms"}


def note_settings(postgres: PostgresDatabase) -> None:
    """Let each row of `orders` note the settings of its transaction."""
    postgres.execute(
        "CREATE TABLE seen (name TEXT, value TEXT);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " INSERT INTO seen SELECT name, current_setting(name) FROM unnest(ARRAY["
        f"{', '.join(repr(name) for name in LIMITS)}]) AS name; RETURN new; END$$;"
        "CREATE TRIGGER note BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note()"
    )


def seen(postgres: PostgresDatabase) -> dict[str, str]:
    return dict(postgres.query("SELECT name, value FROM seen"))


async def test_limits_are_in_force_in_every_transaction_and_nowhere_else(postgres: PostgresDatabase) -> None:
    note_settings(postgres)
    async with postgres.sink() as sink:
        await sink.write(batch(order(1)))

    assert seen(postgres) == LIMITS


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")
class TestBehindPgBouncer:
    """With the default configuration, which refuses start-up parameters that it does not know."""

    @pytest.fixture
    async def pooler(self, postgres: PostgresDatabase, tmp_path: Path) -> AsyncIterator[PgBouncer]:
        note_settings(postgres)
        async with PgBouncer(tmp_path, postgres.server) as pooler:
            yield pooler

    async def test_sink_works_with_its_limits_in_force(
        self, postgres: PostgresDatabase, pooler: PgBouncer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with (
            SqlSink.open(pooler.url(), tables=["orders"]) as one,
            SqlSink.open(pooler.url(), tables=["orders"]) as two,
        ):
            answers = await asyncio.gather(
                *(sink.write(batch(*map(order, range(50)), batch_id=f"{n}")) for n, sink in enumerate([one, two] * 4))
            )
            settled = await one.settle(order(99), queue=QUEUE)

        assert [outcomes(one_of) for one_of in answers].count([Outcome.WRITTEN] * 50) == 1
        assert settled.outcome is Outcome.WITHDRAWN
        assert postgres.count("orders") == 50
        assert seen(postgres) == LIMITS_OF_THE_QUICK_WAY
        assert not [one for one in caplog.messages if "within a transaction" in one]

    async def test_other_clients_of_the_pooler_get_no_limit_of_ours(
        self, postgres: PostgresDatabase, pooler: PgBouncer
    ) -> None:
        async with SqlSink.open(pooler.url(), tables=["orders"]) as sink:
            await sink.write(batch(order(1)))
            with psycopg.connect(pooler.url().replace("+psycopg", ""), autocommit=True) as other:
                (timeout,) = other.execute("SHOW statement_timeout").fetchone() or ()

        assert timeout == "0"

    async def test_locked_row_is_given_up_in_time(
        self, postgres: PostgresDatabase, pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch_write, "BATCH_LOCK_WAIT", timedelta(milliseconds=50))
        async with SqlSink.open(pooler.url(), tables=["stock:upsert", "orders"]) as sink:
            await sink.write(batch(record("a", "stock", shop="here", sku="tea")))
            with postgres.connect() as other, other.transaction():
                other.execute("UPDATE stock SET note = 'mine'")
                async with asyncio.timeout(10):
                    answers = await sink.write(batch(record("b", "stock", shop="here", sku="tea", pieces=1), order(1)))

        assert outcomes(answers) == [None, Outcome.WRITTEN]

    async def test_pooling_by_statement_is_refused(
        self, postgres: PostgresDatabase, pooler: PgBouncer, tmp_path: Path
    ) -> None:
        async with PgBouncer(tmp_path / "statement", postgres.server, pool_mode="statement") as unfit:
            with pytest.raises(ConfigurationError, match="transaction blocks not allowed in statement pooling"):
                async with SqlSink.open(unfit.url(), tables=["orders"]):
                    pass


@pytest.mark.parametrize(
    ("configured", "in_force"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
async def test_commit_is_at_least_synchronous(postgres: PostgresDatabase, configured: str, in_force: str) -> None:
    note_settings(postgres)
    postgres.execute(f"ALTER DATABASE postgres SET synchronous_commit = {configured}")
    try:
        async with postgres.sink() as sink:
            await sink.write(batch(order(1)))
    finally:
        postgres.execute("ALTER DATABASE postgres RESET synchronous_commit")

    assert seen(postgres)["synchronous_commit"] == in_force


async def test_acknowledged_writes_survive_a_kill_of_a_server_that_commits_later(tmp_path: Path) -> None:
    late = ("-c", "synchronous_commit=off", "-c", "wal_writer_delay=10s")
    async with PostgresServer(tmp_path, extra=(*NO_SYNC, *late)) as server:
        postgres = PostgresDatabase.fresh(server)
        async with postgres.sink() as sink:
            receipts = await sink.write(batch(*map(order, range(100))))
            await server.kill()
        await server.start()

        assert outcomes(receipts) == [Outcome.WRITTEN] * 100
        assert postgres.count("orders") == 100


async def test_server_that_may_lose_commits_is_warned_of(
    postgres: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """The tests' server has `fsync = off`, because no test crashes the machine."""
    with caplog.at_level(logging.WARNING):
        async with postgres.sink():
            pass

    (message,) = [message for message in caplog.messages if "fsync" in message]
    assert "fsync is off, so that a crash of its machine loses writes" in message
    assert message.endswith("set it to on")


async def test_limits_that_are_not_in_force_are_warned_of(
    postgres: PostgresDatabase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = PostgresDialect.begin

    async def forgetful(self: PostgresDialect, connection: object, *, lock_wait: timedelta) -> object:
        now = await begin(self, connection, lock_wait=lock_wait)  # type: ignore[arg-type]
        await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # type: ignore[attr-defined]
        await connection.exec_driver_sql("SET LOCAL synchronous_commit = off")  # type: ignore[attr-defined]
        return now

    monkeypatch.setattr(PostgresDialect, "begin", forgetful)
    async with postgres.sink():
        pass

    text = "\n".join(caplog.messages)
    assert "statement_timeout is 0 ms instead of 30000 within a transaction" in text
    assert "pool_mode = transaction" in text
    assert "synchronous_commit is off within a transaction" in text


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_database_of_another_encoding_is_refused(postgres: PostgresDatabase, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    other = PostgresDatabase(postgres.server, name)
    other.execute("CREATE TABLE orders (order_id INTEGER)")

    with pytest.raises(ConfigurationError, match=f"encoding {encoding}, .* create it with ENCODING 'UTF8'"):
        async with other.sink(["orders"]):
            pass


async def test_ids_and_texts_of_any_script_reach_a_client_of_another_encoding(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    request = WriteRequest(
        request_id="заказ-7",
        table="orders",
        record={"order_id": 7, "cents": 1, "note": "naïve — 注文 🍵"},
        reply=ReplyAddress(workflow_id="заказ-7", run_id="run", attempt="попытка"),
    )
    async with SqlSink.open(f"{postgres.url}?client_encoding=latin1", tables=["orders"]) as sink:
        assert outcomes(await sink.write(batch(request))) == [Outcome.WRITTEN]
        assert (await sink.settle(request, queue=QUEUE)).outcome is Outcome.WRITTEN

    monkeypatch.delenv("PGCLIENTENCODING")
    assert postgres.query("SELECT note FROM orders") == [("naïve — 注文 🍵",)]


@pytest.fixture
def role(postgres: PostgresDatabase, request: pytest.FixtureRequest) -> str:
    """A role that may do nothing but use the schema."""
    name = f"role_{request.node.name}"[:63]
    postgres.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA public TO {name}")
    return name


def url_of(postgres: PostgresDatabase, role: str) -> str:
    return f"postgresql+psycopg://{role}:secret@{postgres.url.partition('@')[2]}"


async def refusal(postgres: PostgresDatabase, role: str, table: str = "orders") -> str:
    with pytest.raises(ConfigurationError) as refused:
        async with SqlSink.open(url_of(postgres, role), tables=[table]):
            pass
    return str(refused.value)


async def test_role_that_may_not_create_the_ledger_is_told_what_to_run(postgres: PostgresDatabase, role: str) -> None:
    postgres.execute(f"GRANT INSERT ON orders TO {role}")
    message = await refusal(postgres, role)

    assert "'write_batcher_ledger' and 'write_batcher_meta' are missing" in message
    assert "`write-batcher schema print`" in message
    assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON write_batcher_ledger TO {role}" in message
    for statement in ddl(postgres.url).split(";\n"):
        postgres.execute(statement)
    postgres.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON write_batcher_ledger TO {role};"
        f"GRANT SELECT ON write_batcher_meta TO {role}"
    )
    async with SqlSink.open(url_of(postgres, role), tables=["orders"]) as sink:
        assert outcomes(await sink.write(batch(order(1)))) == [Outcome.WRITTEN]


async def test_role_without_a_right_on_a_table_is_told_which(postgres: PostgresDatabase, role: str) -> None:
    async with postgres.sink():
        pass
    grants = [
        ("INSERT", "orders", "orders"),
        ("SELECT, INSERT, UPDATE, DELETE", "write_batcher_ledger", "orders"),
        ("SELECT", "write_batcher_meta", "orders"),
        ("SELECT, INSERT, UPDATE", "stock", "stock:upsert"),
    ]
    for rights, table, target in grants:
        message = await refusal(postgres, role, target)
        assert f"{role} has no right to {rights} on table '{table}'" in message
        assert f"run GRANT {rights} ON {table} TO {role}." in message
        postgres.execute(f"GRANT {rights} ON {table} TO {role}")

    async with SqlSink.open(url_of(postgres, role), tables=["orders", "stock:upsert"]) as sink:
        answers = await sink.write(batch(order(1), record("a", "stock", shop="here", sku="tea", pieces=1)))
        await sink.prune()
    assert outcomes(answers) == [Outcome.WRITTEN] * 2, [reason(answer) for answer in answers]


async def test_right_on_single_columns_is_enough_for_a_target(postgres: PostgresDatabase, role: str) -> None:
    async with postgres.sink():
        pass
    postgres.execute(
        f"GRANT INSERT (order_id, cents) ON orders TO {role}; GRANT SELECT ON write_batcher_meta TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON write_batcher_ledger TO {role}"
    )
    async with SqlSink.open(url_of(postgres, role), tables=["orders"]) as sink:
        answers = await sink.write(batch(order(1), order(2, note="no right")))

    assert outcomes(answers) == [Outcome.WRITTEN, None]
