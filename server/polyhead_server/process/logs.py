"""Structured logs: one line for each event, as JSON, or as text for a terminal.

An event's fields are passed as `extra=`. All values are escaped and cut to a maximum length, so
that no request can forge a line or fill a disk.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING

from polyhead_server.process.log_writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["configure", "flush", "quieten_grpc"]

_MAX_FIELD_CHARS = 1024
_MAX_ESCAPED_CHARS = 160
"""The same for a text with characters that are escaped, each of which takes 6 bytes or 12."""
_MAX_TRACEBACK_CHARS = 16 << 10
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(log_format: str, level: str, **fields: object) -> None:
    """Send polyhead's events to standard error as "json" or "text"; "auto": text on a terminal.

    `fields` are added to every event, such as the number of the worker.
    """
    is_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    # workers have fields, and share the terminal
    handler = LogWriter(sys.stderr, shows_bars=is_text and sys.stderr.isatty() and not fields)
    handler.setFormatter(_TextFormatter(fields) if is_text else _JsonFormatter(fields))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("polyhead").setLevel(level.upper())
    # what would be written beside the log becomes events: warnings, and errors that end a thread
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_error


def flush() -> None:
    """Wait until the log is written, for at most a second, because the process ends.

    Processes that multiprocessing has started end without calling logging's own function for this.
    """
    for handler in logging.getLogger().handlers:
        handler.flush()


def _log_thread_error(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is SystemExit:  # it ends a thread on purpose
        return
    name = failed.thread.name if failed.thread else ""
    error = failed.exc_value
    logging.getLogger("polyhead").error("thread failed: %s", name, exc_info=error)


def quieten_grpc() -> None:
    """Keep gRPC from logging a traceback whenever a client disconnects before its response."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_not_failed_send)


def _is_not_failed_send(record: logging.LogRecord) -> bool:
    # compared by name, because the class is in a private module of gRPC
    error = record.exc_info[0] if record.exc_info else None
    return error is None or error.__name__ != "ExecuteBatchError"


def _capped(value: object) -> object:
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    text = str(value)
    is_plain = text.isascii() and text.isprintable()
    return _cut(text, _MAX_FIELD_CHARS if is_plain else _MAX_ESCAPED_CHARS)


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "…"


def _escaped(text: str) -> str:
    """Escape control characters and all else that could move a terminal's cursor."""
    return text.encode("unicode_escape").decode("ascii")


def _timestamp(record: logging.LogRecord) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{stamp}.{int(record.msecs):03d}Z"


class _EventFormatter(logging.Formatter):
    def __init__(self, fields: Mapping[str, object]) -> None:
        super().__init__()
        self._common_fields = fields

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        event_fields = {key: _capped(v) for key, v in vars(record).items() if key not in _STANDARD}
        return {**self._common_fields, **event_fields}


class _JsonFormatter(_EventFormatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _cut(record.getMessage(), _MAX_FIELD_CHARS),
            **self._fields(record),
        }
        if record.exc_info:
            event["exception"] = _cut(self.formatException(record.exc_info), _MAX_TRACEBACK_CHARS)
        return json.dumps(event)  # ASCII: control characters, ANSI and line ends are escaped


class _TextFormatter(_EventFormatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={json.dumps(v)}" for k, v in self._fields(record).items())
        event = _escaped(_cut(record.getMessage(), _MAX_FIELD_CHARS))
        lines = [f"{_timestamp(record)} {record.levelname.lower():7} {event} {fields}".rstrip()]
        if record.exc_info:
            traceback = _cut(self.formatException(record.exc_info), _MAX_TRACEBACK_CHARS)
            lines += [f"  {_escaped(line)}" for line in traceback.splitlines()]
        return "\n".join(lines)
