"""What a stream is filled with, and what the drain of it is compared with."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from write_batcher.bench.record_shapes import PLAIN, WIDE, RecordShape
from write_batcher.models import ConfirmBy

if TYPE_CHECKING:
    from temporalio.converter import PayloadCodec


class Case(StrEnum):
    """What is drained."""

    PLAIN = "plain"
    """Three columns of text, some 150 characters; nobody waits for a receipt."""
    WIDE = "wide"
    """Ten columns: numeric, timestamp, UUID, JSON, integers, text."""
    RECEIPTS = "receipts"
    """As `plain`, and each request has a caller of its own that is sent a receipt by signal."""
    CODEC = "codec"
    """As `plain`, with payloads that a codec has encrypted by AES-GCM."""
    ONE_BAD = "one-bad"
    """As `plain`, and the database refuses one record of each batch: its primary key is taken."""
    DUPLICATES = "duplicates"
    """As `plain`, and everything has been written before: each request is answered as a duplicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTraits:
    """How one case differs from the others."""

    shape: RecordShape = PLAIN
    confirm_by: ConfirmBy = ConfirmBy.NONE
    encrypted: bool = False
    one_bad: bool = False
    redelivered: bool = False
    has_floor: bool = True
    """Whether it is compared with the floors. Otherwise with our own drain of the case `plain`: plain code that neither
    finds a bad record nor a duplicate does other work.
    """
    note: str = ""
    """A sentence for whoever reads the figures."""

    def payload_codec(self) -> "PayloadCodec | None":
        """Return a codec with a key of its own for encrypted payloads, None for plain ones.

        Raises `ModuleNotFoundError` when `cryptography` is not installed.
        """
        if not self.encrypted:
            return None
        from write_batcher.bench.encryption import AesGcmCodec

        return AesGcmCodec()


TRAITS = {
    Case.PLAIN: CaseTraits(),
    Case.WIDE: CaseTraits(shape=WIDE),
    Case.RECEIPTS: CaseTraits(
        confirm_by=ConfirmBy.SIGNAL,
        note="Temporal is a stand-in whose signals return at once, so the figures hold all of our work for a receipt "
        "and none of the server's. The floor sends no receipts.",
    ),
    Case.CODEC: CaseTraits(encrypted=True, note="Payloads are encrypted by AES-GCM; the floor decrypts them, too."),
    Case.ONE_BAD: CaseTraits(one_bad=True, has_floor=False),
    Case.DUPLICATES: CaseTraits(redelivered=True, has_floor=False),
}
