"""An operator's decisions on dead letters: put them back to be written after all, or discard them."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.activities.drain.deliver import Delivery, ReceiptSender
from write_batcher.errors import ConfigurationError, InvalidEntry, OperationFailed, QueueUnavailable
from write_batcher.models import Outcome, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.queue.codec import Codec, Fields, decode_reply
from write_batcher.queue.dead_letters import DeadLetter, DeadLetters
from write_batcher.sinks.shielding import shielded
from write_batcher.workers.operating.monitor import partitions_of

TELL_TRIES = 3  # each with the retries of the SDK, some 10 s
DISCARDED = "discarded by an operator"
MAX_ID_PART = 2**64 - 1  # of a Redis stream id

_LETTER_ID = re.compile(r"(\d{1,20})/(\d{1,20})-(\d{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LetterId:
    """Names a dead letter in its queue, as `<partition>/<dead id>`."""

    partition: int
    ms: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigurationError."""
        match = _LETTER_ID.fullmatch(text.strip())
        partition, ms, number = map(int, match.groups()) if match else (0, MAX_ID_PART + 1, 0)
        if max(partition, ms, number) > MAX_ID_PART:
            raise ConfigurationError(
                f"ID = {text!r} is not a dead letter's; write it as `write-batcher dead-letters list` shows it, "
                "such as 0/1735689600000-0"
            )
        return cls(partition=partition, ms=ms, number=number)

    @classmethod
    def of(cls, partition: int, dead: DeadLetter) -> Self:
        return cls.parse(f"{partition}/{dead.dead_id}")

    @property
    def dead_id(self) -> str:
        return f"{self.ms}-{self.number}"

    def __str__(self) -> str:
        return f"{self.partition}/{self.dead_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters are meant: one, those whose reason contains a text, or all."""

    letter_id: LetterId | None = None
    reason: str | None = None

    @classmethod
    def parse(cls, letter_id: str | None, reason: str | None, everything: bool) -> Self:
        """From what an operator gave, which must be exactly one of the three. Raises ConfigurationError."""
        if [letter_id is not None, reason is not None, everything].count(True) != 1:
            raise ConfigurationError("name the dead letters by exactly one of ID, --reason TEXT and --all")
        if reason == "":
            raise ConfigurationError("--reason = '' is part of every reason; write --all if all are meant")
        return cls(letter_id=None if letter_id is None else LetterId.parse(letter_id), reason=reason)

    def __str__(self) -> str:
        if self.letter_id:
            return f"dead letter {self.letter_id}"
        return "dead letter" if self.reason is None else f"dead letter with {self.reason!r} in its reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter with what could be read of it: its request, or why that cannot be decoded."""

    letter_id: LetterId
    dead: DeadLetter
    request: WriteRequest | None
    undecodable: str | None
    reply: ReplyAddress | None

    @property
    def table(self) -> str | None:
        return self.request.table if self.request else None

    @property
    def died_at(self) -> float:
        """Seconds since the epoch, by the clock of Redis."""
        return self.letter_id.ms / 1000


class Ledger(Protocol):
    """What a replay needs of a sink that has a write ledger."""

    async def forget_rejection(self, request_id: str, attempt: str | None, asked_ms: int | None) -> bool:
        """Let the request of that attempt be written although it was rejected; False when it was not. Raises
        SinkUnavailable.
        """
        ...


class Told(Enum):
    """Whether the caller of a discarded request learned of it."""

    TOLD = "its caller has been told"
    NO_CALLER = "its caller has ended"
    NOBODY = "no caller waits for it"
    QUEUED = "the same request is queued again, and its caller will be told what becomes of that"
    DEAD_TOO = "another dead letter has the same request, and its caller will be told what becomes of that"
    FAILED = "its caller could not be told"


