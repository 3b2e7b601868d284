"""Wrong variants of the product, each of which a named test must find. `mutants.py` tries them."""

from dataclasses import dataclass

FAULTS, INTEGRATION = "tests/faults", "tests/integration"
CRASHES = f"{FAULTS}/test_crashes.py::test_batcher_that_dies_in_a_batch_is_replaced_and_every_caller_gets_its_receipt"
NOBODY_HEARS = "callers have not ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """In `file`, `right` stands once; with `wrong` instead, `test` fails and shows `symptom`. `also` names a mutant
    without which this one harms nobody: what it breaks is guarded twice.
    """

    name: str
    file: str
    right: str
    wrong: str
    test: str
    symptom: str = NOBODY_HEARS
    also: str | None = None


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
        wrong="        await self._queue.acknowledge([(one.entry, one.receipt.outcome.value) for one in answers])\n"
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
        name="no recovery of what no consumer has pending",
        file="activities/drain/take.py",
        right='            self._delivered_after = None if entries else "0"\n',
        wrong="            self._delivered_after = None\n",
        test=f"{FAULTS}/test_deploys.py::test_entries_whose_consumer_was_deleted_by_hand_are_found_and_written",
    ),
    Mutant(
        name="no look into the ledger",
        file="sinks/sql/sink.py",
        right="            if earlier is not None and earlier.binds(item.row):\n                receipts[",
        wrong="            if False:\n                receipts[",
        test=f"{CRASHES}[sqlite-after_commit]",
        symptom="doubled",
    ),
    Mutant(
        name="resubmit under a new id",
        file="workflows/batched_writes.py",
        right="                receipt = await self._ask(write, submit_within=half, deadline=deadline)\n",
        wrong="                write = replace(write, request_id=self._inbox.next_request_id())\n"
        "                self._inbox.expect(write)\n"
        "                receipt = await self._ask(write, submit_within=half, deadline=deadline)\n",
        test=f"{INTEGRATION}/workflows/test_batched_writes.py::"
        "test_submit_that_nobody_confirms_is_repeated_once_under_the_same_id",
        symptom="len(set(queue.request_ids)) == 1",
    ),
    Mutant(
        name="settle without the ledger",
        file="sinks/sql/sink.py",
        right="        return await self._ask(self._settle(row), SETTLE_LIMIT)\n",
        wrong="        return row.receipt()\n",
        test=f"{FAULTS}/test_callers.py::"
        "test_caller_whose_time_is_up_has_not_written_and_writes_when_it_is_reset[sqlite-]",
        symptom="written although their callers were told otherwise",
    ),
    Mutant(
        name="MULTI instead of a script to acknowledge",
        file="queue/stream.py",
        right="            return int(await self._acknowledge(keys=self.keys, args=args))\n",
        wrong="            pipeline = self._redis.pipeline(transaction=True)\n"
        "            for entry, _outcome in entries:\n"
        "                pipeline.xack(self.stream_key, GROUP, entry.entry_id)\n"
        "                pipeline.xdel(self.stream_key, entry.entry_id)\n"
        "                pipeline.hdel(self.live_key, entry.request_id.decode())\n"
        "            await pipeline.execute()\n"
        "            return len(entries)\n",
        # Redis 6.2, because Valkey does not refuse it.
        test=f"{FAULTS}/test_redis_away.py::test_redis_out_of_memory_refuses_appends_and_is_drained[redis6]",
        symptom="did not become true",
    ),
    Mutant(
        name="linger by cancelling reads",
        file="activities/drain/take.py",
        right="            entries = await self._queue.read_new(count=count, block=block)\n",
        wrong="            entries = []\n"
        "            try:\n"
        "                async with asyncio.timeout(block.total_seconds() or 0.001):\n"
        "                    entries = await self._queue.read_new(count=count, block=10 * LONGEST_BLOCK)\n"
        "            except TimeoutError:\n"
        "                pass\n",
        test=f"{INTEGRATION}/drain/test_confirmations.py::test_entries_that_come_later_than_the_drain_lingers_are_not_left_behind",
        symptom="did not become true",
    ),
    Mutant(
        name="a confirmation that failed is taken for final",
        file="activities/drain/deliver.py",
        right="        case _:\n            return Delivery.UNKNOWN\n",
        wrong="        case _:\n            return Delivery.NO_CALLER\n",
        test=f"{FAULTS}/test_temporal_away.py::"
        "test_temporal_that_hangs_while_callers_are_confirmed_leaves_their_entries_pending",
        symptom="_failed_confirmations",  # none is tried again
    ),
    Mutant(
        name="a signal handler that takes one argument",
        file="workflows/inbox.py",
        right="def on_confirmation(self, receipts: Any = None, *_rest: Any) -> None:",
        wrong="def on_confirmation(self, receipts: list[WriteReceipt]) -> None:",
        test=f"{FAULTS}/test_callers.py::test_caller_is_not_confused_by_nonsense",
    ),
    Mutant(
        name="group created at the end of the stream",
        file="queue/stream.py",
        right='xgroup_create(self.stream_key, GROUP, id="0", mkstream=True)',
        wrong='xgroup_create(self.stream_key, GROUP, id="$", mkstream=True)',
        test=f"{FAULTS}/test_redis_forgets.py::"
        "test_group_that_somebody_destroyed_misses_nothing_that_was_appended_before_it_is_back",
        also="no recovery of what no consumer has pending",
    ),
    Mutant(
        name="heartbeat from a bare timer",
        file="activities/drain/watch.py",
        right="            self.check()\n",
        wrong="",
        test=f"{INTEGRATION}/drain/test_confirmations.py::test_write_that_hangs_stalls_the_drain",
        symptom="the drain still runs",
    ),
    Mutant(
        name="a drain without heartbeats goes on",
        file="activities/drain/loop.py",
        right="            if task.cancelled():\n",
        wrong="            if False:\n",
        test=f"{FAULTS}/test_zombies.py::test_drain_whose_heartbeat_dies_ends_and_is_started_again[--cancel-heartbeat]",
        symptom="_ended_by_itself",
    ),
    Mutant(
        name="ledger rows in the order of their arrival",
        file="sinks/sql/ledger.py",
        right="        for row in sorted(rows, key=lambda row: row.request_id)\n",
        wrong="        for row in rows\n",
        test=f"{INTEGRATION}/sinks/test_sql_sink_postgresql.py::test_overlapping_batches_in_opposite_orders_never_deadlock",
        symptom="deadlock",
    ),
    Mutant(
        name="append without looking for the same request",
        file="queue/scripts/append.lua",
        right="    if fields[i] == 'reply' and fields[i + 1] == reply then return {0, known} end\n",
        wrong="",
        test=f"{FAULTS}/test_redis_away.py::test_append_whose_answer_is_lost_is_not_appended_twice[sqlite]",
        symptom="appended",
    ),
    Mutant(
        name="append without a bound",
        file="queue/scripts/append.lua",
        right="if backlog >= max_backlog then",
        wrong="if false then",
        test=f"{FAULTS}/test_redis_away.py::test_full_stream_holds_its_callers_back_and_then_takes_them",
        symptom="did not become true",
    ),
    Mutant(
        name="one bad record rejects its whole batch",
        file="sinks/sql/sink.py",
        right="        refusals = await insert_records(connection, self._dialect, records)\n",
        wrong="        refusals = await insert_records(connection, self._dialect, records)\n"
        "        if refusals:\n"
        "            refusals = dict.fromkeys((one.request_id for one in records), *refusals.values())\n",
        test=f"{FAULTS}/test_poison.py::test_bad_record_of_a_batch_fails_its_caller_alone[sqlite]",
        symptom="WriteRejected",
    ),
    Mutant(
        name="a poisonous entry is never given up",
        file="activities/drain/write.py",
        right="await self._queue.deaths_alone(alone.entry) >= DEATHS_ALONE",
        wrong="await self._queue.deaths_alone(alone.entry) >= DEATHS_ALONE * 1000",
        test=f"{FAULTS}/test_poison.py::test_record_that_kills_the_process_is_isolated_and_dies_alone",
        symptom="restarted_until_it_is_dead",
    ),
)
