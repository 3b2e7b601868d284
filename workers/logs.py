"""The log of a worker process: lines for people, or JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

TEXT = "%(asctime)s %(levelname)s %(message)s"


def log_to_stderr(log_format: Literal["text", "json"]) -> None:
    """Log to stderr from level INFO on, one line per record; replaces the handlers of the root logger.

    `log_format` is "text", or "json" for objects with `time`, `level`, `logger` and `message`; a record about a batch
    also has its figures under `batch`, one about an exception its traceback under `error`. Temporal's SDK logs from
    level WARNING on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("temporalio").setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: `time` (UTC), `level`, `logger`, `message`, and `error` and `batch` where known."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if batch := getattr(record, "batch", None):
            line["batch"] = batch
        return json.dumps(line, ensure_ascii=False, default=str)
