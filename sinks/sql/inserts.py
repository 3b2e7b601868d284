"""Inserting checked records with few statements, such that a record the database refuses costs no other one."""

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from write_batcher.errors import SinkUnavailable
from write_batcher.sinks.sql.bulk_insert import in_few_statements
from write_batcher.sinks.sql.dialect import Dialect, Fault, Refusal
from write_batcher.sinks.sql.table_faults import Refused, TableEvidence
from write_batcher.sinks.sql.tables import CheckedRecord, TargetTable
from write_batcher.sinks.sql.time_budget import TimeBudget

ROW_LOCK_WAIT = timedelta(milliseconds=100)  # once a lock has been in the way: each record may meet another one

MAX_SEARCHES = 5  # for refused records of a group, about 2 log n statements each; for more, row by row is cheaper
MAX_SEARCHES_ON_RETRY = 1  # of records that were refused before: either all are accepted now, or most are refused again
MAX_SEARCHES_FOR_LOCKS = 1  # each of its statements waits
MAX_SAVEPOINTS = 32  # nested. PostgreSQL caches 64 subtransactions; both databases need memory for each

# So many records of a table that are refused alike in a row, one by one, speak for the rest of it. Refusals that are
# certainly a record's fault are cheap, and the answer that their callers wait for.
ALIKE_IN_A_ROW, CERTAIN_IN_A_ROW = 10, 100
PROBES = 3  # of the rest, at random: a good record among bad ones is found in the end

FINAL = frozenset({Fault.BUSY, Fault.TIMEOUT, Fault.OUTAGE})  # faults that do not go away within the transaction

Group = list[CheckedRecord]


@dataclass(slots=True)
class Answers:
    """Why records were not inserted, by request id. Those that follow a held one with its key were not either."""

    refused: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)


