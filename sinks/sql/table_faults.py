"""When refusals may be the table's fault rather than the records': the records are held then, and not rejected."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from write_batcher.sinks.sql.dialect import Dialect, Fault, Refusal
from write_batcher.sinks.sql.tables import CheckedRecord, TargetTable

# So many records of a table that are refused with one code, and none that is accepted, are taken for the table's fault:
# a dropped default, a broken trigger. Fewer may well all be bad by chance.
MIN_ALIKE = 10

ADVICE = "repair the table, or reject the request with `write-batcher queue reject`"

Refused = tuple[CheckedRecord, Refusal]


@dataclass(slots=True)
class TableEvidence:
    """What one batch has shown about its tables so far."""

    dialect: Dialect
    _accepted: list[CheckedRecord] = field(default_factory=list)
    """Those whose evidence has not been looked at yet: usually nothing is refused, and nobody asks for it."""
    _accepted_by: set[TargetTable] = field(default_factory=set)
    _proven: set[object] = field(default_factory=set)
    """`CheckedRecord.filled` of accepted inserts. An accepted upsert proves nothing: one inserts, the next updates."""
    _refused: Counter[tuple[TargetTable, str | None]] = field(default_factory=Counter)

    def add_accepted(self, records: Iterable[CheckedRecord]) -> None:
        self._accepted.extend(records)

    def has_accepted(self, target: TargetTable) -> bool:
        self._look()
        return target in self._accepted_by

    def _look(self) -> None:
        for record in self._accepted:
            self._accepted_by.add(record.target)
            if not record.target.upsert:
                self._proven.add(record.filled)
        self._accepted.clear()

    def held(self, refused: Sequence[Refused]) -> dict[str, str]:
        """Return which of the refused records are held, by request id, and why. The others are to be rejected."""
        if not refused:
            return {}
        self._look()
        self._refused.update((record.target, refusal.code) for record, refusal in refused)
        reasons = {record.request_id: self._reason_to_hold(record, refusal) for record, refusal in refused}
        return {request_id: reason for request_id, reason in reasons.items() if reason is not None}

    def _reason_to_hold(self, record: CheckedRecord, refusal: Refusal) -> str | None:
        table = record.target.table.fullname
        if refusal.fault is Fault.BUSY:
            return f"Table {table!r} cannot take it now: {refusal}."
        if refusal.fault is Fault.TIMEOUT:
            return f"Table {table!r} takes too long for it: {refusal}."
        if refusal.fault is Fault.OUTAGE:
            return f"Table {table!r} cannot be written: {refusal}."
        if refusal.fault is Fault.DOUBTFUL:
            if record.filled in self._proven:
                return None
            return f"Either table {table!r} or this record is at fault: {refusal}; {ADVICE}."
        alike = self._refused[record.target, refusal.code]
        if alike < MIN_ALIKE or self.has_accepted(record.target) or not self._may_be_the_table(refusal):
            return None
        return f"All {alike} records for table {table!r} are refused alike: {refusal}; {ADVICE}."

    def _may_be_the_table(self, refusal: Refusal) -> bool:
        """A key that is taken, or a value that the driver cannot send, is refused by the best of tables."""
        return refusal.code is not None and refusal.code not in self.dialect.taken_key_codes
