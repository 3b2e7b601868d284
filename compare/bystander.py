"""Another application on the same database: `python -m write_batcher.compare.bystander URL`.

It reads and updates single rows at a steady rate, and prints for each how long it took, as one line of JSON. A
transaction that is late because the one before took long counts from when it should have begun.
"""

import asyncio
import json
import random
import sys
import time

from sqlalchemy import Column, Integer, MetaData, Table, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

ACCOUNTS = Table(
    "accounts", MetaData(), Column("id", Integer, primary_key=True), Column("balance", Integer, nullable=False)
)
NUMBER = 1_000  # of accounts
PER_S = 40


async def main(url: str) -> None:
    """Work until the process is ended."""
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(ACCOUNTS.metadata.create_all)
        await connection.execute(insert(ACCOUNTS), [{"id": number, "balance": 0} for number in range(NUMBER)])
    due = time.monotonic()
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        failed = False
        try:
            async with engine.begin() as connection:
                await _transact(connection, random.randrange(NUMBER))  # noqa: S311 - not for secrets
        except SQLAlchemyError:
            failed = True
        ended = time.monotonic()
        sys.stdout.write(json.dumps({"at": ended, "ms": (ended - due) * 1000, "failed": failed}) + "\n")
        sys.stdout.flush()
        due += 1 / PER_S


async def _transact(connection: AsyncConnection, account: int) -> None:
    await connection.execute(select(ACCOUNTS.c.balance).where(ACCOUNTS.c.id == account))
    await connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == account).values(balance=ACCOUNTS.c.balance + 1))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
