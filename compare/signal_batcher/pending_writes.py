"""What a batcher remembers and decides: pure bookkeeping, no clock and no Temporal."""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from write_batcher import ConfigurationError, FlushReason
from write_batcher.compare.signal_batcher.wire import FIELDS_BYTES, Confirmation, SignalledWrite

SERVER_SIGNALS_PER_RUN = 10_000  # Temporal refuses more
SERVER_PENDING_SIGNALS = 2_000  # to other workflows at a time, of one run; 500 are advised

# Temporal takes 2 MB for the input of an activity, for its result, and for the state that a new run begins with.
MAX_BATCH_ITEMS = 1_000
MAX_BATCH_BYTES = 1_000_000
MAX_REQUEST_BYTES = 500_000
MAX_CARRIED_BYTES = 1_200_000
MAX_CARRIED_ID_BYTES = 250_000
MAX_CARRIED_CONFIRMATION_BYTES = 400_000

LONGEST_WAIT_S = 86_400  # no timer can have an endless one, and anyone may send a batcher its limits
MAX_REMEMBERED_IDS = 2_000
MAX_IDLE_RUNS = 10
LONGEST_HISTORY = 40_000  # events; the server terminates a run that has 51,200

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherLimits:
    """What a batcher may do at once. `max_wait_s` in seconds; `write_attempts`: for one batch, before it is given up.
    Raises ConfigurationError.
    """

    max_items: int = 100
    max_wait_s: float = 20.0
    signals_per_run: int = 8_000
    confirmations_at_once: int = 100
    write_attempts: int = 10

    def __post_init__(self) -> None:
        for name, value, most in (
            ("max_items", self.max_items, MAX_BATCH_ITEMS),
            ("signals_per_run", self.signals_per_run, SERVER_SIGNALS_PER_RUN - 1),
            ("confirmations_at_once", self.confirmations_at_once, SERVER_PENDING_SIGNALS),
            ("write_attempts", self.write_attempts, 1_000),
        ):
            if not 1 <= value <= most:
                raise ConfigurationError(f"{name} = {value}: a batcher workflow can have 1 to {most}")
        if not 0 < self.max_wait_s <= LONGEST_WAIT_S:
            raise ConfigurationError(f"max_wait_s = {self.max_wait_s}: must be above 0, and {LONGEST_WAIT_S} at most")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedWrite:
    """A request that waits, since when (seconds since the epoch), and its size as Temporal encodes it."""

    request: SignalledWrite
    received_s: float
    size_bytes: int

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal for the same signal, come twice."""
        return (self.request.request_id, self.request.requesting_workflow, self.request.this_try)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedBatch:
    """A batch that could not be written so far: the first `items` requests of those that wait, tried `attempts` times;
    not to be tried again before `retry_at_s` (seconds since the epoch).
    """

    batch_id: str
    flush_reason: FlushReason
    items: int
    attempts: int
    retry_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """A confirmation that `caller` is yet to get."""

    caller: str
    confirmation: Confirmation

    @property
    def size_bytes(self) -> int:
        """About as many as it takes in what the next run begins with."""
        told = self.confirmation
        return FIELDS_BYTES + len(json.dumps((self.caller, told.request_id, told.batch_id, told.error)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherState:
    """What a run hands to the next. `waiting` begins with the requests of the batch `tried`, if there is one.
    `remembered` maps request ids that were written to the try that asked; `cycle` counts the runs before this one,
    `idle_runs` those that ended just before it and had done nothing.
    """

    limits: BatcherLimits = field(default_factory=BatcherLimits)
    waiting: list[QueuedWrite] = field(default_factory=list)
    remembered: dict[str, str] = field(default_factory=dict)
    processed_batches: int = 0
    cycle: int = 0
    idle_runs: int = 0
    tried: TriedBatch | None = None
    untold: list[Untold] = field(default_factory=list)


class Line:
    """Requests that wait for a batch, in the order in which they came."""

    def __init__(self, waiting: Iterable[QueuedWrite] = ()) -> None:
        self._waiting: deque[QueuedWrite] = deque()
        self.size_bytes = 0
        for one in waiting:
            self.append(one)

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, one: QueuedWrite) -> None:
        """One more."""
        self._waiting.append(one)
        self.size_bytes += one.size_bytes

    def drop_newest(self) -> QueuedWrite:
        """The one that came last; raises IndexError when there is none."""
        newest = self._waiting.pop()
        self.size_bytes -= newest.size_bytes
        return newest

    def waiting(self) -> list[QueuedWrite]:
        """All of them, the oldest first."""
        return list(self._waiting)

    def closes_in(self, limits: BatcherLimits, now_s: float) -> float | None:
        """Seconds until the next batch must be written, 0 when that is now; None when there is nothing to write."""
        if not self._waiting:
            return None
        if len(self._waiting) >= limits.max_items or self.size_bytes >= MAX_BATCH_BYTES:
            return 0.0
        return max(self._waiting[0].received_s + limits.max_wait_s - now_s, 0.0)

    def take(self, limits: BatcherLimits) -> tuple[FlushReason, list[QueuedWrite]]:
        """The next batch, and which limit closed it. The ids in it differ: what comes again under an id of this batch
        stays first in line for the next, where the database answers it.
        """
        batch: list[QueuedWrite] = []
        repeated: list[QueuedWrite] = []
        ids: set[str] = set()
        size_bytes = 0
        reason = FlushReason.WAIT
        while self._waiting:
            head = self._waiting[0]
            if head.request.request_id in ids:
                repeated.append(self._waiting.popleft())
                continue
            if batch and size_bytes + head.size_bytes > MAX_BATCH_BYTES:
                reason = FlushReason.BYTES
                break
            batch.append(self._waiting.popleft())
            ids.add(head.request.request_id)
            size_bytes += head.size_bytes
            if len(batch) == limits.max_items:
                reason = FlushReason.SIZE
                break
        self._waiting.extendleft(reversed(repeated))
        self.size_bytes -= size_bytes
        return reason, batch


class Remembered:
    """Request ids that were written, the newest of them: what comes later still is answered by the database."""

    def __init__(self, ids: Mapping[str, str] | None = None, *, capacity: int = MAX_REMEMBERED_IDS) -> None:
        self._tries = dict(ids or {})
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._tries)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._tries

    def has_answered(self, request: SignalledWrite) -> bool:
        """Whether this very signal has come before. A caller that asks anew has not had its answer, or was reset."""
        return self._tries.get(request.request_id) == request.this_try

    def add(self, request: SignalledWrite) -> None:
        """Written; forgets the oldest when there is no room."""
        self._tries.pop(request.request_id, None)
        self._tries[request.request_id] = request.this_try
        while len(self._tries) > self._capacity:
            del self._tries[next(iter(self._tries))]

    def newest(self, max_bytes: int = MAX_CARRIED_ID_BYTES) -> dict[str, str]:
        """As many of the newest as fit into so many bytes, in their order."""
        kept: list[tuple[str, str]] = []
        for request_id, this_try in reversed(self._tries.items()):
            max_bytes -= len(json.dumps({request_id: this_try}))
            if max_bytes < 0:
                break
            kept.append((request_id, this_try))
        return dict(reversed(kept))


def retry_delay_s(attempts: int, jitter: float) -> float:
    """After so many attempts: twice as long each time; `jitter` is from 0 to 1, or several batchers would come back to
    a database at the same moment.
    """
    delay_s: float = min(FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20), LONGEST_RETRY_S)
    return delay_s * (0.5 + jitter / 2)


def is_run_full(*, suggested: bool, signals: int, limits: BatcherLimits, idle_runs: int) -> bool:
    """Whether this run, which has received so many signals, must give way to a new one.

    `idle_runs` ran before it without a signal or a batch, this run included if it has had none. Ten of them mean that
    a new run heals nothing, whatever the server suggests: then this one waits for something to do. It does not fail,
    because requests may be in line, and the next run that has done something may continue as new again.
    """
    return (suggested or signals >= limits.signals_per_run) and idle_runs < MAX_IDLE_RUNS
