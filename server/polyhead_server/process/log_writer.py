"""Writes the log in a thread of its own, because the reader of the log may stop reading it.

A pipe that nobody reads is full after 64 KiB, a stopped terminal sooner, and a write to it waits
without a limit. On the event loop, no call would be answered meanwhile, and no signal would end the
server.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from io import UnsupportedOperation
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["LogWriter"]

_MAX_WAITING = 1000
"""Lines that may wait to be written; more are lost, and counted."""
_FLUSH_S = 1.0
"""Seconds for which the end of the process waits for lines to be written."""
_LOG = logging.getLogger("polyhead.log")
_PROGRESS = "polyhead.progress"
"""Name of the logger whose events are bars: each replaces the one before it, on a terminal only."""
_CLEAR_LINE = "\r\x1b[K"


class LogWriter(logging.Handler):
    """Writes each event's line to a stream, without ever waiting for it."""

    def __init__(self, stream: TextIO, *, shows_bars: bool = False) -> None:
        """``shows_bars``: whether the stream is a terminal on which no other process writes."""
        super().__init__()
        self._stream = stream
        self._shows_bars = shows_bars
        self._has_bar = False
        """Whether the terminal's last line is a bar."""
        self._lines: SimpleQueue[str | Event] = SimpleQueue()
        self._num_lost = 0
        self._starting = Lock()
        self._is_started = False

    def emit(self, record: logging.LogRecord) -> None:
        """Let an event's line wait for the thread; it is lost if too many wait."""
        is_bar = record.name == _PROGRESS
        if is_bar and not self._shows_bars:
            return
        try:
            line = f"{_CLEAR_LINE}{record.getMessage()}" if is_bar else f"{self.format(record)}\n"
        except Exception:  # noqa: BLE001 - logging reports it in its own way
            self.handleError(record)
            return
        if self._lines.qsize() >= _MAX_WAITING:
            self._num_lost += 1
            return
        self._lines.put(line)
        if not self._is_started:
            self._start()

    def flush(self) -> None:
        """Wait until the log is written, for at most a second."""
        if self._is_started:
            is_written = Event()
            self._lines.put(is_written)
            is_written.wait(_FLUSH_S)

    def _start(self) -> None:
        # with the first line, because the allocator is tuned before there are threads
        with self._starting:
            if not self._is_started:
                self._is_started = True
                Thread(target=self._write_all, name="polyhead-log", daemon=True).start()

    def _write_all(self) -> None:
        while True:
            waiting = self._lines.get()
            if isinstance(waiting, Event):
                waiting.set()
                continue
            is_bar = not waiting.endswith("\n")
            line = waiting if is_bar or not self._has_bar else _CLEAR_LINE + waiting
            self._has_bar = is_bar
            with suppress(OSError, ValueError):  # a full disk, a closed pipe: there is no other log
                _write(self._stream, line)
            if self._num_lost and self._lines.empty():
                num_lost, self._num_lost = self._num_lost, 0
                _LOG.warning("lines of the log were lost", extra={"lines": num_lost})


def _write(stream: TextIO, line: str) -> None:
    """Write a line.

    The buffer of a standard stream is left out, because a thread that waits in it keeps the
    interpreter from ending.
    """
    try:
        descriptor = stream.fileno()
    except (UnsupportedOperation, AttributeError):  # it is no file
        stream.write(line)
        return
    left = memoryview(line.encode(errors="backslashreplace"))
    while left:
        left = left[os.write(descriptor, left) :]
