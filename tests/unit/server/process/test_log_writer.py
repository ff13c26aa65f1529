"""The log never waits for its reader."""

from __future__ import annotations

import io
import logging
import os
import time
from contextlib import contextmanager

import pytest

from polyhead_server.process import log_writer
from polyhead_server.process.log_writer import LogWriter

LINE = "x" * 999


@contextmanager
def pipe_and_writer():
    """Give the end of a pipe that is read, and a logger that writes to the other one."""
    reading, writing = os.pipe()
    reader, writer = os.fdopen(reading), os.fdopen(writing, "w")
    handler = LogWriter(writer)
    ours, logger = logging.getLogger("polyhead.log"), logging.getLogger("test_log_writer")
    for each in (ours, logger):
        each.addHandler(handler)
        each.propagate = False
    logger.setLevel("INFO")
    try:
        yield reader, logger, handler
    finally:
        for each in (ours, logger):
            each.removeHandler(handler)
            each.propagate = True
        reader.close()
        writer.close()


def test_an_unread_pipe_delays_nothing_and_lost_lines_are_counted():
    with pipe_and_writer() as (reader, logger, _):
        began = time.monotonic()
        for _ in range(3000):
            logger.info(LINE)
        assert time.monotonic() - began < 1
        lines = []
        while not (lines and lines[-1].startswith("lines of the log")):
            lines.append(reader.readline())
        num_written = len(lines) - 1
        assert set(lines[:-1]) == {LINE + "\n"}
        # those that fit the pipe, which has 64 KiB on most systems, are written besides
        assert log_writer._MAX_WAITING <= num_written < 3000
        logger.info("later")
        assert reader.readline() == "later\n"


def test_the_end_waits_briefly_for_an_unread_pipe(monkeypatch):
    monkeypatch.setattr(log_writer, "_FLUSH_S", 0.05)
    with pipe_and_writer() as (reader, logger, handler):
        for _ in range(200):
            logger.info(LINE)
        handler.flush()
        for _ in range(200):
            assert reader.readline() == LINE + "\n"


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_stream_that_refuses_lines_loses_them_and_nothing_else(is_closed):
    with pipe_and_writer() as (reader, logger, handler):
        if is_closed:
            handler._stream.close()
        reader.close()
        logger.info("first")
        logger.info("second")
        handler.flush()
        assert handler._lines.empty()


@pytest.mark.parametrize("shows_bars", [True, False])
def test_a_bar_replaces_the_one_before_it_and_goes_with_the_next_line(shows_bars):
    stream = io.StringIO()
    handler = LogWriter(stream, shows_bars=shows_bars)
    for name, text in [("progress", "1 %"), ("progress", "2 %"), ("app", "done"), ("app", "more")]:
        handler.emit(logging.makeLogRecord({"name": f"polyhead.{name}", "msg": text}))
    handler.flush()
    clear = "\r\x1b[K"
    bars = f"{clear}1 %{clear}2 %{clear}" if shows_bars else ""
    assert stream.getvalue() == f"{bars}done\nmore\n"
