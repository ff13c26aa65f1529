"""What is counted and logged of calls that end; how a flood of like refusals is logged."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from polyhead_server.call import RunTimes
from polyhead_server.deadline import Deadline
from polyhead_server.errors import InvalidRequestError, OverloadedError
from polyhead_server.limits import LogLimits
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.rpc.observer import CallObserver

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SHORT = LogLimits(lines_in_window=3, window_s=0.05)
FULL = OverloadedError("the queue is full", 100)


class Request:
    """A request that has been run."""

    times = RunTimes(10.0, 10.5, 12.0)

    def __init__(self, request_id=""):
        self.request_id = request_id

    def log_fields(self):
        return {"model": "m", "request_id": self.request_id}


class Calls:
    """Ends calls of one method."""

    def __init__(self, metadata=(), **given):
        self.observer = CallObserver(**given)
        self.method = self.observer.counts.add_method("a.Service", "Do", "unary")
        self._metadata = metadata

    def end(self, error=None, request=None, caller=""):
        call = CallContext(
            self.method.name,
            Deadline(None),
            request=request or Request(),
            caller_name=caller,
            read_metadata=lambda: self._metadata,
        )
        self.observer.call_ended(self.method, call, time.monotonic() - 0.003, error)


class Lines(logging.Handler):
    """The log's lines, as they come."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.records = []
        self.changed = asyncio.Event()

    def emit(self, record):
        self.records.append(record)
        self.changed.set()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "polyhead.rpc")
    handler = Lines()
    logging.getLogger("polyhead.rpc").addHandler(handler)
    yield handler
    logging.getLogger("polyhead.rpc").removeHandler(handler)


@pytest.fixture
def lines(log):
    return log.records


def test_calls_are_counted_by_code_and_duration():
    calls = Calls()
    for error in (None, None, InvalidRequestError("query", "is required", "REQUIRED")):
        asyncio.run(run(calls.end, error))
    method = calls.method
    assert method.handled == {"OK": 2, "INVALID_ARGUMENT": 1}
    assert sum(method.seconds.counts) == 3
    assert method.seconds.total == pytest.approx(0.009, abs=0.1)
    assert list(calls.observer.counts.refused.items()) == [
        (("a.Service/Do", "INVALID_ARGUMENT", "REQUIRED"), 1)
    ]


async def run(function, *given, **named):
    function(*given, **named)


def test_names_of_callers_are_counted_up_to_a_thousand():
    calls = Calls()
    for number in range(1003):
        calls.end(caller=f"caller-{number}")
    calls.end(caller="caller-7")
    calls.end()
    callers = calls.observer.counts.callers
    assert callers["caller-7"] == 2
    assert callers["other"] == 3
    assert len(callers) == 1001


def test_a_line_has_the_times_and_ids_of_the_call(lines):
    metadata = (
        ("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01"),
        ("x-request-id", "from-a-proxy"),
        ("a-bin", b"\x00"),
    )
    calls = Calls(metadata, log_sample=1.0)
    calls.end(caller="ci")
    calls.end(request=Request("my-own"))
    by_proxy, own = lines
    assert (by_proxy.request_id, by_proxy.trace_id, by_proxy.caller) == (
        "from-a-proxy",
        TRACE_ID,
        "ci",
    )
    assert (by_proxy.queue_ms, by_proxy.compute_ms, by_proxy.model) == (500.0, 1500.0, "m")
    assert by_proxy.code == "OK"
    assert own.request_id == "my-own"


@pytest.mark.parametrize("sent", ["", "00-short-b7ad6b7169203331-01", f"00-{TRACE_ID}\r\n", b"x"])
def test_a_call_without_ids_gets_a_request_id_and_no_trace_id(lines, sent):
    calls = Calls((("traceparent", sent),), log_sample=1.0)
    calls.end()
    calls.end()
    first, second = lines
    assert first.request_id != second.request_id
    assert len(first.request_id) == 32
    assert "trace_id" not in vars(first)


def test_a_long_request_id_is_cut(lines):
    Calls((("x-request-id", "x" * 10_000),), log_sample=1.0).end()
    assert len(lines[0].request_id) == 128


def test_successes_are_sampled_and_errors_are_not(lines):
    calls = Calls(log_sample=0.5)
    for _ in range(400):
        calls.end()
    assert 100 < len(lines) < 300
    lines.clear()
    silent = Calls()
    silent.end()
    asyncio.run(run(silent.end, FULL))
    assert [line.code for line in lines] == ["RESOURCE_EXHAUSTED"]


def test_like_refusals_are_logged_up_to_a_limit_and_then_counted(log):
    lines = log.records

    async def flood():
        calls = Calls(log_limits=SHORT)
        for _ in range(1000):
            calls.end(FULL)
        calls.end(InvalidRequestError("query", "is required", "REQUIRED"))
        log.changed.clear()
        await log.changed.wait()  # for the end of the window
        calls.end(FULL)
        return calls

    calls = asyncio.run(asyncio.wait_for(flood(), 10))
    assert [line.reason for line in lines[:4]] == ["OVERLOADED"] * 3 + ["REQUIRED"]
    summary, after = lines[4:]
    assert summary.left_out == 997
    assert (summary.method, summary.code, summary.reason) == (
        "a.Service/Do",
        "RESOURCE_EXHAUSTED",
        "OVERLOADED",
    )
    assert after.message == "call"
    assert sum(calls.observer.counts.refused.values()) == 1002


def test_the_count_is_written_when_the_server_ends(lines):
    async def flood():
        calls = Calls(log_limits=LogLimits(lines_in_window=1, window_s=60))
        for _ in range(5):
            calls.end(FULL)
        calls.observer.log.flush()
        calls.observer.log.flush()

    asyncio.run(flood())
    assert [getattr(line, "left_out", None) for line in lines] == [None, 4]


def test_a_refusal_that_is_not_logged_costs_microseconds():
    async def flood():
        calls = Calls(log_limits=LogLimits(lines_in_window=0, window_s=60))
        started = time.process_time()
        for _ in range(10_000):
            calls.end(FULL)
        return time.process_time() - started

    assert asyncio.run(flood()) < 0.5  # 4 us each here


def test_an_unexpected_error_that_is_repeated_has_one_traceback_in_a_window(caplog):
    log = CallObserver(log_limits=LogLimits(window_s=60)).log
    errors = [ZeroDivisionError(), ZeroDivisionError(), KeyError(), ZeroDivisionError()]
    refusals = [log.unexpected("a.Service/Do", error) for error in errors]
    records = caplog.records
    assert [bool(record.exc_info) for record in records] == [True, False, True, False]
    ids = [record.incident for record in records]
    assert [refusal.message for refusal in refusals] == [
        f"internal error, incident {incident}" for incident in ids
    ]
    assert len(set(ids)) == 4
    assert records[1].as_in_incident == records[3].as_in_incident == ids[0]
    log.unexpected("a.Service/Else", ZeroDivisionError())
    assert records[-1].exc_info


def test_tracebacks_come_again_after_a_window(caplog):
    log = CallObserver(log_limits=LogLimits(window_s=0.0)).log
    for _ in range(2):
        log.unexpected("a.Service/Do", ZeroDivisionError())
    assert all(record.exc_info for record in caplog.records)
