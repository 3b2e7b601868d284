"""The log of a worker process: lines for people, or JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from write_batcher.escaping import escaped

TEXT = "%(asctime)s %(levelname)s %(message)s"
CONTINUED = "  | "  # begins the lines of a traceback, so that nothing in them looks like a record of its own


def log_to_stderr(log_format: Literal["text", "json"]) -> None:
    """Log to stderr from level INFO on, one line per record; replaces the handlers of the root logger.

    `log_format` is "text", or "json" for objects with `time`, `level`, `logger` and `message`; a record about a batch
    also has its figures under `batch`, one about an exception its traceback under `error`. In text, a traceback follows
    its line, each line of it behind a bar. Control characters are escaped: a record that a caller or a database wrote
    can neither forge lines nor steer a terminal. Temporal's SDK logs from level WARNING on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("temporalio").setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """One line per record, and the lines of its traceback behind bars."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return _behind_bars(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _behind_bars(stack_info)


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
        return _escaped_in_json(json.dumps(line, ensure_ascii=False, default=str))


def _behind_bars(text: str) -> str:
    # By lines as Python sees them: a terminal may take a form feed or U+2028 for the end of a line, too.
    return "\n".join(f"{CONTINUED}{escaped(line)}" for line in text.split("\n"))


def _escaped_in_json(text: str) -> str:
    """JSON has its own escapes, in UTF-16: `json.dumps` makes them only for what JSON forbids."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
