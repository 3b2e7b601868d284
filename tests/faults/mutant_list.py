"""Wrong variants of the product, each with the test that must find it. `mutants.py` tries them."""

from dataclasses import dataclass

FAULTS, INTEGRATION, UNIT = "tests/faults", "tests/integration", "tests/unit"
CRASHES = f"{FAULTS}/test_crashes.py::test_batcher_killed_in_mid_batch_is_replaced_and_confirms_every_caller"
CALLERS_WAIT = "callers have not ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Replaces `right`, which occurs exactly once in `file`, by `wrong`."""

    file: str
    right: str
    wrong: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant(Edit):
    """One wrong variant."""

    name: str
    test: str
    """The test that must fail."""
    symptom: str = CALLERS_WAIT
    """Text that the failing test must print."""
    also: tuple[Edit, ...] = ()
    """Further edits, because several safeguards cover the same fault."""


# A drain reads what was delivered to others before it twice: in its recovery, and by its position.
NO_RECOVERY = Edit(
    file="activities/drain/read.py",
    right='        self._recovering_after = "0"\n',
    wrong="        self._recovering_after = None\n",
)
READING_FROM_NOW = Edit(
    file="activities/drain/read.py",
    right='        self._position = "0"  # the id of the latest entry that has been read\n',
    wrong="        self._position = f\"{__import__('time').time_ns() // 1_000_000}-0\"\n",
)
RECOVERY_OF_PENDING_ENTRIES = Edit(
    file="queue/scripts/read_delivered.lua",
    right="return found",
    wrong="local pending = {}\n"
    "for _, entry in ipairs(found) do if entry[4] > 1 then pending[#pending + 1] = entry end end\n"
    "return pending",
)

