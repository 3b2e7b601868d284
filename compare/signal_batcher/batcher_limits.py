"""The limits of a batcher workflow, those that Temporal sets among them, and the decisions that follow from them."""

from dataclasses import dataclass

from write_batcher import ConfigurationError

SERVER_SIGNALS_PER_RUN = 10_000  # Temporal refuses more
SERVER_PENDING_SIGNALS = 2_000  # to other workflows, at a time and per run; Temporal recommends 500

# Temporal accepts 2 MB for the input of an activity, for its result, and for the state that a new run starts with.
MAX_BATCH_ITEMS = 1_000
MAX_BATCH_BYTES = 1_000_000
MAX_REQUEST_BYTES = 500_000
MAX_CARRIED_BYTES = 1_200_000
MAX_CARRIED_ID_BYTES = 250_000
MAX_CARRIED_CONFIRMATION_BYTES = 400_000

MAX_WAIT_S = 86_400  # a timer must end, and anyone may send a batcher its limits
MAX_REMEMBERED_IDS = 2_000
MAX_IDLE_RUNS = 10
MAX_HISTORY_EVENTS = 40_000  # the server terminates a run that has 51,200

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherLimits:
    """What a batcher may do at a time. Raises `ConfigurationError` when a limit is out of its bounds."""

    max_items: int = 100
    """Requests of a batch, 1 to 1,000."""
    max_wait_s: float = 20.0
    """Age in seconds of the oldest request at which a batch closes; above 0, at most 86,400."""
    signals_per_run: int = 8_000
    """Signals after which a run continues as new, 1 to 9,999."""
    confirmations_at_once: int = 100
    """Confirmations in flight, 1 to 2,000."""
    write_attempts: int = 10
    """Attempts to write a batch before it is given up, 1 to 1,000."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("max_items", self.max_items, MAX_BATCH_ITEMS),
            ("signals_per_run", self.signals_per_run, SERVER_SIGNALS_PER_RUN - 1),
            ("confirmations_at_once", self.confirmations_at_once, SERVER_PENDING_SIGNALS),
            ("write_attempts", self.write_attempts, 1_000),
        ):
            if not 1 <= value <= most:
                raise ConfigurationError(f"Limit {name} = {value}: a batcher workflow can have 1 to {most}.")
        if not 0 < self.max_wait_s <= MAX_WAIT_S:
            raise ConfigurationError(f"Limit max_wait_s = {self.max_wait_s}: must be above 0 and at most {MAX_WAIT_S}.")


def retry_delay_s(attempts: int, jitter: float) -> float:
    """Return the seconds to wait after `attempts` failed attempts: doubled each time, up to `LONGEST_RETRY_S`.

    `jitter` is random, from 0 to 1, and takes off up to half: otherwise several batchers would come back to a database
    at the same moment.
    """
    delay_s: float = min(FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20), LONGEST_RETRY_S)
    return delay_s * (0.5 + jitter / 2)


def is_run_full(*, suggested: bool, signals: int, limits: BatcherLimits, idle_runs: int) -> bool:
    """Whether this run must continue as new: it has received `signals`, or the server has suggested it.

    `idle_runs` counts the runs in a row, up to and including this one, that had no signal and no batch. After
    `MAX_IDLE_RUNS` of them a new run does not help, whatever the server suggests, so this one waits for something to
    do. It does not fail, because requests may be pending, and a run that has done something may continue as new again.
    """
    return (suggested or signals >= limits.signals_per_run) and idle_runs < MAX_IDLE_RUNS
