"""The state of the modelled world: callers, the streams of a Redis, drains, and the ledgers of its databases."""

from enum import IntEnum, StrEnum, auto
from typing import Any, NamedTuple, TypeVar

from tests.support.model.decisions import Row
from write_batcher.models import ConfirmBy, WriteReceipt

T = TypeVar("T")


class Fault(IntEnum):
    """What may go wrong, and what operators may do. A scenario says how often."""

    DRAIN_CRASHES = 0
    SECOND_DRAIN = auto()  # Temporal takes a drain for dead that still runs
    CALLER_UNREACHABLE = auto()
    ANSWER_LOST = auto()  # of an append or a settling that was carried out
    RUNS_LATE = auto()  # an append whose attempt has timed out, and is carried out all the same
    REFUSED_FOR_GOOD = auto()  # by the enqueue activity
    SUBMIT_TIMES_OUT = auto()
    RESUBMITTED = auto()
    CONFIRM_TIMES_OUT = auto()
    CANCELLED = auto()
    RUN_ENDS = auto()  # terminated, or reset to before the submit: another run may begin
    RESET_BEHIND_SUBMIT = auto()
    TARGET_REFUSES = auto()  # one write of one record
    CODEC_AWAY = auto()  # an operator rejects an entry that cannot be decoded just now
    DATABASE_CRASHES = auto()
    REDIS_FORGETS = auto()
    REPLAYED = auto()
    DISCARDED = auto()
    CLOCK_JUMPS = auto()
    FROZEN_FOR_DAYS = auto()


class Phase(StrEnum):
    """How far a call of submit has come."""

    NEW = auto()
    APPENDING = auto()
    WAITING = auto()
    WAITING_FOR_REPLAY = auto()
    SETTLING = auto()
    TOLD = auto()
    ENDED = auto()  # with its run


AWAITING_RECEIPT = (Phase.APPENDING, Phase.WAITING, Phase.WAITING_FOR_REPLAY)
ENDED = (Phase.TOLD, Phase.ENDED)


class Told(StrEnum):
    """What a caller is told in the end."""

    WRITTEN = "written"
    QUEUED = "queued"
    REJECTED = "WriteRejected"
    NOT_SUBMITTED = "WriteNotSubmitted"
    NOT_CONFIRMED = "WriteNotConfirmed"
    UNKNOWN = "WriteOutcomeUnknown"


class Call(NamedTuple):
    """One call of submit. It never changes."""

    name: str
    request_id: str = "r"
    record: str = "100"
    key: str = "k"
    workflow: str = "w"
    mode: ConfirmBy = ConfirmBy.SIGNAL
    waits_for_replay: bool = False
    after: int | None = None
    """The call that must have ended before this one begins."""
    same_run: bool = False
    """Whether it comes after that call in the same run, instead of in a later one."""
    queue: int = 0


class CallState(NamedTuple):
    """What has become of a call."""

    phase: Phase = Phase.NEW
    told: tuple[Told, ...] = ()
    """More than one only after a reset."""
    began: float = 0
    uncertain: bool = False
    """Whether an append may have been carried out without an answer."""
    late: bool = False
    """Whether an attempt that has timed out may still append."""
    settles_late: bool = False
    """Whether its run has ended, and its settling may still be carried out."""
    appended: bool = False


class Entry(NamedTuple):
    """A request in a stream, or a dead letter."""

    number: int
    call: int
    first: float
    """The day of the first append, by the clock of Redis."""
    appended: float
    """The true day of the append."""
    stream: int = 0
    replayed: bool = False
    other_attempt: bool = False
    latest: bool = True
    """Whether the marker of its call names it."""


class Done(NamedTuple):
    """An entry that is decided, and that its drain has not acknowledged."""

    entry: Entry
    receipt: WriteReceipt
    confirmed: bool = False
    acknowledged: bool = False


class Drain(NamedTuple):
    """One run of the drain activity."""

    recovering: bool = True
    position: int = 0
    """The last entry that it has read."""
    hand: tuple[Entry, ...] = ()
    """Entries to be written."""
    done: tuple[Done, ...] = ()


class Effect(NamedTuple):
    """A record that was written into a target."""

    sink: int
    call: int
    number: int
    """Of the entry."""
    appended: float
    """The true day of the append."""
    day: float


class Clocks(NamedTuple):
    """By how many days each clock is wrong."""

    redis: int = 0
    database: int = 0
    drain: int = 0


class World(NamedTuple):
    """One state of everything."""

    calls: tuple[CallState, ...]
    faults: tuple[int, ...]
    """How many of each kind are left."""
    drains: tuple[Drain | None, ...]
    ledgers: tuple[tuple[Row, ...], ...]
    """By sink."""
    contract: str | None
    """The sink that is announced."""
    stream: tuple[Entry, ...] = ()
    """Of all partitions, in the order of the appends."""
    delivered: tuple[int, ...] = (0, 0)
    """The last entry that each stream has delivered."""
    next_number: int = 1
    letters: tuple[Entry, ...] = ()
    effects: tuple[Effect, ...] = ()
    refusals: tuple[int, ...] = ()
    """The calls whose record was refused."""
    day: float = 0
    clocks: Clocks = Clocks()
    forgot: bool = False
    """Whether entries are gone of which no caller was told: with Redis, or to the dead letters."""

    @property
    def redis_day(self) -> float:
        """The day by the clock of Redis."""
        return self.day + self.clocks.redis

    def spending(self, fault: Fault) -> "World | None":
        """The world with one fault of this kind less to come; None when there is none left."""
        left = self.faults[fault]
        return self._replace(faults=with_item(self.faults, fault, left - 1)) if left else None

    def with_call(self, number: int, **changes: Any) -> "World":
        """The world with a change of one call."""
        return self._replace(calls=with_item(self.calls, number, self.calls[number]._replace(**changes)))

    def with_drain(self, number: int, drain: Drain | None) -> "World":
        """The world with another state of one drain."""
        return self._replace(drains=with_item(self.drains, number, drain))


def with_item(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """Return the items with one of them replaced."""
    return (*items[:index], item, *items[index + 1 :])
