"""Lines of the log: whatever a caller, a database or a server says stays within its line."""

import json
import logging
import sys

import pytest

from write_batcher.escaping import escaped
from write_batcher.workers.logs import CONTINUED, TEXT, JsonFormatter, TextFormatter

HOSTILE = "bad\n2025-01-01 00:00:00,000 INFO all is well\x1b[2J\r\x00\x7f\x9b1m\u2028\u202e\ud800"
CONTROLS = ("\x1b", "\r", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800")


def record_of(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("write_batcher", logging.WARNING, __file__, 1, message, args, info)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception:  # noqa: BLE001
        caught = sys.exception()
        assert isinstance(caught, Exception)
        return caught


def test_text_line_escapes_what_would_forge_lines_or_steer_a_terminal() -> None:
    line = TextFormatter(TEXT).format(record_of("the batch is held: %s", HOSTILE))
    assert "\n" not in line
    assert [char for char in CONTROLS if char in line] == []
    assert line.endswith(r"\x1b[2J\r\x00\x7f\x9b1m\u2028\u202e\ud800")


def test_traceback_in_text_cannot_forge_a_line() -> None:
    first, *rest = TextFormatter(TEXT).format(record_of("failed", error=raised(ValueError(HOSTILE)))).split("\n")
    assert first.endswith("WARNING failed")
    assert all(line.startswith(CONTINUED) for line in rest)
    assert any("INFO all is well" in line for line in rest)
    assert [char for char in CONTROLS if any(char in line for line in rest)] == []


@pytest.mark.parametrize("error", [None, raised(ValueError(HOSTILE))])
def test_json_line_is_printable_and_keeps_the_text(error: Exception | None) -> None:
    line = JsonFormatter().format(record_of("Grüße: %s", HOSTILE, error=error))
    assert line.isprintable()
    assert "Grüße" in line
    decoded = json.loads(line)
    assert decoded["message"] == f"Grüße: {HOSTILE}"
    assert (HOSTILE in decoded.get("error", "")) is (error is not None)


def test_json_line_of_a_batch_is_printable_too() -> None:
    record = record_of("written")
    record.batch = {"batch_id": "a\x9bb"}
    assert JsonFormatter().format(record).isprintable()


def test_foreign_text_cannot_control_a_terminal() -> None:
    assert escaped("tea ☕\x1b[2J\n\u202e\ud800") == "tea ☕\\x1b[2J\\n\\u202e\\ud800"
