"""What the drain needs of a Temporal client, without a server: signals arrive at once, and are counted."""

from datetime import timedelta
from typing import cast

from temporalio.client import Client
from temporalio.converter import DataConverter

from write_batcher.bench.filled_queue import NAMESPACE
from write_batcher.models import WriteReceipt


class InstantTemporal:
    """A stand-in for a client."""

    namespace = NAMESPACE

    def __init__(self, data_converter: DataConverter) -> None:
        self.data_converter = data_converter
        self.receipts = 0
        """How many have been sent."""

    @property
    def client(self) -> Client:
        return cast(Client, self)

    def get_workflow_handle(self, workflow_id: str) -> "_InstantHandle":
        """Return a handle, whatever the id."""
        return _InstantHandle(self)


class _InstantHandle:
    def __init__(self, temporal: InstantTemporal) -> None:
        self._temporal = temporal

    async def signal(self, name: str, receipts: list[WriteReceipt], *, rpc_timeout: timedelta | None = None) -> None:
        self._temporal.receipts += len(receipts)
