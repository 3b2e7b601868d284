"""The contenders, each in a file of its own behind one interface."""

from write_batcher import ConfirmBy
from write_batcher.compare.contenders.design import Design
from write_batcher.compare.results import Contender

BASELINE = "baseline"
"""Stands for no contender: the callers' business steps alone."""


def design_of(name: str) -> Design:
    """The contender of that name, or the baseline. Raises ValueError for another name."""
    # Each is imported for itself: a process must not measure what another contender imports.
    if name == BASELINE:
        from write_batcher.compare.contenders.direct_design import Baseline

        return Baseline()
    match Contender(name):
        case Contender.DIRECT:
            from write_batcher.compare.contenders.direct_design import Direct

            return Direct()
        case Contender.SIGNAL:
            from write_batcher.compare.contenders.signal_design import Signal

            return Signal()
        case Contender.QUEUE:
            from write_batcher.compare.contenders.queue_design import Queue

            return Queue(ConfirmBy.SIGNAL)
        case Contender.QUEUE_COMPLETION:
            from write_batcher.compare.contenders.queue_design import Queue

            return Queue(ConfirmBy.COMPLETION)
