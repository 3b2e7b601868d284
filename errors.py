"""Two trees of errors: `WriteFailed` is what callers catch in a workflow, `WriteBatcherError` stays in a process."""

from temporalio.exceptions import ApplicationError


class WriteBatcherError(Exception):
    """Base of every error that stays inside a process."""


class ConfigurationError(WriteBatcherError):
    """A setting, an address or a permission is wrong: retrying does not help. The command exits with 2."""


class WrongSink(ConfigurationError):
    """The queue belongs to another sink than this process has: who writes or settles here would misinform callers."""


class QueueUnavailable(WriteBatcherError):
    """Redis cannot be asked right now. Heals by itself or by an operator."""


class QueueForbidden(QueueUnavailable):
    """Redis refuses the login, or a command that the login has no right to. Heals when somebody changes either."""


class NotAccepted(WriteBatcherError):
    """The queue does not accept a request yet: it has no batcher, or none with the request's table. Nothing has been
    appended. Heals when a batcher starts.
    """


class CodecUnavailable(QueueUnavailable):
    """The data converter or its payload codec cannot encode or decode right now; whether the entry or the record is
    valid is not known.
    """


class UnknownVersion(CodecUnavailable):
    """A stream entry of another version. A newer batcher may know it."""


class QueueFull(QueueUnavailable):
    """Redis is out of memory. Heals when the drain catches up, or with more memory."""


class InvalidRequest(WriteBatcherError):
    """A write request that can never be queued or written: too large, not encodable, or unfit for its table."""


class InvalidEntry(WriteBatcherError):
    """A stream entry that cannot be decoded into a write request, or is too old to be written."""


class SinkUnavailable(WriteBatcherError):
    """The sink cannot write any batch right now: connection, lock, disk, permission, missing table."""


class BatchTooLarge(WriteBatcherError):
    """The sink could not write a batch of this size in time, and committed nothing. A smaller one may succeed."""


class SinkContractBroken(WriteBatcherError):
    """A sink did not return one answer per request, in order: what became of the batch is not known."""


class TablesUnknown(WriteBatcherError):
    """This worker does not know all tables of its queue; another worker does. It leaves the partition to that one."""


class StageStalled(WriteBatcherError):
    """A stage of the drain made no progress within its limit; the activity fails so that another attempt takes over."""


class ServerNotStarted(WriteBatcherError):
    """An embedded server ended or did not answer; the message carries the end of its output."""


class TemporalUnavailable(WriteBatcherError):
    """Temporal stopped answering in the middle of a command."""


class WorkerEnded(WriteBatcherError):
    """A worker process ended without having been told to; the message carries the end of its log."""


class OperationFailed(WriteBatcherError):
    """What an operator asked for did not happen, or not in time; the message says why and what to do."""


class WrongWork(WriteBatcherError):
    """What was measured did other work than it should have, or did not finish it: its figures mean nothing."""


class WriteFailed(ApplicationError):
    """Base of what `BatchedWrites.submit` raises. Temporal does not retry it: the write has been given up."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type=type(self).__name__, non_retryable=True)


class WriteRejected(WriteFailed):
    """The database refuses the record, or its request id belongs to another record; the message says why. The record
    was not written.
    """


class WriteNotSubmitted(WriteFailed):
    """The request is invalid, or could not be appended to the queue within the submit timeout. It is not written and
    never will be.
    """


class WriteNotConfirmed(WriteFailed):
    """No receipt came within the confirmation timeout, and the write was withdrawn: it is not written and never will
    be.
    """


class WriteOutcomeUnknown(WriteFailed):
    """No receipt came, and the database could not be asked either: the write may have been made, or may still be made,
    once.
    """


class InvalidWriteOptions(WriteFailed, ValueError):
    """An option of `BatchedWrites` is wrong; the message names it. It fails the workflow: any other `ValueError` fails
    its workflow task, which Temporal retries for ever.
    """
