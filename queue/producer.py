"""Appending write requests to a queue: checked against its contract, encoded, signed, and routed by their keys."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from temporalio.converter import DataConverter

from write_batcher.errors import CodecUnavailable, InvalidRequest
from write_batcher.models import Appended, QueueRef, Submission, WriteRequest
from write_batcher.queue import refusals
from write_batcher.queue.contract import Contract, ContractStore
from write_batcher.queue.routing import partition_of
from write_batcher.queue.signing import Signer
from write_batcher.queue.stream import AppendResult, WriteQueue
from write_batcher.queue.stream_entry import size_of
from write_batcher.queue.wire_form import Codec, Fields

CONTRACT_IS_KNOWN_FOR = timedelta(seconds=2)
TABLE_APPEARS_WITHIN = timedelta(minutes=1)  # callers may be deployed before the batcher that knows their table
ENCODED_AT_ONCE = 32  # a codec may ask a key server for each record
ENCODE_LIMIT = timedelta(seconds=5)  # for all records together: what is encoded must still be appended in this attempt

Encoded = Fields | Appended | CodecUnavailable  # or why not: for good, for now, or because the codec fails


class Producer:
    """Appends through one Redis client, for callers of one namespace. Keep it: it remembers the contracts of queues for
    two seconds.
    """

    def __init__(
        self, redis: Redis, data_converter: DataConverter, *, namespace: str, signing_key: str | None = None
    ) -> None:
        """`signing_key` must be that of the batcher, which takes no unsigned entries once it has one."""
        self._redis = redis
        self._codec = Codec(data_converter)
        self._namespace = namespace
        self._signing_key = signing_key
        self._contracts: dict[QueueRef, tuple[float, Contract]] = {}

    async def append(self, submission: Submission, *, waited: timedelta = timedelta(0)) -> list[Appended]:
        """Append the requests, except those that are queued already. Returns one answer per request, in order.

        `waited` is how long ago this was first tried: after `TABLE_APPEARS_WITHIN` a table that no batcher knows is
        refused for good.

        Raises `QueueUnavailable` when Redis cannot be asked, and `CodecUnavailable` when no record could be encoded
        because the converter or its codec fails. Requests may have been appended then; append the submission again.
        """
        queue = QueueRef(namespace=self._namespace, name=submission.queue)
        contract = await self._contract(queue)
        if contract is None:
            return [refusals.no_batcher(queue.name)] * len(submission.requests)
        if refused := refusals.confirmed_too_early(contract, submission.confirm_timeout_ms):
            return [refused] * len(submission.requests)
        answers: dict[int, Appended] = {}
        partitions: dict[int, dict[int, Fields]] = {}
        for number, encoded in enumerate(await self._encoded(contract, queue, submission.requests, waited=waited)):
            if isinstance(encoded, Appended):
                answers[number] = encoded
            else:
                partition = partition_of(submission.requests[number].order_key, contract.partitions)
                partitions.setdefault(partition, {})[number] = encoded
        for partition, requests in partitions.items():
            answers |= await self._append(
                WriteQueue(self._redis, queue, partition), contract, requests, unless_dead=submission.unless_dead
            )
        return [answers[number] for number in range(len(submission.requests))]

    async def _append(
        self, stream: WriteQueue, contract: Contract, requests: Mapping[int, Fields], *, unless_dead: bool
    ) -> dict[int, Appended]:
        results = await stream.append_all(
            list(requests.values()), max_backlog=contract.max_backlog, unless_dead=unless_dead
        )
        return {number: _answer(stream, contract, result) for number, result in zip(requests, results, strict=True)}

    async def _contract(self, queue: QueueRef) -> Contract | None:
        now = asyncio.get_running_loop().time()
        read_at, known = self._contracts.get(queue, (0.0, None))
        if known and now - read_at < CONTRACT_IS_KNOWN_FOR.total_seconds():
            return known
        contract = await ContractStore(self._redis, queue).read()
        if contract:
            self._contracts[queue] = now, contract
        else:
            self._contracts.pop(queue, None)
        return contract

    async def _encoded(
        self, contract: Contract, queue: QueueRef, requests: Sequence[WriteRequest], *, waited: timedelta
    ) -> list[Fields | Appended]:
        """The fields of each request, or why it is refused."""
        signer = None if self._signing_key is None else Signer(self._signing_key, queue)
        free = asyncio.Semaphore(ENCODED_AT_ONCE)

        async def encode(request: WriteRequest) -> Encoded:
            table_may_come = waited < TABLE_APPEARS_WITHIN
            if refused := refusals.unknown_table(contract, queue.name, request.table, later=table_may_come):
                return refused
            try:
                async with free:
                    fields = await self._codec.encode(request)
            except InvalidRequest as error:
                return Appended(refused=str(error))
            except CodecUnavailable as error:
                return error
            if refused := refusals.too_large(contract, request, size_of(fields)):
                return refused
            return signer.signed(fields) if signer else fields

        if self._codec.asks_nobody:
            # Others first: who appends again and again without a pause would always get the connection that it has just
            # given back, and who waits for one would get none.
            await asyncio.sleep(0)
            outcomes = [await encode(request) for request in requests]
        else:
            outcomes = await _in_time(encode, requests)
        answers: list[Fields | Appended] = []
        for outcome in outcomes:
            if not isinstance(outcome, CodecUnavailable):
                answers.append(outcome)
            elif all(isinstance(each, CodecUnavailable) for each in outcomes):
                raise outcome
            else:  # one record that its codec cannot encode, or not in time, keeps no other from being appended
                answers.append(Appended(refused=str(outcome), later=True))
        return answers


async def _in_time(
    encode: Callable[[WriteRequest], Coroutine[Any, Any, Encoded]], requests: Sequence[WriteRequest]
) -> list[Encoded]:
    """What came of encoding each request within `ENCODE_LIMIT`."""
    tasks = [asyncio.create_task(encode(request), name="encode") for request in requests]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=ENCODE_LIMIT.total_seconds())
        return [_outcome(task, request) for task, request in zip(tasks, requests, strict=True)]
    finally:
        # Not awaited: a codec that ignores its cancellation must hold up nobody.
        for task in tasks:
            task.cancel()


def _outcome(task: asyncio.Task[Encoded], request: WriteRequest) -> Encoded:
    if task.done() and not task.cancelled():
        return task.result()
    why = "was interrupted" if task.done() else f"gave no answer for it within {ENCODE_LIMIT.total_seconds():g} s"
    return CodecUnavailable(
        f"The record of request {request.request_id!r} cannot be encoded now: the payload codec {why}."
    )


def _answer(stream: WriteQueue, contract: Contract, result: AppendResult) -> Appended:
    if result.dead:
        return Appended(dead=True)
    if result.backlog is not None:
        return refusals.stream_full(contract, stream.stream_key, result.backlog)
    return Appended(entry=f"{stream.partition}/{result.entry_id}")
