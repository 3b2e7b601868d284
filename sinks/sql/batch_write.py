"""Writing one batch: data and ledger in one transaction, and only what its COMMIT refuses in several."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from write_batcher.errors import SinkUnavailable
from write_batcher.models import Held, Outcome, WriteReceipt, WriteRequest
from write_batcher.sinks.sql.dialect import Dialect, Fault, Refusal
from write_batcher.sinks.sql.inserts import ROW_LOCK_WAIT, Answers, TransactionEnded, insert_records
from write_batcher.sinks.sql.ledger import Ledger
from write_batcher.sinks.sql.ledger_row import LedgerRow, decided, expiry, receipt_for
from write_batcher.sinks.sql.quick_write import QuickWriter
from write_batcher.sinks.sql.table_faults import TableEvidence
from write_batcher.sinks.sql.tables import CheckedRecord
from write_batcher.sinks.sql.time_budget import TimeBudget

BATCH_LOCK_WAIT = timedelta(seconds=1)  # for another transaction's lock; then record by record, and shorter
MAX_LOCKED_IDS = 10  # while nothing could be written: then the ledger itself is locked

# Of a request that the ledger cannot take: another one may pass. Any other fault is the ledger's own.
FAULTS_OF_ONE_ROW = frozenset({Fault.RECORD, Fault.BUSY, Fault.TIMEOUT})


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """A request on its way into the database; exactly one of `record`, `refused`, `held` is set."""

    request: WriteRequest
    record: CheckedRecord | None = None
    refused: str | None = None
    """Why it is rejected without being tried."""
    held: str | None = None
    """Why it cannot be tried now."""

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def key(self) -> str:
        return self.request.order_key


class BatchWrite:
    """Writes the requests of one batch, whose ids differ from each other, and answers each."""

    def __init__(
        self,
        engine: AsyncEngine,
        dialect: Dialect,
        *,
        queue: str,
        batch_id: str,
        deduplication_window: timedelta,
        budget: TimeBudget,
        quick: QuickWriter,
    ) -> None:
        self._engine = engine
        self._dialect = dialect
        self._quick = quick
        self._queue = queue
        self._batch_id = batch_id
        self._window = deduplication_window
        self._budget = budget
        self._answers: dict[str, WriteReceipt | Held] = {}
        self._heads: dict[str, str] = {}  # the held request of a key
        self._evidence = TableEvidence(dialect)  # of what has been committed
        self._refused: dict[str, tuple[Item, Refusal]] = {}  # as whole transactions, and not answered yet

    async def write(self, items: Sequence[Item]) -> dict[str, WriteReceipt | Held]:
        """Return the answers by request id. Raises as `Sink.write` does, and the driver's errors."""
        undecided = list(items)
        while undecided:
            await self._write_by_halves(undecided, BATCH_LOCK_WAIT)
            refused = self._decide()
            undecided = [refused.get(item.id, item) for item in undecided if item.id not in self._answers]
        return self._answers

    async def _write_by_halves(self, items: Sequence[Item], lock_wait: timedelta) -> None:
        """Write all in one transaction, or halve them until those are found that it is refused for: a deferred
        constraint is checked at COMMIT, where no savepoint is left to tell the records apart.
        """
        items = self._not_waiting(items)
        if not items:
            return
        if await self._write_at_once(items):
            return
        try:
            answers = await self._write_in_transaction(items, lock_wait)
        except TransactionEnded as error:
            if len(items) == 1:
                self._refuse(items[0], error.refusal)
                return
        else:
            self._keep(items, answers)
            return
        self._budget.check()
        middle = len(items) // 2
        await self._write_by_halves(items[:middle], ROW_LOCK_WAIT)
        await self._write_by_halves(items[middle:], ROW_LOCK_WAIT)

    async def _write_at_once(self, items: Sequence[Item]) -> bool:
        """Write all in one transaction if that is the usual case: all ids are new, and all records accepted. Returns
        False otherwise: then nothing has been written, and nothing is decided.
        """
        records = [item.record for item in items if item.record is not None]
        if len(items) == 1 or len(records) < len(items):  # one alone has no batch to be quick for
            return False
        requests = [item.request for item in items]
        if not await self._quick.write(
            requests, records, queue=self._queue, batch_id=self._batch_id, budget=self._budget
        ):
            return False
        self._answers |= {item.id: self._receipt(item, Outcome.WRITTEN, None) for item in items}
        self._evidence.add_accepted(records)
        return True

    def _not_waiting(self, items: Iterable[Item]) -> list[Item]:
        """The items whose keys wait for nobody. What follows a held one is held."""
        if not self._heads and not self._refused:
            return list(items)
        undecided_keys = {item.key for item, _ in self._refused.values()}
        free = []
        for item in items:
            if item.key in self._heads:
                self._answers[item.id] = Held(request_id=item.id, reason=following(self._heads[item.key]))
            elif item.key not in undecided_keys:
                free.append(item)
        return free

    def _keep(self, items: Sequence[Item], answers: dict[str, WriteReceipt | Held]) -> None:
        self._answers |= answers
        for item in items:
            answer = answers[item.id]
            if isinstance(answer, Held):
                self._heads.setdefault(item.key, item.id)
            elif answer.outcome is Outcome.WRITTEN and item.record is not None:
                self._evidence.add_accepted([item.record])

    def _refuse(self, item: Item, refusal: Refusal) -> None:
        self._refused[item.id] = item, refusal
        locked = [one for _, one in self._refused.values() if one.fault is Fault.BUSY]
        if len(locked) >= MAX_LOCKED_IDS and not self._answers:
            raise SinkUnavailable(f"The write ledger is locked: {refusal}.")

    def _decide(self) -> dict[str, Item]:
        """Answer what was refused as a whole, or return it as items whose rejection is to be written."""
        pairs = list(self._refused.values())
        self._refused = {}
        reasons = self._evidence.held([(item.record, refusal) for item, refusal in pairs if item.record is not None])
        rejected: dict[str, Item] = {}
        for item, refusal in pairs:
            reason = reasons.get(item.id)
            if item.record is not None and reason is None:
                rejected[item.id] = replace(item, record=None, refused=refusal.text)
            elif item.record is None and refusal.fault is Fault.RECORD:  # the ledger cannot hold it, whatever it says
                self._answers[item.id] = self._receipt(item, Outcome.REJECTED, refusal.text)
            else:
                self._keep([item], {item.id: Held(request_id=item.id, reason=reason or f"{refusal}.")})
        return rejected

    async def _write_in_transaction(
        self, items: Sequence[Item], lock_wait: timedelta
    ) -> dict[str, WriteReceipt | Held]:
        is_claimed = False
        try:
            async with self._engine.begin() as connection:
                now = await self._dialect.begin(connection, lock_wait=lock_wait)
                expires_at = expiry(max(now, datetime.now(UTC)), self._window)
                ledger = Ledger(connection, self._dialect, self._queue, expires_at=expires_at)
                claimed, known = await ledger.claim([self._row(item, Outcome.WRITTEN) for item in items])
                is_claimed = True
                self._budget.check()
                return await self._write_claimed(connection, ledger, items, claimed, known)
        except SQLAlchemyError as error:
            refusal = self._dialect.refusal(error)
            if refusal is None or not (is_claimed or refusal.fault in FAULTS_OF_ONE_ROW):
                raise
            if refusal.fault is Fault.TIMEOUT and len(items) > 1:
                raise self._budget.exceeded(refusal.text) from error
            raise TransactionEnded(refusal) from error

    async def _write_claimed(
        self,
        connection: AsyncConnection,
        ledger: Ledger,
        items: Sequence[Item],
        claimed: set[str],
        known: dict[str, LedgerRow],
    ) -> dict[str, WriteReceipt | Held]:
        receipts: dict[str, WriteReceipt] = {}
        for item in items:
            earlier = known.get(item.id)
            receipt = earlier.answer(item.request, batch_id=self._batch_id) if earlier else None
            if receipt is not None:
                receipts[item.id] = receipt
        outstanding = [item for item in items if item.id not in receipts]
        inserted = await self._insert(connection, outstanding)
        reasons = with_followers([item.request for item in items], inserted.held)
        changed: list[LedgerRow] = []
        for item in outstanding:
            if item.id in reasons:
                continue
            error = item.refused or inserted.refused.get(item.id)
            outcome = Outcome.WRITTEN if error is None else Outcome.REJECTED
            receipts[item.id] = self._receipt(item, outcome, error)
            if outcome is Outcome.REJECTED or item.id not in claimed:
                changed.append(self._row(item, outcome, error=error, earlier=known.get(item.id)))
        await ledger.give_back(claimed & reasons.keys())
        await ledger.replace(changed)
        return {
            item.id: Held(request_id=item.id, reason=reasons[item.id]) if item.id in reasons else receipts[item.id]
            for item in items
        }

    async def _insert(self, connection: AsyncConnection, items: Sequence[Item]) -> Answers:
        requests = [item.request for item in items]
        held = with_followers(requests, {item.id: item.held for item in items if item.held is not None})
        records = [item.record for item in items if item.record is not None and item.id not in held]
        inserted = await insert_records(connection, self._dialect, records, self._budget)
        return Answers(refused=inserted.refused, held=held | inserted.held)

    def _row(
        self, item: Item, outcome: Outcome, *, error: str | None = None, earlier: LedgerRow | None = None
    ) -> LedgerRow:
        return decided(item.request, outcome, queue=self._queue, batch_id=self._batch_id, error=error, earlier=earlier)

    def _receipt(self, item: Item, outcome: Outcome, error: str | None) -> WriteReceipt:
        return receipt_for(item.request, outcome, batch_id=self._batch_id, error=error)


def following(request_id: str) -> str:
    """Why a request is held that comes after a held one with the same key."""
    return f"It waits for request {request_id!r}, which has the same key and is held."


def with_followers(requests: Iterable[WriteRequest], held: dict[str, str]) -> dict[str, str]:
    """Return why requests are held, by request id: `held`, and all that come after one of them with the same key."""
    heads: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for request in requests:
        if request.order_key in heads:
            reasons[request.request_id] = following(heads[request.order_key])
        elif request.request_id in held:
            heads[request.order_key] = request.request_id
            reasons[request.request_id] = held[request.request_id]
    return reasons