class QueueLetters:
    """The dead letters of all partitions of a queue. Methods raise QueueUnavailable."""

    def __init__(self, redis: Redis, queue: str, data_converter: DataConverter = DataConverter.default) -> None:
        self._redis = redis
        self._queue = queue
        self._codec = Codec(data_converter)

    async def select(self, selection: Selection) -> AsyncIterator[Letter]:
        """In order, those that are there now: one that is replayed and dies again meanwhile is not met twice.

        Raises OperationFailed for a queue that was never used.
        """
        for partition in await partitions_of(self._redis, self._queue):
            number = partition.partition
            if selection.letter_id is None:
                async for dead in self._all(number):
                    if selection.reason is None or selection.reason in dead.reason:
                        yield await self._read(number, dead)
            elif selection.letter_id.partition == number:
                one = await self._of(number).get(selection.letter_id.dead_id)
                if one:
                    yield await self._read(number, one)

    async def replay(self, letter: Letter, ledger: Ledger) -> str | None:
        """Put the request back under its own id, so that it is written and its caller, if it still waits, is told.

        Returns the id of its new entry, or None when the dead letter was gone. Raises SinkUnavailable.
        """
        request_id = _ledger_id(letter.dead)
        if request_id is not None:
            # Before the entry is back: the drain may take it in the very next moment, and as long as the ledger knows
            # the rejection, it would be told the same and be dead again. A crash in between harms nothing: the dead
            # letter is still there to be replayed, and until then nothing asks the ledger.
            attempt = letter.reply.attempt if letter.reply else None
            await ledger.forget_rejection(request_id, attempt, letter.request.asked_ms if letter.request else None)
        return await self._of(letter.letter_id.partition).replay(letter.dead)

    async def discard(self, letter: Letter, sender: ReceiptSender) -> Told | None:
        """Delete the dead letter and tell a caller that may still wait (`OnRejected.WAIT`) that it will not be written.

        None when it was gone already. Raises OperationFailed when Temporal refuses to tell any caller.
        """
        # Once deleted, nobody else knows of the caller any more: it is told also when the command is interrupted.
        return await shielded(self._discard(letter, sender), name=f"discard {letter.letter_id}")

    async def _discard(self, letter: Letter, sender: ReceiptSender) -> Told | None:
        letters = self._of(letter.letter_id.partition)
        queued_again = _is_of_same_attempt(await letters.queued_again(letter.dead), letter.reply)
        # Deleted first: told first, the caller would be misinformed when somebody else replays it in this moment.
        if not await letters.discard(letter.dead):
            return None
        if letter.reply is None or not letter.reply.waits:
            return Told.NOBODY
        if queued_again:
            return Told.QUEUED
        async for other in self._all(letter.letter_id.partition):
            if other.request_id == letter.dead.request_id and _is_of_same_attempt(other.fields, letter.reply):
                return Told.DEAD_TOO
        receipt = WriteReceipt(
            request_id=letter.dead.request_id,
            outcome=Outcome.WITHDRAWN,
            queue=self._queue,
            attempt=letter.reply.attempt,
            error=DISCARDED,
        )
        for _ in range(TELL_TRIES):
            try:
                delivery = await sender.deliver(letter.reply, [receipt])
            except ConfigurationError as error:
                raise OperationFailed(
                    f"dead letter {letter.letter_id} is discarded, but {Told.FAILED.value}: {error}. If workflow "
                    f"{letter.reply.workflow_id} still waits, cancel it"
                ) from error
            match delivery:
                case Delivery.DELIVERED:
                    return Told.TOLD
                case Delivery.NO_CALLER:
                    return Told.NO_CALLER
        return Told.FAILED

    async def _all(self, partition: int) -> AsyncIterator[DeadLetter]:
        letters = self._of(partition)
        last_id = await letters.last_id()
        if last_id is None:
            return
        last, after = LetterId.parse(f"{partition}/{last_id}"), "-"
        while page := await letters.page(after=after):
            for dead in page:
                if LetterId.of(partition, dead) > last:
                    return
                yield dead
            after = page[-1].dead_id

    async def _read(self, partition: int, dead: DeadLetter) -> Letter:
        request, undecodable, reply = None, None, None
        try:
            reply = decode_reply(dead.fields)
            request = await self._codec.decode(dead.fields)
        except (InvalidEntry, QueueUnavailable) as error:
            undecodable = str(error)
        return Letter(
            letter_id=LetterId.of(partition, dead), dead=dead, request=request, undecodable=undecodable, reply=reply
        )

    def _of(self, partition: int) -> DeadLetters:
        return DeadLetters(self._redis, self._queue, partition)


def _is_of_same_attempt(fields: Fields | None, reply: ReplyAddress | None) -> bool:
    """Whether an entry asks for the same caller: what it is told about one, it is told about both."""
    try:
        other = decode_reply(fields or {})
    except InvalidEntry:
        return False
    return None not in (other, reply) and _asker(other) == _asker(reply)


def _asker(reply: ReplyAddress | None) -> tuple[str, str] | None:
    return None if reply is None else (reply.workflow_id, reply.attempt)


def _ledger_id(dead: DeadLetter) -> str | None:
    """The request id as the ledger may know it; None for an id that no ledger holds."""
    try:
        request_id = dead.fields.get(b"id", b"").decode()
    except UnicodeDecodeError:
        return None
    return None if not request_id or "\0" in request_id else request_id
