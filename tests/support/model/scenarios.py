"""The worlds that the model explores."""

from tests.support.model.rules import Scenario
from tests.support.model.world import Call, Fault
from write_batcher.models import ConfirmBy

ONE_CALLER = Scenario(
    name="one caller, one drain",
    calls=(Call("a"),),
    faults={
        Fault.DRAIN_CRASHES: 1,
        Fault.ANSWER_LOST: 1,
        Fault.RUNS_LATE: 1,
        Fault.REFUSED_FOR_GOOD: 1,
        Fault.SUBMIT_TIMES_OUT: 1,
        Fault.RESUBMITTED: 1,
        Fault.CONFIRM_TIMES_OUT: 1,
        Fault.TARGET_REFUSES: 1,
        Fault.REDIS_FORGETS: 1,
    },
)
TWO_DRAINS = Scenario(
    name="one caller, two drains",
    calls=(Call("a"),),
    drains=((0, 0), (0, 0)),
    faults={
        Fault.DRAIN_CRASHES: 1,
        Fault.SECOND_DRAIN: 1,
        Fault.CALLER_UNREACHABLE: 1,
        Fault.RUNS_LATE: 1,
        Fault.RESUBMITTED: 1,
        Fault.CONFIRM_TIMES_OUT: 1,
        Fault.TARGET_REFUSES: 1,
        Fault.DATABASE_CRASHES: 1,
    },
)
ONE_CALLER_COMPLETION = Scenario(
    name="one caller by completion", calls=(Call("a", mode=ConfirmBy.COMPLETION),), faults=ONE_CALLER.faults
)
FIRE_AND_FORGET = Scenario(
    name="fire and forget",
    calls=(Call("a", mode=ConfirmBy.NONE),),
    faults={
        Fault.DRAIN_CRASHES: 1,
        Fault.ANSWER_LOST: 1,
        Fault.RUNS_LATE: 1,
        Fault.REFUSED_FOR_GOOD: 1,
        Fault.TARGET_REFUSES: 1,
        Fault.REPLAYED: 1,
    },
)
RUN_ENDS = {Fault.RUN_ENDS: 1, Fault.DRAIN_CRASHES: 1, Fault.RUNS_LATE: 1, Fault.CONFIRM_TIMES_OUT: 1}
OTHER_RECORD = Scenario(
    name="terminated, then started again with another record",
    calls=(Call("first run"), Call("second run", record="200", after=0)),
    faults=RUN_ENDS,
)
SAME_RECORD = Scenario(
    name="reset to before its submit",
    calls=(Call("first run"), Call("second run", after=0)),
    faults=RUN_ENDS | {Fault.DRAIN_CRASHES: 0, Fault.TARGET_REFUSES: 1, Fault.REFUSED_FOR_GOOD: 1},
)
RESET_BEHIND = Scenario(
    name="reset to behind its submit",
    calls=(Call("a"),),
    faults={
        Fault.RESET_BEHIND_SUBMIT: 1,
        Fault.DRAIN_CRASHES: 1,
        Fault.RESUBMITTED: 1,
        Fault.CONFIRM_TIMES_OUT: 2,
        Fault.TARGET_REFUSES: 1,
        Fault.RUNS_LATE: 1,
    },
)
CORRECTED = Scenario(
    name="rejected, corrected and submitted again in the same run",
    calls=(Call("first call"), Call("second call", record="200", after=0, same_run=True)),
    faults={Fault.TARGET_REFUSES: 1, Fault.DRAIN_CRASHES: 1, Fault.CONFIRM_TIMES_OUT: 1, Fault.RUNS_LATE: 1},
)
SHARED_ID = Scenario(
    name="two workflows with the same id and record",
    calls=(Call("a", workflow="v"), Call("b", workflow="w")),
    faults={Fault.DRAIN_CRASHES: 1, Fault.CONFIRM_TIMES_OUT: 1, Fault.TARGET_REFUSES: 1},
)
CONCURRENT = Scenario(
    name="two calls of one run with the same id and record",
    calls=(Call("a"), Call("b")),
    faults={Fault.DRAIN_CRASHES: 1, Fault.CONFIRM_TIMES_OUT: 1, Fault.TARGET_REFUSES: 1},
)
SIBLINGS = Scenario(
    name="a call that waits beside one that does not",
    calls=(Call("a"), Call("b", mode=ConfirmBy.NONE)),
    faults={Fault.DRAIN_CRASHES: 1, Fault.CONFIRM_TIMES_OUT: 1},
)
CONFLICT = Scenario(
    name="two workflows with the same id and other records",
    calls=(Call("a", workflow="v"), Call("b", workflow="w", record="200")),
    faults={Fault.DRAIN_CRASHES: 1, Fault.CONFIRM_TIMES_OUT: 1, Fault.TARGET_REFUSES: 1},
)
ONE_KEY = (  # one after the other, because any order of equal calls is as good as any other
    Call("a", "r1", workflow="u", mode=ConfirmBy.NONE),
    Call("b", "r2", workflow="v", mode=ConfirmBy.NONE, after=0),
    Call("c", "r3", workflow="w", mode=ConfirmBy.NONE, after=1),
)
ORDER = Scenario(name="one key, one drain", calls=ONE_KEY, faults={Fault.DRAIN_CRASHES: 2, Fault.TARGET_REFUSES: 1})
ORDER_OF_TWO_DRAINS = Scenario(
    name="one key, two drains", calls=ONE_KEY, drains=((0, 0), (0, 0)), faults={Fault.SECOND_DRAIN: 1}
)
TWO_QUEUES = Scenario(
    name="two queues in one database, with the same id",
    calls=(Call("a", workflow="v", queue=0), Call("b", workflow="w", queue=1)),
    drains=((0, 0), (1, 0)),
    faults={Fault.DRAIN_CRASHES: 1, Fault.CONFIRM_TIMES_OUT: 1},
)
SECOND_BATCHER = Scenario(
    name="a batcher with another database",
    calls=(Call("a", workflow="v"), Call("b", workflow="w")),
    drains=((0, 0), (0, 1)),
    sinks=("A", "B"),
    faults={Fault.DRAIN_CRASHES: 1, Fault.SECOND_DRAIN: 1},
)
SECOND_BATCHER_LOSS = Scenario(
    name="a batcher with another database, and Redis loses the contract",
    calls=(Call("a"),),
    drains=((0, 0), (0, 1)),
    sinks=("A", "B"),
    faults={
        Fault.REDIS_FORGETS: 1,
        Fault.RESUBMITTED: 1,
        Fault.SECOND_DRAIN: 1,
        Fault.DRAIN_CRASHES: 1,
        Fault.CONFIRM_TIMES_OUT: 1,
    },
)
DAYS = (6, 7.25, 13, 16)
WINDOW = Scenario(
    name="the same id again within the window",
    calls=(Call("a", workflow="v", mode=ConfirmBy.NONE), Call("b", workflow="w", mode=ConfirmBy.NONE)),
    faults={},
    days=DAYS,
)
LONG_WAIT = Scenario(
    name="one caller waits for weeks",
    calls=(Call("a"),),
    faults={Fault.REDIS_FORGETS: 1, Fault.CONFIRM_TIMES_OUT: 1, Fault.RESUBMITTED: 1},
    days=DAYS,
)
CLOCKS = Scenario(
    name="a clock jumps",
    calls=(Call("a", mode=ConfirmBy.NONE),),
    faults={Fault.CLOCK_JUMPS: 1},
    days=DAYS,
)
FROZEN = Scenario(
    name="frozen for days",
    calls=(Call("a", workflow="v", mode=ConfirmBy.NONE), Call("b", workflow="w", mode=ConfirmBy.NONE)),
    faults={Fault.FROZEN_FOR_DAYS: 1},
    days=(6, 13, 16),
)
REPLAY = Scenario(
    name="a caller waits for the replay of its letter",
    calls=(Call("a", waits_for_replay=True),),
    drains=((0, 0), (0, 0)),
    faults={
        Fault.TARGET_REFUSES: 2,
        Fault.REPLAYED: 1,
        Fault.CANCELLED: 1,
        Fault.RESUBMITTED: 1,
        Fault.DRAIN_CRASHES: 1,
        Fault.SECOND_DRAIN: 1,
        Fault.CONFIRM_TIMES_OUT: 1,
    },
)
DISCARD = Scenario(
    name="an operator discards the letter that a caller waits for",
    calls=(Call("a", waits_for_replay=True),),
    drains=((0, 0), (0, 0)),
    faults={
        Fault.TARGET_REFUSES: 2,
        Fault.REPLAYED: 1,
        Fault.DISCARDED: 1,
        Fault.RESUBMITTED: 1,
        Fault.DRAIN_CRASHES: 1,
        Fault.SECOND_DRAIN: 1,
    },
)
REPLAY_AFTER_RESET = Scenario(
    name="a caller that waits for a replay is reset",
    calls=(Call("first run", waits_for_replay=True), Call("second run", waits_for_replay=True, after=0)),
    faults={
        Fault.TARGET_REFUSES: 1,
        Fault.REPLAYED: 1,
        Fault.RUN_ENDS: 1,
        Fault.CONFIRM_TIMES_OUT: 1,
        Fault.DRAIN_CRASHES: 1,
    },
)
REPLAY_FAILED = Scenario(
    name="the letter of a caller that has failed",
    calls=(Call("a"),),
    faults={Fault.TARGET_REFUSES: 1, Fault.REPLAYED: 1, Fault.DRAIN_CRASHES: 1},
)
REPLAY_LATE = Scenario(
    name="a letter is replayed weeks later",
    calls=(Call("a", waits_for_replay=True),),
    faults={Fault.TARGET_REFUSES: 1, Fault.REPLAYED: 1, Fault.CANCELLED: 1},
    days=DAYS,
)
UNDECODABLE = Scenario(
    name="an operator rejects an entry that cannot be decoded",
    calls=(Call("first run"), Call("second run", after=0)),
    faults={Fault.CODEC_AWAY: 1, Fault.DRAIN_CRASHES: 1, Fault.RUN_ENDS: 1, Fault.CONFIRM_TIMES_OUT: 1},
)
ALL = tuple(value for value in globals().values() if isinstance(value, Scenario))
