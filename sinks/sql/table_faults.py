"""When refusals are the table's fault rather than the records': the batch is held and nobody is rejected."""

from collections.abc import Hashable, Iterable, Mapping

from write_batcher.errors import SinkUnavailable
from write_batcher.sinks.sql.dialect import Dialect, Refusal
from write_batcher.sinks.sql.tables import CheckedRecord

# At this many records, a batch that the database refuses entirely and with one code is taken for the table's fault: a
# dropped default, a broken trigger. Fewer may well all be bad by chance, and must not hold up the partition for ever.
MIN_UNIFORM_REFUSALS = 10

ADVICE = "Repair the table, or cancel the workflows that wait: they withdraw their records."


def hold_if_all_refused_alike(dialect: Dialect, refusals: Mapping[str, Refusal], asked: int) -> None:
    """Raise `SinkUnavailable` when all of `asked` records, ten or more, are refused with the same code.

    Keys that are taken do not count: no repair of the table would let these records in.
    """
    if len(refusals) < max(asked, MIN_UNIFORM_REFUSALS):
        return
    codes = {refusal.code for refusal in refusals.values()}
    if len(codes) == 1 and None not in codes and not codes & dialect.taken_key_codes:
        (code,), text = codes, next(iter(refusals.values())).text
        raise SinkUnavailable(
            f"All {asked} records of a batch are refused alike ({code}): {text.rstrip('.')}. {ADVICE}"
        )


def hold_if_ambiguous(refusals: Mapping[str, Refusal], records: Iterable[CheckedRecord]) -> None:
    """Raise `SinkUnavailable` when an uncertain refusal may be the table's fault: no accepted record for the same
    columns proves that the table is in order.

    An accepted upsert proves nothing: one inserts, the next updates.
    """
    if all(refusal.certain for refusal in refusals.values()):
        return
    accepted = [record for record in records if record.request_id not in refusals and not record.target.upsert]
    proven = {_filled_columns(record) for record in accepted}
    for record in records:
        refusal = refusals.get(record.request_id)
        if refusal is not None and not refusal.certain and _filled_columns(record) not in proven:
            raise SinkUnavailable(
                f"Either {record.target.table.fullname} or a record for it is at fault ({refusal.code}): "
                f"{refusal.text.rstrip('.')}. {ADVICE}"
            )


def _filled_columns(record: CheckedRecord) -> Hashable:
    """Equal for records whose insert needs the same permissions and foreign keys. A column that is NULL refers to
    nothing.
    """
    return record.shape, frozenset(name for name, value in record.values.items() if value is None)