class TransactionEnded(Exception):
    """The transaction was refused, or has ended, as a whole: nothing of it is left."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


async def insert_records(
    connection: AsyncConnection, dialect: Dialect, records: Sequence[CheckedRecord], budget: TimeBudget
) -> Answers:
    """Insert the records that the database accepts; those with the same key in their order, also across tables, and
    none that follows a held one.

    One refusal among n records costs at most 2 log n + 5 statements more than none. Raises `BatchTooLarge` when it
    takes too long, `SinkUnavailable` when no record can be written for want of disk or memory, `TransactionEnded`, and
    the driver's error when the database is away.
    """
    evidence = TableEvidence(dialect)
    inserter = _Inserter(connection, dialect, budget, evidence)
    answers = Answers()
    undecided = list(records)
    max_searches = MAX_SEARCHES
    while undecided:
        accepted, refused = await inserter.insert(undecided, max_searches)
        _raise_if_all_is_away(accepted, refused)
        max_searches = MAX_SEARCHES_ON_RETRY
        if accepted:
            # The row that a foreign key or a trigger looked for may have been inserted after the record that needs it.
            refused = [one for one in refused if one[1].fault in FINAL]
        decided = {record.request_id for record in (*accepted, *(record for record, _ in refused))}
        reasons = evidence.held(refused)
        for record, refusal in refused:
            if record.request_id in reasons:
                answers.held[record.request_id] = reasons[record.request_id]
            else:
                answers.refused[record.request_id] = refusal.text
        held_keys = {record.order_key for record, _ in refused if record.request_id in reasons}
        undecided = [
            record for record in undecided if record.request_id not in decided and record.order_key not in held_keys
        ]
    return answers


def _raise_if_all_is_away(accepted: Group, refused: list[Refused]) -> None:
    if not accepted and len(refused) > 1 and all(refusal.fault is Fault.OUTAGE for _, refusal in refused):
        raise SinkUnavailable(f"No table can be written: {refused[0][1]}.")


def groups_of(records: Iterable[CheckedRecord]) -> list[Group]:
    """Groups of records that one statement can write, in the order in which they must be written.

    Records with the same key stand in one group only if a statement keeps their order. PostgreSQL refuses to update a
    row twice in a statement, and the later upsert of a row must win: each goes into a later group than the one before.
    """
    groups: dict[tuple[int, Hashable], Group] = {}
    latest: dict[str, tuple[int, Hashable]] = {}
    row_turns: dict[Hashable, int] = {}
    for record in records:
        turn, shape = 0, record.shape
        if record.order_key in latest:
            turn, earlier_shape = latest[record.order_key]
            if record.target.upsert or earlier_shape != shape:
                turn += 1
        if record.target.upsert:
            row = record.row
            turn = max(turn, row_turns.get(row, -1) + 1)
            row_turns[row] = turn
        latest[record.order_key] = name = turn, shape
        groups.setdefault(name, []).append(record)
    # The sort is stable: tables stay in the order of their first records.
    return [groups[name] for name in sorted(groups, key=lambda name: name[0])]


def values_of(dialect: Dialect, group: Group) -> list[dict[str, Any]]:
    """Return the values of a group in the order in which one statement writes them."""
    if dialect.locks_rows and group[0].target.upsert:
        # Two transactions that update the same rows in opposite orders would deadlock. Sorting does not change the
        # result, because no row is updated twice in a statement, and no two of its records have the same key.
        group = sorted(group, key=lambda record: repr(record.row))
    return [record.values for record in group]


class _Inserter:
    """Runs the statements of one transaction such that each can be undone alone."""

    def __init__(
        self, connection: AsyncConnection, dialect: Dialect, budget: TimeBudget, evidence: TableEvidence
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._budget = budget
        self._evidence = evidence
        self._savepoints = 0
        self._savepoint_is_fresh = False  # nothing has been done since the latest savepoint
        self._waits_shortly = False
        self._given_up: dict[TargetTable, Refusal] = {}

    async def insert(self, records: Sequence[CheckedRecord], max_searches: int) -> tuple[Group, list[Refused]]:
        """Insert what is accepted. Records that follow a refused one, by their key or as upserts of the same row, are
        neither inserted nor refused: whether it is refused for good is not known yet.
        """
        pass_ = _Pass()
        for group in groups_of(records):
            rest = pass_.not_waiting(group)
            if rest:
                await self._insert_group(
                    in_few_statements(insert_statement(self._dialect, rest[0])), rest, max_searches, pass_
                )
        return pass_.accepted, pass_.refused

    async def _insert_group(self, statement: Executable, rest: Group, max_searches: int, pass_: "_Pass") -> None:
        target = rest[0].target
        searches = 0
        while rest and target not in self._given_up:
            refusal = await self._try(statement, rest)
            if refusal is None:
                self._accept(rest, pass_)
                return
            limit = MAX_SEARCHES_FOR_LOCKS if refusal.fault is Fault.BUSY else max_searches
            if searches >= limit:
                rest = await self._insert_one_by_one(statement, rest, pass_)
                break
            accepted, refused = await self._insert_up_to_first_refused(statement, rest, refusal)
            self._accept(rest[:accepted], pass_)
            if refused is not None:
                pass_.refuse(rest[accepted], refused)
                accepted += 1
            rest = pass_.not_waiting(rest[accepted:])
            searches += 1
        while rest:
            pass_.refuse(rest[0], self._given_up[target])
            rest = pass_.not_waiting(rest[1:])

    async def _insert_up_to_first_refused(
        self, statement: Executable, records: Group, refusal: Refusal
    ) -> tuple[int, Refusal | None]:
        """Given that `records` are refused together, insert those before the first that is at fault. Returns how many,
        and why the next one is refused; None when it need not be any more.
        """
        accepted, refused = 0, len(records)
        was_alone = refused == 1
        while refused - accepted > 1:
            middle = (accepted + refused) // 2
            was_alone = middle - accepted == 1
            answer = await self._try(statement, records[accepted:middle])
            if answer is None:
                accepted, was_alone = middle, False
            else:
                refused, refusal = middle, answer
        if was_alone or refusal.fault is Fault.RECORD:
            return accepted, refusal
        # A lock may have gone meanwhile: nobody is blamed without having been tried alone.
        answer = await self._try(statement, records[accepted:refused])
        return (accepted, answer) if answer is not None else (refused, None)

    async def _insert_one_by_one(self, statement: Executable, rest: Group, pass_: "_Pass") -> Group:
        """Returns the records that were not tried, because those before them were refused alike."""
        target = rest[0].target
        alike: list[Refusal] = []
        while rest:
            if len(alike) == _enough(alike) + PROBES:
                self._given_up[target] = _presumed(alike[-1])
                return rest
            if len(alike) == _enough(alike):
                rest = _random_heads_first(rest)
            record, rest = rest[0], rest[1:]
            refusal = await self._try(statement, [record])
            if refusal is None:
                self._accept([record], pass_)
                alike = []
                continue
            pass_.refuse(record, refusal)
            rest = pass_.not_waiting(rest)
            if refusal.fault is Fault.RECORD and self._evidence.has_accepted(target):
                alike = []  # the table is in order, and each record has an answer of its own
            else:
                alike = [*(alike if alike and alike[-1].code == refusal.code else []), refusal]
        return []

    def _accept(self, records: Group, pass_: "_Pass") -> None:
        pass_.accepted += records
        self._evidence.add_accepted(records)

    async def _try(self, statement: Executable, records: Group) -> Refusal | None:
        await self._set_savepoint()
        try:
            await self._connection.execute(statement, values_of(self._dialect, records))
        except Exception as error:  # drivers raise anything for a value that they cannot send
            refusal = self._dialect.refusal(error)
            if refusal is None:
                raise
        else:
            self._savepoint_is_fresh = False
            self._budget.check()
            return None
        if refusal.fault is Fault.TIMEOUT:
            if len(records) > 1:
                raise self._budget.exceeded(refusal.text)
            self._budget.restart()
        await self._roll_back(refusal)
        if refusal.fault is Fault.BUSY and not self._waits_shortly:
            await self._dialect.limit_lock_wait(self._connection, ROW_LOCK_WAIT)
            self._waits_shortly = True
            self._savepoint_is_fresh = False  # rolling back to it would undo the limit
        self._budget.check()
        return refusal

    async def _roll_back(self, refusal: Refusal) -> None:
        """On a lost connection this raises, and no record is blamed for that."""
        try:
            await self._connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT batch_{self._savepoints}")
        except DBAPIError as error:
            if self._dialect.has_ended_transaction(error):
                raise TransactionEnded(refusal) from error
            raise

    async def _set_savepoint(self) -> None:
        """Protect what has been written from the next rollback. Savepoints are nested, because releasing each one would
        cost another statement.
        """
        if self._savepoint_is_fresh:
            return
        if self._savepoints == MAX_SAVEPOINTS:
            await self._connection.exec_driver_sql("RELEASE SAVEPOINT batch_1")  # and all inside it
            self._savepoints = 0
        self._savepoints += 1
        await self._connection.exec_driver_sql(f"SAVEPOINT batch_{self._savepoints}")
        self._savepoint_is_fresh = True


@dataclass(slots=True)
class _Pass:
    """One pass over the records of a transaction."""

    accepted: Group = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)
    _rows: set[Hashable] = field(default_factory=set)

    def refuse(self, record: CheckedRecord, refusal: Refusal) -> None:
        self.refused.append((record, refusal))
        self._stop(record)

    def not_waiting(self, records: Group) -> Group:
        """The records that follow neither a refused one nor one that waits itself."""
        if not self._keys:
            return records
        free: Group = []
        for record in records:
            if record.order_key in self._keys or (record.target.upsert and record.row in self._rows):
                self._stop(record)
            else:
                free.append(record)
        return free

    def _stop(self, record: CheckedRecord) -> None:
        self._keys.add(record.order_key)
        if record.target.upsert:
            self._rows.add(record.row)


def _enough(alike: list[Refusal]) -> int:
    return CERTAIN_IN_A_ROW if alike and alike[-1].fault is Fault.RECORD else ALIKE_IN_A_ROW


def _presumed(refusal: Refusal) -> Refusal:
    """For records that have not been tried: none of them is rejected."""
    return refusal if refusal.fault in FINAL else replace(refusal, fault=Fault.BUSY)


def _random_heads_first(records: Group) -> Group:
    heads = list({record.order_key: record for record in reversed(records)}.values())
    probes = random.sample(heads, min(PROBES, len(heads)))
    probed = {record.request_id for record in probes}
    return [*probes, *(record for record in records if record.request_id not in probed)]


def insert_statement(dialect: Dialect, record: CheckedRecord) -> Any:
    """Return the statement that writes records of the same shape."""
    insert = dialect.insert(record.target.table)
    if not record.target.upsert:
        return insert
    key = list(record.target.table.primary_key.columns)
    changed = {name: insert.excluded[name] for name in record.values if name not in record.target.key}
    if changed:
        return insert.on_conflict_do_update(index_elements=key, set_=changed)
    return insert.on_conflict_do_nothing(index_elements=key)
