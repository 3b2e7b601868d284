"""Whether this worker may drain its queue: a drain into the wrong database would misinform every caller."""

from write_batcher.errors import TablesUnknown, WrongSink
from write_batcher.queue.contract import Contract
from write_batcher.sinks.protocol import Sink, identity_of


def check_contract(contract: Contract, sink: Sink, *, started_for: str = "") -> None:
    """Raises `WrongSink` when the queue is written to another sink, and `TablesUnknown` when it has tables that this
    sink does not know: another worker does, and takes the partition.

    `started_for` is the sink that the partition's batcher was started for, empty when that is not known. It tells also
    after Redis has lost the contract, and a worker with another sink has announced its own.
    """
    sink_id, known = identity_of(sink)
    for expected in (contract.sink_id, started_for or contract.sink_id):
        if expected != sink_id:
            raise WrongSink(
                f"The queue is written to the sink {expected!r}, and this worker's is {sink_id!r}: give it the queue's "
                "database (--database-url), or another queue (--queue). To move the queue to this database, stop "
                "its batchers and run `write-batcher queue move`."
            )
    unknown = sorted(contract.tables.keys() - known.keys()) if known else []
    if unknown:
        raise TablesUnknown(
            f"This worker does not know the tables {', '.join(unknown)} of its queue: start it with them (--tables)."
        )
