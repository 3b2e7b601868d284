"""Many Temporal workflows write to one database in batches, each with a durable outcome of its own.

Every public name can be imported from here. Each is loaded when it is first used, so that workflow code loads no Redis
or database driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from write_batcher.config import Settings as Settings, load_settings as load_settings
    from write_batcher.errors import (
        BatchTooLarge as BatchTooLarge,
        ConfigurationError as ConfigurationError,
        OperationFailed as OperationFailed,
        QueueUnavailable as QueueUnavailable,
        SinkUnavailable as SinkUnavailable,
        WriteBatcherError as WriteBatcherError,
        WriteFailed as WriteFailed,
        WriteNotConfirmed as WriteNotConfirmed,
        WriteNotSubmitted as WriteNotSubmitted,
        WriteOutcomeUnknown as WriteOutcomeUnknown,
        WriteRejected as WriteRejected,
    )
    from write_batcher.models import (
        Appended as Appended,
        Batch as Batch,
        ConfirmBy as ConfirmBy,
        FlushReason as FlushReason,
        Held as Held,
        Outcome as Outcome,
        PartitionRef as PartitionRef,
        QueueRef as QueueRef,
        ReplyAddress as ReplyAddress,
        Submission as Submission,
        WriteReceipt as WriteReceipt,
        WriteRequest as WriteRequest,
    )
    from write_batcher.queue.producer import Producer as Producer
    from write_batcher.queue.record_encoding import with_hash as with_hash
    from write_batcher.sinks.protocol import (
        IdentifiedSink as IdentifiedSink,
        PrunableSink as PrunableSink,
        Sink as Sink,
    )
    from write_batcher.sinks.sql.sink import SqlSink as SqlSink
    from write_batcher.sinks.sql.tables import TargetTable as TargetTable
    from write_batcher.workers.batcher_worker import run_batcher_worker as run_batcher_worker
    from write_batcher.workers.connections import connect_redis as connect_redis, connect_temporal as connect_temporal
    from write_batcher.workers.logs import log_to_stderr as log_to_stderr
    from write_batcher.workers.plugin import WriteBatching as WriteBatching
    from write_batcher.workers.serving import serve as serve
    from write_batcher.workflows.batched_writes import BatchedWrites as BatchedWrites
    from write_batcher.workflows.batcher import batcher_workflow_id as batcher_workflow_id
    from write_batcher.workflows.write_options import (
        InvalidWriteOptions as InvalidWriteOptions,
        OnRejected as OnRejected,
        WriteOptions as WriteOptions,
    )

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
    "InvalidWriteOptions": "workflows.write_options",
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

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
