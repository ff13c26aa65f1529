"""One event is one line of the log, for any bytes that a client sent."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings

import pytest

from polyhead_server.process import logs

# line ends of every kind, ANSI and C1 control sequences, what reverses a line, no character
HOSTILE = "a\r\nb\x1b[2J\x9b31m\u2028\u202e\x00\x7f\udc80z"


class _Stream(io.StringIO):
    def getvalue(self):
        logs.flush()
        return super().getvalue()


class _Terminal(_Stream):
    def isatty(self):
        return True


@pytest.fixture
def configured(monkeypatch):
    """Configure logging onto a stream of the test's own, and undo that afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("polyhead")
    before = root.handlers[:], root.level, ours.level
    thread_hook = threading.excepthook

    def configure(log_format, level="info", stream=None, **fields):
        stream = _Stream() if stream is None else stream
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(log_format, level, **fields)
        return stream

    yield configure
    logging.captureWarnings(capture=False)
    threading.excepthook = thread_hook
    root.handlers[:], root.level, ours.level = before
    logging.getLogger("polyhead").setLevel(before[2])  # clears the logger's cache


def test_json_is_one_line_with_every_field(configured):
    stream = configured("json")
    extra = {"code": "OK", "took_ms": 1.5, "size": 3, "is_late": False, "nothing": None}
    logging.getLogger("polyhead.rpc").info("call %s", "made", extra=extra)
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {"level": "info", "logger": "polyhead.rpc", "event": "call made", **extra}


def test_fields_given_to_configure_are_in_every_event(configured):
    stream = configured("json", worker=2)
    logging.getLogger("polyhead").info("said", extra={"code": "OK"})
    event = json.loads(stream.getvalue())
    assert (event["worker"], event["code"]) == (2, "OK")
    stream = configured("text", worker=2)
    logging.getLogger("polyhead").info("said", extra={"code": "OK"})
    assert stream.getvalue().endswith('said worker=2 code="OK"\n')


def log_a_failure(text):
    try:
        int(text)
    except ValueError as error:
        error.args = (text,)  # without the quotes that int puts around it
        logging.getLogger("polyhead").exception("failed")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_field_forges_a_line_or_moves_the_cursor(configured, log_format):
    stream = configured(log_format)
    logging.getLogger("polyhead").info("said %s", HOSTILE, extra={"request_id": HOSTILE})
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isascii()
    assert text[:-1].isprintable()
    if log_format == "json":
        assert json.loads(text)["request_id"] == HOSTILE


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_long_fields_are_shortened(configured, log_format):
    stream = configured(log_format)
    long = "x" * (1 << 20)
    logging.getLogger("polyhead").info(long, extra={"a": long, "b": [long]})
    assert len(stream.getvalue()) < 4096
    assert stream.getvalue().count("\n") == 1


def test_a_traceback_in_json_is_a_field(configured):
    stream = configured("json")
    log_a_failure(HOSTILE + "y" * (1 << 20))
    (line,) = stream.getvalue().splitlines()
    assert "ValueError" in json.loads(line)["exception"]
    assert len(line) < 64 << 10


def test_a_traceback_in_text_is_indented_and_escaped(configured):
    stream = configured("text")
    log_a_failure(HOSTILE)
    head, *traceback = stream.getvalue().rstrip("\n").split("\n")
    assert head.endswith("failed")
    assert any("ValueError" in line for line in traceback)
    assert all(line.startswith("  ") and line.isprintable() for line in traceback)


def test_text_shows_fields_after_the_event(configured):
    stream = configured("text")
    logging.getLogger("polyhead").warning("slow", extra={"model": "a b", "ms": 3})
    assert stream.getvalue().endswith(' warning slow model="a b" ms=3\n')


def test_auto_is_text_on_a_terminal_only(configured):
    for stream, is_text in ((_Terminal(), True), (io.StringIO(), False)):
        configured("auto", stream=stream)
        logging.getLogger("polyhead").info("hello")
        assert (not stream.getvalue().startswith("{")) == is_text


def test_the_level_applies_to_our_events_and_others_are_logged_from_warning_on(configured):
    stream = configured("json", "error")
    logging.getLogger("polyhead.app").warning("not severe enough")
    logging.getLogger("someone.else").info("not ours")
    assert not stream.getvalue()
    logging.getLogger("asyncio").warning("theirs")
    logging.getLogger("polyhead.app").error("ours")
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["theirs", "ours"]


def test_warnings_and_errors_of_threads_are_events(configured):
    stream = configured("json")
    warnings.showwarning("old", DeprecationWarning, "a.py", 1)
    thread = threading.Thread(target=int, args=("x",), name="worker-7")
    thread.start()
    thread.join()
    warned, failed = map(json.loads, stream.getvalue().splitlines())
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert "old" in warned["event"]
    assert (failed["event"], failed["level"]) == ("thread failed: worker-7", "error")
    assert "ValueError" in failed["exception"]


def test_a_call_that_its_client_has_cancelled_is_not_logged_as_an_error_of_grpc(caplog):
    class ExecuteBatchError(Exception):
        """Named as gRPC names it, in a module that is not public."""

    logs.quieten_grpc()
    logger = logging.getLogger("grpc._cython.cygrpc")
    for error in (ExecuteBatchError(), ValueError()):
        logger.error("raised in core", exc_info=error)
    logger.error("something else")
    assert [r.exc_info and r.exc_info[0] for r in caplog.records] == [ValueError, None]
