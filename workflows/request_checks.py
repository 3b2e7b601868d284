"""What a write has to satisfy before it is handed to Temporal."""

from temporalio import workflow

from write_batcher.errors import WriteNotSubmitted
from write_batcher.models import MAX_REQUEST_ID_BYTES
from write_batcher.workflows.inbox import Write

MAX_RECORD_BYTES = 1_000_000  # the input of an activity may have 2 MB, with everything around the record


def check_encodable(write: Write) -> None:
    """Check that Temporal can encode the write. Raises `WriteNotSubmitted` when it cannot.

    Without this check, the encoding of the activity's input would fail the workflow task, again and again.
    """
    id_bytes = len(write.request_id.encode(errors="surrogatepass"))
    if not 1 <= id_bytes <= MAX_REQUEST_ID_BYTES:
        raise WriteNotSubmitted(
            f"Request id {write.request_id[:80]!r} has {id_bytes} bytes: use 1 to {MAX_REQUEST_ID_BYTES}, "
            "or leave it out."
        )
    try:
        [payload] = workflow.payload_converter().to_payloads([write])
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise WriteNotSubmitted(
            f"The record of request {write.request_id!r} for table {write.table!r} cannot be encoded ({error}): "
            "use JSON values."
        ) from error
    if len(payload.data) > MAX_RECORD_BYTES:
        raise WriteNotSubmitted(
            f"The record of request {write.request_id!r} for table {write.table!r} has {len(payload.data)} bytes, "
            f"the limit is {MAX_RECORD_BYTES}: store large data elsewhere and write its address."
        )
