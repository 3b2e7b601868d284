"""What an operator decides on dead letters: replay them, so that they are written after all, or discard them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.activities.drain.receipt_sender import Delivery, ReceiptSender
from write_batcher.errors import ConfigurationError, InvalidEntry, OperationFailed, QueueUnavailable
from write_batcher.models import Outcome, QueueRef, ReplyAddress, WriteReceipt, WriteRequest
from write_batcher.queue.dead_letters import DeadLetter, DeadLetters
from write_batcher.queue.signing import SIGNATURE, Signer
from write_batcher.queue.wire_form import Codec, Fields, decode_reply
from write_batcher.sinks.shielding import shielded
from write_batcher.workers.operating.dead_letter_selection import Selection
from write_batcher.workers.operating.known_partitions import partitions_of
from write_batcher.workers.operating.stream_ids import LetterId

NOTICE_TRIES = 3  # each with the retries of the SDK, some 10 s
DISCARDED = "discarded by an operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter, decoded as far as possible."""

    letter_id: LetterId
    dead: DeadLetter
    request: WriteRequest | None
    undecodable: str | None
    """Why there is no `request`."""
    reply: ReplyAddress | None
    """Who waits for the outcome; None when nobody does or when it cannot be decoded."""
    reply_unreadable: bool
    """Whether there is a reply address that cannot be decoded."""

    @property
    def table(self) -> str | None:
        """The table of the request, if known."""
        return self.request.table if self.request else None

    @property
    def died_at(self) -> float:
        """When it became a dead letter, in seconds since the epoch, by the clock of Redis."""
        return self.letter_id.ms / 1000


class CallerNotice(Enum):
    """Whether the caller of a discarded request has been told, in words for the operator."""

    SENT = "its caller has been told"
    CALLER_ENDED = "its caller has ended"
    NO_CALLER_WAITS = "no caller waits for it"
    QUEUED_AGAIN = "the same request is queued again, and its caller will get that receipt"
    OTHER_DEAD_LETTER = "another dead letter has the same request, and its caller will be told about that one"
    FAILED = "its caller could not be told"