READING = (
    Mutant(
        name="no recovery after a confirmation that failed for long",
        file=NO_RECOVERY.file,
        right=NO_RECOVERY.right,
        wrong=NO_RECOVERY.wrong,
        test=f"{INTEGRATION}/drain/test_confirmations.py::"
        "test_write_whose_signal_fails_for_long_is_confirmed_by_redelivery",
        symptom="did not become true",
    ),
    Mutant(
        name="no recovery of what another drain left pending",
        file=NO_RECOVERY.file,
        right=NO_RECOVERY.right,
        wrong=NO_RECOVERY.wrong,
        also=(READING_FROM_NOW,),
        test=f"{CRASHES}[sqlite-after_commit]",
    ),
    Mutant(
        name="no recovery of entries that no consumer has pending",
        file=RECOVERY_OF_PENDING_ENTRIES.file,
        right=RECOVERY_OF_PENDING_ENTRIES.right,
        wrong=RECOVERY_OF_PENDING_ENTRIES.wrong,
        also=(READING_FROM_NOW,),
        test=f"{FAULTS}/test_deploys.py::test_entries_of_a_deleted_consumer_are_found_and_written",
    ),
    Mutant(
        name="group created at the end of the stream",
        file="queue/stream.py",
        right='xgroup_create(self.stream_key, GROUP, id="0", mkstream=True)',
        wrong='xgroup_create(self.stream_key, GROUP, id="$", mkstream=True)',
        also=(RECOVERY_OF_PENDING_ENTRIES, READING_FROM_NOW),
        test=f"{FAULTS}/test_redis_forgets.py::test_recreated_group_delivers_what_was_appended_before_it",
    ),
    Mutant(
        name="a drain reads only what nobody was given before",
        file="queue/scripts/read_new.lua",
        right="local delivered = about and next_until(about['last-delivered-id'])\n",
        wrong="local delivered = nil\n",
        test=f"{UNIT}/test_stream_scripts.py::TestFakeRedis::test_two_drains_both_read_every_entry_in_order",
        symptom="AssertionError",
    ),
    Mutant(
        name="wait for more entries by cancelling reads",
        file="activities/drain/read.py",
        right="        entries = await self._queue.read_new("
        "after=self._position, count=count, max_bytes=max_bytes, block=block)\n",
        wrong="        entries = []\n"
        "        try:\n"
        "            async with asyncio.timeout(block.total_seconds() or 0.001):\n"
        "                entries = await self._queue.read_new(\n"
        "                    after=self._position, count=count, max_bytes=max_bytes, block=10 * LONGEST_BLOCK\n"
        "                )\n"
        "        except TimeoutError:\n"
        "            pass\n",
        test=f"{INTEGRATION}/drain/test_redelivery.py::test_entries_that_arrive_after_a_read_timed_out_are_not_stranded",
        symptom="did not become true",
    ),
    Mutant(
        name="append without looking up the same request",
        file="queue/scripts/append.lua",
        right="  if holds(stream, known, id, reply) then return {0, known} end\n",
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
)

CONFIRMING = (
    Mutant(
        name="acknowledge before commit",
        file="activities/drain/write.py",
        right="        part, to_write = self._next_part(batch, await self._target.turn(len(batch.items)))\n",
        wrong="        part, to_write = self._next_part(batch, await self._target.turn(len(batch.items)))\n"
        '        await self._again._queue.acknowledge([(item.entry, "written") for item in to_write])\n',
        test=f"{CRASHES}[sqlite-before_commit]",
    ),
    Mutant(
        name="acknowledge before confirm",
        file="activities/drain/confirm.py",
        right="        deliveries = {\n",
        wrong="        done = [(one.entry, one.receipt.outcome.value) for one in confirmations]\n"
        "        await self._queue.acknowledge(done)\n"
        "        deliveries = {\n",
        test=f"{CRASHES}[sqlite-mid_confirm]",
    ),
    Mutant(
        name="acknowledge by MULTI instead of a script",
        file="queue/stream.py",
        right="            return int(await self._acknowledge(keys=self.keys, args=[GROUP, json.dumps(told)]))\n",
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
        name="failed confirmations are taken as final",
        file="activities/drain/receipt_sender.py",
        right="        case _:\n            return Delivery.UNKNOWN\n",
        wrong="        case _:\n            return Delivery.NO_CALLER\n",
        test=f"{FAULTS}/test_temporal_away.py::test_frozen_temporal_leaves_unconfirmed_entries_pending",
        symptom="_failed_confirmations",  # none is retried
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
)

CALLING = (
    Mutant(
        name="resubmit under a new id",
        file="workflows/call.py",
        right="        append = await self._append(append_by=deadline, receipt_by=deadline)\n",
        wrong="        renamed = vars(self._write)\n"
        '        renamed.pop("_prepared", None)\n'
        '        renamed["_request"] = __import__("dataclasses").replace(\n'
        '            renamed["_request"], request_id=self._shared.next_request_id()\n'
        "        )\n"
        "        self._shared.inbox.expect(self._write)\n"
        "        append = await self._append(append_by=deadline, receipt_by=deadline)\n",
        test=f"{INTEGRATION}/workflows/test_batched_writes.py::"
        "test_submit_that_nobody_confirms_is_repeated_once_under_the_same_id",
        symptom="len(set(queue.request_ids)) == 1",
    ),
    Mutant(
        name="signal handler that takes one argument",
        file="workflows/shared.py",
        right="def on_confirmation(self, receipts: Any = None, *rest: Any) -> None:",
        wrong="def on_confirmation(self, receipts: Any, rest: tuple[()] = ()) -> None:",
        test=f"{FAULTS}/test_callers.py::test_caller_ignores_malformed_signals",
    ),
    Mutant(
        name="receipts of other records are taken for one's own",
        file="workflows/inbox.py",
        right="            return receipt.record_hash == request.record_hash\n",
        wrong="            return True\n",
        test=f"{INTEGRATION}/workflows/test_own_record.py::test_receipts_of_other_records_and_attempts_are_not_taken",
        symptom="AssertionError",
    ),
    Mutant(
        name="rejections of other attempts are taken for one's own",
        file="workflows/inbox.py",
        right="            return receipt.attempt == request.attempt and receipt.record_hash",
        wrong="            return receipt.record_hash",
        test=f"{FAULTS}/test_callers.py::test_reused_workflow_id_ignores_receipts_of_its_first_run",
        symptom="AssertionError",
    ),
    Mutant(
        name="settle without the ledger",
        file="sinks/sql/sink.py",
        right="        return await self._run(self._settle(request, queue, outcome, error_text), SETTLE_LIMIT)\n",
        wrong="        return receipt_for(request, outcome, error=error_text)\n",
        test=f"{FAULTS}/test_callers.py::test_timed_out_caller_has_not_written_and_writes_after_a_reset[sqlite-]",
        symptom="written although their callers were told otherwise",
    ),
)

LEDGER = (
    Mutant(
        name="no lookup in the ledger",
        file="sinks/sql/batch_write.py",
        right="            receipt = earlier.answer(item.request, batch_id=self._batch_id) if earlier else None\n",
        wrong="            receipt = None\n",
        test=f"{CRASHES}[sqlite-after_commit]",
        symptom="doubled",
    ),
    Mutant(
        name="another record under a written id is a duplicate",
        file="sinks/sql/ledger_row.py",
        right="        if self._was_written_by(request) or self.record_hash == request.record_hash:\n",
        wrong="        if True:\n",
        test=f"{UNIT}/test_ledger_row.py::test_another_record_under_a_written_id_is_a_conflict",
        symptom="AssertionError",
    ),
    Mutant(
        name="ledger rows in order of arrival",
        file="sinks/sql/ledger.py",
        right='    in_order = sorted(rows, key=attrgetter("request_id"))\n',
        wrong="    in_order = list(rows)\n",
        test=f"{INTEGRATION}/sinks/test_sql_sink_postgresql.py::test_overlapping_batches_in_opposite_orders_never_deadlock",
        symptom="deadlock",
    ),
    Mutant(
        name="rows expire with the window alone",
        file="sinks/sql/ledger_row.py",
        right="    return now + deduplication_window + MAX_REQUEST_AGE + EXPIRY_MARGIN\n",
        wrong="    return now + deduplication_window\n",
        test=f"{UNIT}/test_ledger_row.py::test_row_outlives_every_entry_that_can_be_appended_in_the_window",
        symptom="AssertionError",
    ),
    Mutant(
        name="rows expire by the window of whoever prunes",
        file="sinks/sql/sink.py",
        right="            return await ledger.prune(connection, expired_by=min(now, database_now))\n",
        wrong="            expired_by = min(now, database_now) + DEDUPLICATION_WINDOW - self._window\n"
        "            return await ledger.prune(connection, expired_by=expired_by)\n",
        test=f"{INTEGRATION}/sinks/test_sql_sink_ledger.py::test_no_worker_forgets_for_another[sqlite]",
        symptom="AssertionError",
    ),
    Mutant(
        name="rows expire by either clock",
        file="sinks/sql/sink.py",
        right="expired_by=min(now, database_now)",
        wrong="expired_by=max(now, database_now)",
        test=f"{INTEGRATION}/sinks/test_sql_sink_prune.py::test_prune_keeps_rows_that_are_old_by_one_clock_alone",
        symptom="AssertionError",
    ),
)

QUICK_WAY = (
    Mutant(
        name="SQLite's quick way writes what has been written",
        file="sinks/sql/sqlite.py",
        right="        if connection.executemany(claim, claimed).rowcount < len(claimed):\n",
        wrong="        if connection.executemany(claim, claimed).rowcount < 0:\n",
        test=f"{INTEGRATION}/sinks/test_quick_write.py::"
        "test_request_that_was_written_is_not_written_again_where_no_key_forbids_it[sqlite]",
        symptom="AssertionError",
    ),
    Mutant(
        name="PostgreSQL's quick way writes what has been written",
        file="sinks/sql/postgresql.py",
        right="all_new=not cursors)",
        wrong="all_new=False)",
        test=f"{INTEGRATION}/sinks/test_quick_write.py::"
        "test_request_that_was_written_is_not_written_again_where_no_key_forbids_it[postgres]",
        symptom="AssertionError",
    ),
    Mutant(
        name="PostgreSQL's quick way is synchronized only at its end",
        file="sinks/sql/postgresql.py",
        right="                    await pipeline.sync()\n",
        wrong="",
        test=f"{FAULTS}/test_zombies.py::test_batcher_frozen_in_a_transaction_does_no_harm_when_it_thaws[it commits]",
        symptom="ValueError",
    ),
    Mutant(
        name="the quick way through SQLAlchemy writes what has been written",
        file="sinks/sql/quick_write.py",
        right="                if await self._claim.run(connection, claims(now)) < size:\n",
        wrong="                if await self._claim.run(connection, claims(now)) < 0:\n",
        test=f"{INTEGRATION}/sinks/test_quick_write.py::"
        "test_table_with_defaults_that_only_python_knows_is_written_quickly_and_once[sqlite]",
        symptom="AssertionError",
    ),
    Mutant(
        name="the quick way leaves a part of a batch behind",
        file="sinks/sql/sqlite.py",
        right='        if connection.in_transaction:\n            connection.execute("ROLLBACK")\n',
        wrong='        if connection.in_transaction:\n            connection.execute("COMMIT")\n',
        test=f"{INTEGRATION}/sinks/test_quick_write.py::"
        "test_batch_with_a_refused_record_is_left_to_the_careful_way[sqlite]",
        symptom="AssertionError",
    ),
)

ONE_AMONG_MANY = (
    Mutant(
        name="one bad record rejects its whole batch",
        file="sinks/sql/batch_write.py",
        right="        inserted = await insert_records(connection, self._dialect, records, self._budget)\n",
        wrong="        inserted = await insert_records(connection, self._dialect, records, self._budget)\n"
        "        if inserted.refused:\n"
        "            ids = (one.request_id for one in records)\n"
        "            inserted.refused = dict.fromkeys(ids, *inserted.refused.values())\n",
        test=f"{FAULTS}/test_poison.py::test_bad_record_fails_only_its_own_caller[sqlite]",
        symptom="WriteRejected",
    ),
    Mutant(
        name="one held record holds its whole batch",
        file="sinks/sql/batch_write.py",
        right="        reasons = with_followers([item.request for item in items], inserted.held)\n",
        wrong="        reasons = with_followers([item.request for item in items], inserted.held)\n"
        "        if reasons:\n"
        '            raise SinkUnavailable(f"The batch is held: {reasons}.")\n',
        test=f"{INTEGRATION}/sinks/test_sql_sink_held.py::test_missing_table_holds_its_records_alone[sqlite]",
        symptom="The batch is held",
    ),
    Mutant(
        name="one held request holds up its drain",
        file="activities/drain/target.py",
        right="        await self._answered()\n        seconds =",
        wrong="        if any(isinstance(answer, Held) for answer in answers):\n"
        '            raise SinkUnavailable("One of the batch is held.")\n'
        "        await self._answered()\n        seconds =",
        test=f"{INTEGRATION}/drain/test_holds.py::test_held_request_holds_up_only_those_with_its_key",
        symptom="did not become true",
    ),
    Mutant(
        name="each drain keeps the pace by itself",
        file="activities/drain/pacer.py",
        right="            self._turn_at = self._now() + seconds\n",
        wrong="            self._turn_at = self._now()\n",
        test=f"{UNIT}/test_drain_pace.py::test_partitions_share_the_pace_fairly",
        symptom="assert",
    ),
    Mutant(
        name="a parked drain is woken by a mark, not by what is in the stream",
        file="queue/stream.py",
        right="bool(await self._redis.xlen(self.stream_key)) and not await self._redis.exists(self.reader_key)",
        wrong="bool(await self._redis.exists(self.waking_key))",
        test=f"{INTEGRATION}/workers/test_parking.py::test_idle_drain_is_parked_and_woken_by_whatever_is_appended",
        symptom="did not become true",
    ),
    Mutant(
        name="a drain with held requests is parked",
        file="activities/drain/housekeeping.py",
        right="if now - idle_since() >= park_after_s and await self._is_empty():",
        wrong="if now - idle_since() >= park_after_s:",
        test=f"{INTEGRATION}/workers/test_parking.py::test_held_request_keeps_its_drain_from_being_parked",
        symptom="assert",
    ),
    Mutant(
        name="all drains try a target that is away",
        file="activities/drain/outage.py",
        right="            return await self._queue.may_probe(PROBE_LEASE)\n",
        wrong="            return True\n",
        test=f"{UNIT}/test_drain_outages.py::test_target_that_is_away_is_tried_by_one_small_batch_at_a_time",
        symptom="assert",
    ),
    Mutant(
        name="what follows a held request is written before it",
        file="activities/drain/write.py",
        right="        return key in held_keys or self._pen.blocks(key)\n",
        wrong="        return False\n",
        test=f"{UNIT}/test_drain_order.py::test_requests_of_a_key_are_written_in_order_whatever_goes_wrong",
        symptom="not in order",
    ),
    Mutant(
        name="an entry overtakes those with its key through the pen",
        file="activities/drain/read.py",
        right="        if not self._lane.on_their_way(entry):\n",
        wrong="        if True:\n",
        test=f"{UNIT}/test_drain_order.py::test_requests_of_a_key_are_written_in_order_whatever_goes_wrong",
        symptom="not in order",
    ),
    Mutant(
        name="an entry is held before those with its key are written",
        file="activities/drain/read.py",
        right="        if isinstance(item, HeldEntry) and self._lane.on_their_way(entry) == 1:\n",
        wrong="        if isinstance(item, HeldEntry):\n",
        test=f"{UNIT}/test_drain_order.py::test_requests_of_a_key_are_written_in_order_whatever_goes_wrong",
        symptom="not in order",
    ),
    Mutant(
        name="an entry that is decoded first is written first",
        file="activities/drain/read.py",
        right="        if before is not None:\n",
        wrong="        if False:\n",
        test=f"{UNIT}/test_drain_order.py::test_requests_of_a_key_are_written_in_order_whatever_goes_wrong",
        symptom="not in order",
    ),
    Mutant(
        name="a batch is written after one was left pending",
        file="activities/drain/write.py",
        right="                if not stopped:\n",
        wrong="                if True:\n",
        test=f"{UNIT}/test_drain_order.py::test_requests_of_a_key_are_written_in_order_whatever_goes_wrong",
        symptom="not in order",
    ),
    Mutant(
        name="what follows a held record in its batch is written before it",
        file="sinks/sql/inserts.py",
        right="        held_keys = {record.order_key for record, _ in refused if record.request_id in reasons}\n",
        wrong="        held_keys: set[str] = set()\n",
        test=f"{INTEGRATION}/sinks/test_sql_sink_held.py::test_what_follows_a_held_record_with_its_key_is_held_too[sqlite]",
        symptom="AssertionError",
    ),
    Mutant(
        name="poison record is never given up",
        file="activities/drain/write_again.py",
        right="        if tries >= MAX_TRIES_ALONE:\n",
        wrong="        if tries >= MAX_TRIES_ALONE * 1000:\n",
        test=f"{INTEGRATION}/drain/test_quarantine.py::test_entry_that_ends_drain_after_drain_becomes_a_dead_letter",
        symptom="AssertionError",
    ),
)

IN_ITS_OWN_PLACE = (
    Mutant(
        name="a batcher with another sink may join",
        file="queue/scripts/announce.lua",
        right="  if other and other.terms.sink_id ~= sink then return {0, other.terms.sink_id} end\n",
        wrong="",
        test=f"{UNIT}/test_contract.py::TestFakeRedis::test_worker_with_another_sink_is_refused_and_both_are_named",
        symptom="DID NOT RAISE",
    ),
    Mutant(
        name="a batcher with another sink may join when Redis has lost the contract",
        file="workers/batcher_worker.py",
        right="        await _check_running_batcher(client, settings, terms.sink_id)\n",
        wrong="",
        test=f"{FAULTS}/test_own_place.py::test_batcher_with_another_database_is_refused_after_redis_lost_the_contract",
        symptom="TimeoutError",
    ),
    Mutant(
        name="a drain writes to another sink than the queue's",
        file="activities/drain/contract_check.py",
        right="        if expected != sink_id:\n",
        wrong="        if False:\n",
        test=f"{INTEGRATION}/drain/test_background_tasks.py::test_drain_of_another_sink_ends_and_writes_nothing",
        symptom="the drain still runs",
    ),
    Mutant(
        name="settling asks another sink than the queue's",
        file="activities/settle.py",
        right="        self._check_sink()\n",
        wrong="",
        test=f"{INTEGRATION}/workflows/test_refusals.py::test_settling_in_a_worker_with_another_sink_is_refused",
        symptom="DID NOT RAISE",
    ),
    Mutant(
        name="a drain that lacks tables goes on",
        file="activities/drain/contract_check.py",
        right="    if unknown:\n",
        wrong="    if False:\n",
        test=f"{INTEGRATION}/drain/test_background_tasks.py::"
        "test_drain_that_does_not_know_all_tables_leaves_them_to_another",
        symptom="the drain still runs",
    ),
    Mutant(
        name="namespaces share their keys",
        file="queue/keys.py",
        right="{quote(queue.namespace, safe='')}/",
        wrong="",
        test=f"{UNIT}/test_stream_scripts.py::test_keys_carry_the_namespace_and_share_a_cluster_slot",
        symptom="AssertionError",
    ),
    Mutant(
        name="any signature will do",
        file="queue/signing.py",
        right='        return hmac.compare_digest(fields.get(SIGNATURE, b""), self._signature(fields))\n',
        wrong="        return SIGNATURE in fields\n",
        test=f"{UNIT}/test_signing.py::test_entry_that_was_changed_later_does_not_pass",
        symptom="AssertionError",
    ),
    Mutant(
        name="a drain asks for no signature",
        file="activities/drain/decode.py",
        right="        return self._signer.objection(entry.fields, self._clock.now_ms()) if self._signer else None\n",
        wrong="        return None\n",
        test=f"{INTEGRATION}/drain/test_rejections.py::test_entry_without_a_right_signature_is_a_dead_letter_untold",
        symptom="AssertionError",
    ),
)

MUTANTS = (*READING, *CONFIRMING, *CALLING, *LEDGER, *QUICK_WAY, *ONE_AMONG_MANY, *IN_ITS_OWN_PLACE)
