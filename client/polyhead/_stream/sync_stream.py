"""AttendStream for Client. The requests of many threads share one stream."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol, Self

import grpc

from polyhead._rpc_errors import deadline_exceeded
from polyhead._stream.messages import PendingRequest
from polyhead._stream.outcomes import take_result
from polyhead._stream.pending_requests import PendingRequests
from polyhead.errors import ClientClosedError, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyhead._calls.request import PreparedCall
    from polyhead._stream.messages import Outcome
    from polyhead.results import AttentionResult

    class _Call(Protocol):
        """gRPC's object for a stream under way, whose class is private."""

        def __iter__(self) -> Iterator[bytes]: ...
        def cancel(self) -> object: ...


def forked_client_error() -> ClientClosedError:
    """Make the error for a client that is used in a fork of the process that made it."""
    return ClientClosedError("this Client was made in another process: make one in each process")


class BlockingRequest(PendingRequest):
    """A request whose result a thread waits for."""

    __slots__ = ("_outcomes", "_stream")

    def __init__(self, stream: Stream, number: int, call: PreparedCall, timeout_s: float) -> None:
        super().__init__(number, call, timeout_s)
        self._stream = stream
        self._outcomes: SimpleQueue[list[Outcome]] = SimpleQueue()

    @property
    def is_done(self) -> bool:
        """Whether the result is there, so that `result` would return at once."""
        return not self._outcomes.empty()

    def resolve(self, outcome: Outcome) -> None:
        """Hand the outcome to the thread that waits for it."""
        self._outcomes.put([outcome])

    def result(self) -> AttentionResult:
        """Wait for the result. Raises what a unary call raises."""
        outcomes: list[Outcome] = []
        try:
            with suppress(Empty):
                left_s = max(0.0, self.deadline - time.monotonic())
                outcomes = self._outcomes.get(timeout=min(left_s, threading.TIMEOUT_MAX))
        finally:
            if not outcomes:  # the deadline has passed, or Ctrl-C was pressed
                self.abandon()
        if not outcomes:
            stream = self._stream
            outcomes = [deadline_exceeded(stream.target, self.timeout_s, stream.is_connected)]
        return take_result(outcomes)

    def abandon(self) -> None:
        """Give the request up. It is not sent, or if it was sent, it is cancelled on the server."""
        self._stream.abandon(self)


class Stream:
    """Sends the requests of any number of threads over one AttendStream at a time.

    A stream is opened for the first request, and another one if it ends before all requests are
    answered. A message carries all requests that are ready when the previous message has been
    written, so no request waits for a timer.

    Two threads serve a stream: gRPC's thread takes the messages, and ours reads the responses.
    """

    def __init__(
        self,
        open_call: Callable[[Iterator[bytes]], _Call],
        target: str,
        is_connected: Callable[[], bool] = lambda: True,
    ) -> None:
        """``is_connected``: whether the channel has a connection."""
        self._open_call = open_call
        self.is_connected = is_connected
        self.target = target
        """The server's address, as it was given to the client."""
        self._ids = count(1)
        self._pending = PendingRequests(target)
        self._work_available = threading.Condition()  # its lock guards all attributes
        self._reader: threading.Thread | None = None
        self._call: _Call | None = None
        self._is_closed = False
        self._pid = os.getpid()
        self._wake: SimpleQueue[None] = SimpleQueue()

    @property
    def is_forked(self) -> bool:
        """Whether this process is a fork of the one that made the stream and has its threads.

        Locks that the threads held during the fork are never released in this process.
        """
        return os.getpid() != self._pid

    def send(self, call: PreparedCall, timeout_s: float) -> AttentionResult:
        """Send a request and wait for its result. Raises PolyheadError."""
        return self.submit(call, timeout_s).result()

    def submit(self, call: PreparedCall, timeout_s: float) -> BlockingRequest:
        """Send a request as soon as possible. The caller must then call result or abandon."""
        if self.is_forked:
            raise forked_client_error()
        request = BlockingRequest(self, next(self._ids), call, timeout_s)
        with self._work_available:
            if self._is_closed:
                raise ClientClosedError("this Client is closed: make a new one")
            if self._reader is None:
                reader = threading.Thread(target=self._run, name="polyhead-stream", daemon=True)
                reader.start()
                self._reader = reader
            self._pending.add(request)
            self._work_available.notify()
        return request

    def abandon(self, request: BlockingRequest) -> None:
        """Give a request up; see BlockingRequest.abandon."""
        with self._work_available:
            self._pending.abandon(request)
            self._work_available.notify()

    def close(self) -> None:
        """End the stream; requests under way end with RequestCancelledError."""
        self.stop()
        with self._work_available:
            self._pending.cancel()
            reader = self._reader
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def stop(self) -> None:
        """End the stream soon.

        The garbage collector may call this method at any point of any thread, so it takes no lock.
        A SimpleQueue's put may interrupt another put; an Event's set may not.
        """
        if self.is_forked:
            return
        self._is_closed = True
        self._wake.put(None)
        if (call := self._call) is not None:
            call.cancel()

    def _run(self) -> None:
        """Open streams as long as there are unanswered requests."""
        try:
            while True:
                pause = self._run_once()
                with suppress(Empty):
                    self._wake.get(timeout=pause)
                with self._work_available:
                    if self._is_closed:
                        self._pending.cancel()
                    if not self._pending.unanswered:
                        self._reader = None
                        return
        except BaseException:  # a bug: fail the requests, which would otherwise wait for ever
            with self._work_available:
                self._pending.cancel()
                self._reader = None
            raise

    def _run_once(self) -> float:
        """Open a stream and serve it until it ends; return the seconds to wait before the next."""
        errors = self._serve()
        with self._work_available:
            return self._pending.end(errors.pop() if errors else None)

    def _serve(self) -> list[grpc.RpcError | ServerError]:
        """Open a stream and serve it until it ends; return the error that ended it, if any.

        No local variable may refer to the call, because gRPC raises the call itself as the error,
        and the error's traceback refers to the local variables.
        """
        messages = _Messages(self._work_available, self._pending)
        self._call = self._open_call(messages)
        try:
            if self._is_closed:  # stop may have been called when there was no call to cancel
                self._call.cancel()
            for data in self._call:
                with self._work_available:
                    self._pending.dispatch(data)
                    if self._pending.sends_one_at_a_time:
                        self._work_available.notify_all()  # the next request may be written
                del data  # may be large, and would be held until the next message
        except (grpc.RpcError, ServerError) as error:
            return [error]
        finally:
            self._call.cancel()
            self._call = None
            messages.end()
        return []


class _Messages:
    """Iterates over the messages of one stream, in gRPC's thread.

    gRPC takes a message when it has written the previous one.
    """

    def __init__(self, work_available: threading.Condition, pending: PendingRequests) -> None:
        self._work_available = work_available
        self._pending = pending
        self._has_ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._work_available:
            while not self._has_ended:
                if message := self._pending.take_message():
                    return message
                self._work_available.wait()
        raise StopIteration

    def end(self) -> None:
        """End the iteration, which ends gRPC's thread."""
        with self._work_available:
            self._has_ended = True
            self._work_available.notify_all()
