"""The table that MainWorkflow writes to, and the count of its rows."""

from sqlalchemy import CheckConstraint, Column, DateTime, Integer, MetaData, Table, Text, func, select
from sqlalchemy.ext.asyncio import create_async_engine

from write_batcher.workflows.main import TABLE

# No unique key, so that a write that happens twice leaves two rows.
MAIN_WRITES = Table(
    TABLE,
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("workflow_id", Text, nullable=False, index=True),
    Column("item", Text, nullable=False),
    Column("cents", Integer, CheckConstraint("cents >= 0", name="cents_not_negative"), nullable=False),
    Column("written_at", DateTime(timezone=True), server_default=func.current_timestamp()),
)


async def count_rows(database_url: str, series: str) -> tuple[int, int]:
    """Count the rows of the workflows whose ids begin with `series`, and how many of those rows are duplicates."""
    engine = create_async_engine(database_url)
    try:
        async with engine.connect() as connection:
            statement = select(func.count(), func.count(MAIN_WRITES.c.workflow_id.distinct())).where(
                MAIN_WRITES.c.workflow_id.startswith(series, autoescape=True)
            )
            rows, workflows = (await connection.execute(statement)).one()
    finally:
        await engine.dispose()
    return rows, rows - workflows
