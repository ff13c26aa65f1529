"""The outermost layer of calls: deadlines, statuses, and one line of the log for each call."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import grpc
import pytest

from polyhead_server.errors import InvalidRequestError
from polyhead_server.rpc.handlers import service_handler
from polyhead_server.rpc.observer import CallObserver


class Context:
    """The part of an open call that handlers use."""

    peer_name, caller_name = "10.0.0.7", ""

    def __init__(self, remaining_s=None):
        self._remaining_s = remaining_s
        self.at_end = [].append
        self.code = self.details = None
        self.written = []

    def time_remaining(self):
        return self._remaining_s

    def peer(self):
        return "ipv4:192.0.2.1:50412"

    def invocation_metadata(self):
        return (("x-request-id", "from-a-proxy"),)

    async def write(self, response):
        self.written.append(response)

    def set_code(self, code):
        self.code = code.name

    def set_details(self, details):
        self.details = details

    def set_trailing_metadata(self, metadata):
        assert metadata


@pytest.fixture
def handle(caplog):
    """Call a method; return the context and the call's line of the log."""
    caplog.set_level(logging.DEBUG, "polyhead.rpc")

    def handle(method, context=None, answers=None, raises=None):
        context = context or Context()
        handler = service_handler("a.Service", {"Do": method}, observer=CallObserver()).service(
            SimpleNamespace(method="/a.Service/Do")
        )
        assert isinstance(handler, grpc.RpcMethodHandler)
        if raises is None:
            assert asyncio.run(handler.unary_unary(b"request", context)) == answers
        else:
            with pytest.raises(raises):
                asyncio.run(handler.unary_unary(b"request", context))
        (line,) = (record for record in caplog.records if record.message == "call")
        assert line.method == "a.Service/Do"
        assert line.took_ms >= 0
        return context, line

    return handle


async def answer(request, call):
    assert request == b"request"
    call.log_fields["model"] = "m"
    return b"answer"


@pytest.mark.parametrize("remaining_s", [None, 10.0])
def test_a_response(handle, remaining_s):
    context, line = handle(answer, Context(remaining_s), answers=b"answer")
    assert (context.code, line.code, line.model) == (None, "OK", "m")
    assert line.levelno == logging.DEBUG


def test_a_call_whose_deadline_has_passed_does_not_begin(handle):
    async def never(request, call):
        raise NotImplementedError

    context, line = handle(never, Context(0.0))
    assert (context.code, line.code) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert line.levelno == logging.INFO


def test_a_refused_call_has_a_status(handle):
    async def refuse(request, call):
        call.log_fields["model"] = "m"
        raise InvalidRequestError("query", "is required", "REQUIRED")

    context, line = handle(refuse)
    assert (context.code, context.details) == ("INVALID_ARGUMENT", "query: is required")
    assert (line.code, line.reason, line.why) == (context.code, "REQUIRED", context.details)
    assert line.model == "m"


def test_a_cancelled_call_is_logged_as_cancelled(handle, caplog):
    async def leave(request, call):
        raise asyncio.CancelledError

    _, line = handle(leave, raises=asyncio.CancelledError)
    assert line.code == "CANCELLED"
    assert not [record for record in caplog.records if record.exc_info]


def test_an_unexpected_error_is_internal_and_logged_with_an_incident_id(handle, caplog):
    async def fail(request, call):
        raise ZeroDivisionError("/secret/path")

    context, line = handle(fail)
    assert (context.code, line.code) == ("INTERNAL", "INTERNAL")
    (record,) = (record for record in caplog.records if record.exc_info)
    assert context.details == f"internal error, incident {record.incident}"


# ---------------------------------------------------------------- streams


@pytest.fixture
def handle_stream(caplog):
    """Call a method that yields responses; return the call's line of the log."""
    caplog.set_level(logging.DEBUG, "polyhead.rpc")

    def handle_stream(stream, context, raises=None):
        handler = service_handler(
            "a.Service", {}, {"Rows": stream}, observer=CallObserver()
        ).service(SimpleNamespace(method="/a.Service/Rows"))
        assert handler.response_streaming
        assert not handler.request_streaming
        if raises is None:
            asyncio.run(handler.unary_stream(b"request", context))
        else:
            with pytest.raises(raises):
                asyncio.run(handler.unary_stream(b"request", context))
        (line,) = (record for record in caplog.records if record.message == "call")
        assert line.method == "a.Service/Rows"
        return line

    return handle_stream


async def three(request, call):
    call.log_fields["model"] = "m"
    for block in (b"a", b"b", b"c"):
        yield block


def test_a_stream_has_one_line_of_the_log(handle_stream):
    context = Context()
    line = handle_stream(three, context)
    assert context.written == [b"a", b"b", b"c"]
    assert (line.code, line.model, line.blocks) == ("OK", "m", 3)


def test_a_stream_that_fails_after_a_block(handle_stream):
    async def fail(request, call):
        yield b"a"
        raise InvalidRequestError("query", "is required", "REQUIRED")

    context = Context()
    line = handle_stream(fail, context)
    assert context.written == [b"a"]
    assert (context.code, line.code, line.blocks) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", 1)


def test_a_stream_whose_deadline_has_passed_does_not_begin(handle_stream):
    async def never(request, call):
        raise NotImplementedError
        yield b""

    context = Context(0.0)
    line = handle_stream(never, context)
    assert (context.code, line.code) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert not context.written


@pytest.mark.parametrize("error", [asyncio.CancelledError, grpc.aio.InternalError])
def test_a_client_that_disconnects_closes_the_stream(handle_stream, caplog, error):
    """gRPC cancels the handler, or a write fails first."""
    closed = []

    async def endless(request, call):
        try:
            while True:
                yield b"a"
        finally:
            closed.append(True)

    class Gone(Context):
        async def write(self, response):
            await super().write(response)
            if len(self.written) == 2:
                raise error

    line = handle_stream(endless, Gone(), raises=asyncio.CancelledError)
    assert closed == [True]
    assert (line.code, line.blocks) == ("CANCELLED", 1)
    assert not [record for record in caplog.records if record.exc_info]
