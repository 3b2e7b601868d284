"""Many Temporal workflows write to one database in batches, each with a durable outcome of its own.

Every public name can be imported from here. Each is loaded when it is first used, so that workflow code loads no Redis
or database driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from write_batcher.config import Settings, load_settings
    from write_batcher.errors import (
        BatchTooLarge,
        ConfigurationError,
        InvalidWriteOptions,
        OperationFailed,
        QueueUnavailable,
        SinkUnavailable,
        WriteBatcherError,
        WriteFailed,
        WriteNotConfirmed,
        WriteNotSubmitted,
        WriteOutcomeUnknown,
        WriteRejected,
    )
    from write_batcher.models import (
        Appended,
        Batch,
        ConfirmBy,
        FlushReason,
        Held,
        Outcome,
        PartitionRef,
        QueueRef,
        ReplyAddress,
        Submission,
        WriteReceipt,
        WriteRequest,
    )
    from write_batcher.queue.producer import Producer
    from write_batcher.queue.record_encoding import with_hash
    from write_batcher.sinks.protocol import (
        IdentifiedSink,
        PrunableSink,
        Sink,
    )
    from write_batcher.sinks.sql.sink import SqlSink
    from write_batcher.sinks.sql.tables import TargetTable
    from write_batcher.workers.batcher_worker import run_batcher_worker
    from write_batcher.workers.connections import connect_redis, connect_temporal
    from write_batcher.workers.logs import log_to_stderr
    from write_batcher.workers.plugin import WriteBatching
    from write_batcher.workers.serving import serve
    from write_batcher.workflows.batched_writes import BatchedWrites
    from write_batcher.workflows.batcher import batcher_workflow_id
    from write_batcher.workflows.write_options import OnRejected, WriteOptions

_MODULES = {
    # Writing from a workflow.
    "BatchedWrites": "workflows.batched_writes",
    "WriteOptions": "workflows.write_options",
    "OnRejected": "workflows.write_options",
    "ConfirmBy": "models",
    "WriteReceipt": "models",
    "Outcome": "models",
    "FlushReason": "models",
    # What `submit` raises, and what wrong options raise.
    "WriteFailed": "errors",
    "WriteRejected": "errors",
    "WriteNotSubmitted": "errors",
    "WriteNotConfirmed": "errors",
    "WriteOutcomeUnknown": "errors",
    "InvalidWriteOptions": "errors",
    # Running workers.
    "WriteBatching": "workers.plugin",
    "Settings": "config",
    "load_settings": "config",
    "run_batcher_worker": "workers.batcher_worker",
    "connect_temporal": "workers.connections",
    "connect_redis": "workers.connections",
    "serve": "workers.serving",
    "log_to_stderr": "workers.logs",
    # Writing batches to a target.
    "Sink": "sinks.protocol",
    "PrunableSink": "sinks.protocol",
    "IdentifiedSink": "sinks.protocol",
    "SqlSink": "sinks.sql.sink",
    "TargetTable": "sinks.sql.tables",
    "Batch": "models",
    "WriteRequest": "models",
    "ReplyAddress": "models",
    "Held": "models",
    "with_hash": "queue.record_encoding",
    "SinkUnavailable": "errors",
    "BatchTooLarge": "errors",
    # Appending without a workflow, naming queues, partitions and batchers.
    "Producer": "queue.producer",
    "Submission": "models",
    "Appended": "models",
    "QueueRef": "models",
    "PartitionRef": "models",
    "batcher_workflow_id": "workflows.batcher",
    # Other errors.
    "WriteBatcherError": "errors",
    "ConfigurationError": "errors",
    "OperationFailed": "errors",
    "QueueUnavailable": "errors",
}

__all__ = [
    "Appended",
    "Batch",
    "BatchTooLarge",
    "BatchedWrites",
    "ConfigurationError",
    "ConfirmBy",
    "FlushReason",
    "Held",
    "IdentifiedSink",
    "InvalidWriteOptions",
    "OnRejected",
    "OperationFailed",
    "Outcome",
    "PartitionRef",
    "Producer",
    "PrunableSink",
    "QueueRef",
    "QueueUnavailable",
    "ReplyAddress",
    "Settings",
    "Sink",
    "SinkUnavailable",
    "SqlSink",
    "Submission",
    "TargetTable",
    "WriteBatcherError",
    "WriteBatching",
    "WriteFailed",
    "WriteNotConfirmed",
    "WriteNotSubmitted",
    "WriteOptions",
    "WriteOutcomeUnknown",
    "WriteReceipt",
    "WriteRejected",
    "WriteRequest",
    "__version__",
    "batcher_workflow_id",
    "connect_redis",
    "connect_temporal",
    "load_settings",
    "log_to_stderr",
    "run_batcher_worker",
    "serve",
    "with_hash",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# A type checker that saw it would take every misspelt name for a public one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name from the module that defines it (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_suggestion(name)}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def _suggestion(name: str) -> str:
    from difflib import get_close_matches  # only for a mistake, not in every sandbox that loads this package

    close = get_close_matches(name, __all__)
    return f": did you mean {' or '.join(map(repr, close))}?" if close else ""
