"""What makes the protocol right, fix by fix. The model takes each one out, and must find what breaks."""

from enum import StrEnum


class Fix(StrEnum):
    """A rule that the protocol needs."""

    # Ledger
    LEDGER_DECIDES = "a drain asks the ledger before it writes"
    LEDGER_COMPARES = "the ledger answers `duplicate` only for an equal record"
    LEDGER_KEY_HAS_QUEUE = "the ledger's key contains the queue"
    COMMITS_ARE_DURABLE = "a commit survives a crash of the database"
    SETTLE_IN_LEDGER = "settling writes the withdrawal into the ledger"
    SETTLED_IS_FINAL = "settling ends an attempt that was rejected too: no default replay writes it"
    WITHDRAWAL_BINDS_EARLIER = "a withdrawal binds earlier attempts of the same workflow"
    REJECTION_BINDS_NO_LATER_CALL = "a rejection binds no later call"
    REPLAY_OBEYS_WITHDRAWAL = "a replayed entry is bound by withdrawals"
    # Forgetting
    ROW_CARRIES_EXPIRY = "a ledger row carries its expiry, and pruning looks at nothing else"
    ROW_OUTLIVES_ENTRIES = "a ledger row outlives every entry that could still ask for it"
    TWO_CLOCKS = "a row is pruned when the clocks of the database and of Redis both say so"
    LATEST_CLOCK = "a row's expiry is counted from the later of two clocks"
    OLD_ENTRIES_REFUSED = "an entry beyond the longest age is not written"
    AGE_AT_WRITE = "the age of an entry is checked when it is written, not only when it is taken"
    AGE_BY_LATER_CLOCK = "an entry is too old when the clock of Redis or of the drain says so"
    AGE_FROM_ASKED = "the age of an entry counts from when its caller asked, if that was before its append"
    REPLAY_KEEPS_AGE = "a replayed entry keeps the time of its first append"
    OLD_CALL_UNKNOWN = "who settles when the ledger may have forgotten is told that nobody knows"
    # Drain
    COMMIT_BEFORE_ACKNOWLEDGE = "an entry is acknowledged behind its commit"
    CONFIRM_BEFORE_ACKNOWLEDGE = "an entry is acknowledged behind its confirmation"
    RECOVERY = "a drain begins with what was delivered before it"
    FOLLOWERS_WAIT = "what follows with the same key waits behind what is held"
    READ_BY_POSITION = "a drain reads everything behind what it has read, whoever was given it"
    FORGOTTEN_NOT_TOLD = "an entry that the ledger may have forgotten becomes a dead letter without a word"
    UNDECODED_NOT_TOLD = "an entry that cannot be decoded becomes a dead letter without a word: it may be written"
    QUEUE_HAS_ONE_SINK = "a queue is served only by batchers with the sink of its contract"
    SINK_KEPT_IN_TEMPORAL = "a batcher serves a queue only if the queue's batcher workflow has the same sink"
    # Caller
    SAME_ATTEMPT = "a call submits again as the same attempt"
    ATTEMPT_OF_ONE_CALL = "each call is an attempt of its own"
    ASKED_AT_SUBMIT = "a call has asked when it began, not when it settles"
    CERTAIN_AT_FIRST_ONLY = "a refusal is certain only when no append can have happened before it"
    RECEIPT_NAMES_RECORD = "a caller takes `written` only for its own record"
    REJECTION_NAMES_ATTEMPT = "a caller takes `rejected` only for its own attempt"
    SETTLING_ASKS_LEDGER = "a caller that waited for a replay, and settles, believes no refusal but the ledger's"
    # Operators
    REPLAY_OF_WAITING_ONLY = "only letters whose caller still waits, or had none, are replayed"
    DISCARD_IS_SETTLED = "a caller whose letter is discarded settles before it believes it"