class QueueLetters:
    """The dead letters of all partitions of a queue. Methods raise `QueueUnavailable` when Redis cannot be asked."""

    def __init__(
        self,
        redis: Redis,
        queue: QueueRef,
        data_converter: DataConverter = DataConverter.default,
        *,
        signer: Signer | None = None,
    ) -> None:
        """`signer` has the batcher's key; without one, only letters that are not signed can be replayed."""
        self._redis = redis
        self._queue = queue
        self._codec = Codec(data_converter)
        self._signer = signer

    async def select(self, selection: Selection) -> AsyncIterator[Letter]:
        """Yield the selected dead letters in order, those that exist when their partition is reached.

        One that is replayed and rejected again in the meantime is therefore not yielded twice. Raises `OperationFailed`
        when the queue has never been used.
        """
        for partition in await partitions_of(self._redis, self._queue):
            number = partition.partition
            if selection.letter_id is None:
                async for dead in self._present(number):
                    if selection.reason is None or selection.reason in dead.reason:
                        yield await self._decode(number, dead)
            elif selection.letter_id.partition == number:
                named = await self._dead_letters(number).get(selection.letter_id.redis_id)
                if named:
                    yield await self._decode(number, named)

    async def check_key(self, selection: Selection) -> None:
        """Raise `ConfigurationError` when a selected dead letter is signed and there is no key to sign its replay."""
        if self._signer is None:
            async for letter in self.select(selection):
                if _is_signed(letter):
                    self._signer_for(letter)

    async def replay(self, letter: Letter) -> str | None:
        """Put the request back into the stream under its own id; no earlier rejection binds it there. A caller that
        still waits gets the new receipt. A signed request is signed anew.

        Returns the id of the new entry, or None when the dead letter was already gone. Raises `ConfigurationError` like
        `check_key`.
        """
        letters = self._dead_letters(letter.letter_id.partition)
        if not _is_signed(letter):
            return await letters.replay(letter.dead)
        signer = self._signer_for(letter)
        whole = await letters.get(letter.dead.dead_id)  # `select` may have left out what is signed of a huge one
        return await letters.replay(whole, signature=signer.signature_for_replay(whole.fields)) if whole else None

    def _signer_for(self, letter: Letter) -> Signer:
        if self._signer is None:
            raise ConfigurationError(
                f"Dead letter {letter.letter_id} is signed, and so must be its replay: set WRITE_BATCHER_SIGNING_KEY "
                "to the batcher's key."
            )
        return self._signer

    async def discard(self, letter: Letter, sender: ReceiptSender) -> CallerNotice | None:
        """Delete the dead letter, and tell a caller that still waits (`OnRejected.WAIT`) that it will not be written.

        Returns None when the dead letter was already gone. Raises `OperationFailed` when it is deleted but Temporal
        refuses the notice.
        """
        # Once it is deleted, only this process knows the caller: an interrupted command still tells it.
        return await shielded(self._discard(letter, sender), name=f"discard {letter.letter_id}")

    async def _discard(self, letter: Letter, sender: ReceiptSender) -> CallerNotice | None:
        letters = self._dead_letters(letter.letter_id.partition)
        queued_again = _has_same_caller(await letters.queued_again(letter.dead), letter.reply)
        # Deleted before the caller is told, which would be misinformed if another operator replayed it in between.
        if not await letters.discard(letter.dead):
            return None
        if letter.reply is None or not letter.reply.waits:
            return CallerNotice.NO_CALLER_WAITS
        if queued_again:
            return CallerNotice.QUEUED_AGAIN
        async for other in self._present(letter.letter_id.partition):
            if other.request_id == letter.dead.request_id and _has_same_caller(other.fields, letter.reply):
                return CallerNotice.OTHER_DEAD_LETTER
        return await self._notify(letter, letter.reply, sender)

    async def _notify(self, letter: Letter, caller: ReplyAddress, sender: ReceiptSender) -> CallerNotice:
        receipt = WriteReceipt(
            request_id=letter.dead.request_id,
            outcome=Outcome.WITHDRAWN,
            queue=self._queue.name,
            record_hash=letter.request.record_hash if letter.request else None,
            attempt=caller.attempt,
            error=DISCARDED,
        )
        for _ in range(NOTICE_TRIES):
            try:
                delivery = await sender.deliver(caller, [receipt])
            except ConfigurationError as error:
                raise OperationFailed(
                    f"Dead letter {letter.letter_id} is discarded, but {CallerNotice.FAILED.value}: "
                    f"if workflow {caller.workflow_id} still waits, cancel it. {error}"
                ) from error
            match delivery:
                case Delivery.DELIVERED:
                    return CallerNotice.SENT
                case Delivery.NO_CALLER:
                    return CallerNotice.CALLER_ENDED
        return CallerNotice.FAILED

    async def _present(self, partition: int) -> AsyncIterator[DeadLetter]:
        """Up to the one that is the last at the start."""
        letters = self._dead_letters(partition)
        last_id = await letters.last_id()
        if last_id is None:
            return
        last, after = LetterId.at(partition, last_id), "0"
        while page := await letters.page(after=after):
            for dead in page:
                if LetterId.at(partition, dead.dead_id) > last:
                    return
                yield dead
            after = page[-1].dead_id

    async def _decode(self, partition: int, dead: DeadLetter) -> Letter:
        request, undecodable, reply = None, None, None
        reply_unreadable = True
        try:
            reply = decode_reply(dead.fields)
            reply_unreadable = False
            request = await self._codec.decode(dead.fields)
        except (InvalidEntry, QueueUnavailable) as error:
            undecodable = str(error)
        return Letter(
            letter_id=LetterId.at(partition, dead.dead_id),
            dead=dead,
            request=request,
            undecodable=undecodable,
            reply=reply,
            reply_unreadable=reply_unreadable,
        )

    def _dead_letters(self, partition: int) -> DeadLetters:
        return DeadLetters(self._redis, self._queue, partition)


def _is_signed(letter: Letter) -> bool:
    return bool(letter.dead.fields.get(SIGNATURE))


def _has_same_caller(fields: Fields | None, reply: ReplyAddress | None) -> bool:
    """Whether an entry has the same caller: a receipt for one entry counts for both."""
    try:
        other = decode_reply(fields or {})
    except InvalidEntry:
        return False
    return None not in (other, reply) and _caller_attempt(other) == _caller_attempt(reply)


def _caller_attempt(reply: ReplyAddress | None) -> tuple[str, str] | None:
    return None if reply is None else (reply.workflow_id, reply.attempt)
