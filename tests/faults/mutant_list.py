"""Wrong variants of the product, each with the test that must find it. `mutants.py` tries them."""

from dataclasses import dataclass

FAULTS, INTEGRATION = "tests/faults", "tests/integration"
CRASHES = f"{FAULTS}/test_crashes.py::test_batcher_killed_in_mid_batch_is_replaced_and_confirms_every_caller"
CALLERS_WAIT = "callers have not ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """Replaces `right`, which occurs exactly once in `file`, by `wrong`."""

    name: str
    file: str
    right: str
    wrong: str
    test: str
    """The test that must fail."""
    symptom: str = CALLERS_WAIT
    """Text that the failing test must print."""
    also: str | None = None
    """Another mutant to apply with this one, because two safeguards cover the same fault."""


MUTANTS = (
    Mutant(
        name="acknowledge before commit",
        file="activities/drain/write.py",
        right="        alone = closed.items[0] if closed.alone else None\n",
        wrong="        alone = closed.items[0] if closed.alone else None\n"
        '        await self._queue.acknowledge([(taken.entry, "written") for taken in closed.items])\n',
        test=f"{CRASHES}[sqlite-before_commit]",
    ),
    Mutant(
        name="acknowledge before confirm",
        file="activities/drain/confirm.py",
        right="        deliveries = await asyncio.gather(",
        wrong="        done = [(one.entry, one.receipt.outcome.value) for one in confirmations]\n"
        "        await self._queue.acknowledge(done)\n"
        "        deliveries = await asyncio.gather(",
        test=f"{CRASHES}[sqlite-mid_confirm]",
    ),
    Mutant(
        name="no recovery of the pending list",
        file="activities/drain/take.py",
        right='        self._pending_after = "0"\n',
        wrong="        self._pending_after = None\n",
        test=f"{CRASHES}[sqlite-after_commit]",
    ),
    Mutant(
        name="no recovery of entries that no consumer has pending",
        file="activities/drain/take.py",
        right='            self._delivered_after = None if entries else "0"\n',
        wrong="            self._delivered_after = None\n",
        test=f"{FAULTS}/test_deploys.py::test_entries_of_a_deleted_consumer_are_found_and_written",
    ),
    Mutant(
        name="no lookup in the ledger",
        file="sinks/sql/sink.py",
        right="            if earlier is not None and earlier.binds(item.row):\n                receipts[",
        wrong="            if False:\n                receipts[",
        test=f"{CRASHES}[sqlite-after_commit]",
        symptom="doubled",
    ),
    Mutant(
        name="resubmit under a new id",
        file="workflows/batched_writes.py",
        right="                receipt = await self._append_and_wait(write, submit_within=half, deadline=deadline)\n",
        wrong="                write = replace(write, request_id=self._inbox.next_request_id())\n"
        "                self._inbox.expect(write)\n"
        "                receipt = await self._append_and_wait(write, submit_within=half, deadline=deadline)\n",
        test=f"{INTEGRATION}/workflows/test_batched_writes.py::"
        "test_submit_that_nobody_confirms_is_repeated_once_under_the_same_id",
        symptom="len(set(queue.request_ids)) == 1",
    ),
    Mutant(
        name="settle without the ledger",
        file="sinks/sql/sink.py",
        right="        return await self._run(self._settle(row), SETTLE_LIMIT)\n",
        wrong="        return row.receipt()\n",
        test=f"{FAULTS}/test_callers.py::test_timed_out_caller_has_not_written_and_writes_after_a_reset[sqlite-]",
        symptom="written although their callers were told otherwise",
    ),
    Mutant(
        name="acknowledge by MULTI instead of a script",
        file="queue/stream.py",
        right="            return int(await self._acknowledge(keys=self.keys, args=args))\n",
        wrong="            pipeline = self._redis.pipeline(transaction=True)\n"
        "            for entry, _outcome in entries:\n"
        "                pipeline.xack(self.stream_key, GROUP, entry.entry_id)\n"
        "                pipeline.xdel(self.stream_key, entry.entry_id)\n"
        "                pipeline.hdel(self.live_key, entry.request_id.decode())\n"
        "            await pipeline.execute()\n"
        "            return len(entries)\n",
        # Redis 6.2, because Valkey out of memory does not refuse the MULTI.
        test=f"{FAULTS}/test_redis_away.py::test_redis_out_of_memory_refuses_appends_and_is_drained[redis6]",
        symptom="did not become true",
    ),
    Mutant(
        name="wait for more entries by cancelling reads",
        file="activities/drain/take.py",
        right="            entries = await self._queue.read_new(count=count, block=block)\n",
        wrong="            entries = []\n"
        "            try:\n"
        "                async with asyncio.timeout(block.total_seconds() or 0.001):\n"
        "                    entries = await self._queue.read_new(count=count, block=10 * LONGEST_BLOCK)\n"
        "            except TimeoutError:\n"
        "                pass\n",
        test=f"{INTEGRATION}/drain/test_redelivery.py::test_entries_that_arrive_after_a_read_timed_out_are_not_stranded",
        symptom="did not become true",
    ),
    Mutant(
        name="failed confirmations are taken as final",
        file="activities/drain/receipt_sender.py",
        right="        case _:\n            return Delivery.UNKNOWN\n",
        wrong="        case _:\n            return Delivery.NO_CALLER\n",
        test=f"{FAULTS}/test_temporal_away.py::test_frozen_temporal_leaves_unconfirmed_entries_pending",
        symptom="_failed_confirmations",  # none is retried
    ),
    Mutant(
        name="signal handler that takes one argument",
        file="workflows/inbox.py",
        right="def on_confirmation(self, receipts: Any = None, *_rest: Any) -> None:",
        wrong="def on_confirmation(self, receipts: list[WriteReceipt]) -> None:",
        test=f"{FAULTS}/test_callers.py::test_caller_ignores_malformed_signals",
    ),
    Mutant(
        name="group created at the end of the stream",
        file="queue/stream.py",
        right='xgroup_create(self.stream_key, GROUP, id="0", mkstream=True)',
        wrong='xgroup_create(self.stream_key, GROUP, id="$", mkstream=True)',
        test=f"{FAULTS}/test_redis_forgets.py::test_recreated_group_delivers_what_was_appended_before_it",
        also="no recovery of entries that no consumer has pending",
    ),
    Mutant(
        name="heartbeat from a bare timer",
        file="activities/drain/watch.py",
        right="            self.check()\n",
        wrong="",
        test=f"{INTEGRATION}/drain/test_stopping.py::test_write_that_hangs_stalls_the_drain",
        symptom="the drain still runs",
    ),
    Mutant(
        name="drain without heartbeats goes on",
        file="activities/drain/loop.py",
        right="            if task.cancelled():\n",
        wrong="            if False:\n",
        test=f"{FAULTS}/test_zombies.py::test_drain_whose_heartbeat_dies_ends_and_is_restarted[--cancel-heartbeat]",
        symptom="_ended_by_itself",
    ),
    Mutant(
        name="ledger rows in order of arrival",
        file="sinks/sql/ledger.py",
        right="for row in sorted(rows, key=lambda row: row.request_id)]",
        wrong="for row in rows]",
        test=f"{INTEGRATION}/sinks/test_sql_sink_postgresql.py::test_overlapping_batches_in_opposite_orders_never_deadlock",
        symptom="deadlock",
    ),
    Mutant(
        name="append without looking up the same request",
        file="queue/scripts/append.lua",
        right="    if fields[i] == 'reply' and fields[i + 1] == reply then return {0, known} end\n",
        wrong="",
        test=f"{FAULTS}/test_redis_away.py::test_append_whose_reply_is_lost_is_not_appended_twice[sqlite]",
        symptom="appended",
    ),
    Mutant(
        name="append without a limit",
        file="queue/scripts/append.lua",
        right="if backlog >= max_backlog then",
        wrong="if false then",
        test=f"{FAULTS}/test_redis_away.py::test_full_stream_delays_callers_until_it_is_drained",
        symptom="did not become true",
    ),
    Mutant(
        name="one bad record rejects its whole batch",
        file="sinks/sql/sink.py",
        right="        refusals = await insert_records(connection, self._dialect, records)\n",
        wrong="        refusals = await insert_records(connection, self._dialect, records)\n"
        "        if refusals:\n"
        "            refusals = dict.fromkeys((one.request_id for one in records), *refusals.values())\n",
        test=f"{FAULTS}/test_poison.py::test_bad_record_fails_only_its_own_caller[sqlite]",
        symptom="WriteRejected",
    ),
    Mutant(
        name="poison record is never given up",
        file="activities/drain/write.py",
        right="await self._queue.deaths_alone(alone.entry) >= MAX_DEATHS_ALONE",
        wrong="await self._queue.deaths_alone(alone.entry) >= MAX_DEATHS_ALONE * 1000",
        test=f"{FAULTS}/test_poison.py::test_record_that_kills_its_worker_is_isolated_and_dead_lettered",
        symptom="restarted_until_dead_lettered",
    ),
)
