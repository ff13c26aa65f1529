"""Requests of many threads over one AttendStream: the blocking client's end of it."""

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
from polyhead._stream.messages import Outcome, PendingRequest
from polyhead._stream.pending_requests import PendingRequests
from polyhead.errors import ClientClosedError, PolyheadError, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyhead._calls.request import PreparedCall
    from polyhead.results import AttentionResult

    class _Call(Protocol):
        """What gRPC gives for a stream; its own class is private to it."""

        def __iter__(self) -> Iterator[bytes]: ...
        def cancel(self) -> object: ...


__all__ = ["Stream", "BlockingRequest", "made_elsewhere"]


def made_elsewhere() -> ClientClosedError:
    """Make the error for who uses a client in a fork of the process that made it."""
    return ClientClosedError("this Client was made in another process: make one in each process")


class BlockingRequest(PendingRequest):
    """A request whose result a thread waits for, or which is forgotten."""

    __slots__ = ("_outcomes", "_stream")

    def __init__(self, stream: Stream, number: int, call: PreparedCall, timeout_s: float) -> None:
        super().__init__(number, call, timeout_s)
        self._stream = stream
        self._outcomes: SimpleQueue[Outcome] = SimpleQueue()

    @property
    def is_done(self) -> bool:
        """Whether result would not wait."""
        return not self._outcomes.empty()

    def resolve(self, outcome: Outcome) -> None:
        """Give the outcome to the thread that waits for it."""
        self._outcomes.put(outcome)

    def result(self) -> AttentionResult:
        """Wait for the result. Raises what a unary call raises."""
        outcome = None
        try:
            outcome = self._wait()
        finally:
            if outcome is None:  # too late, or Ctrl-C
                self.abandon()
        if outcome is None:
            raise deadline_exceeded(self._stream.target, self.timeout_s)
        if isinstance(outcome, PolyheadError):
            try:
                raise outcome
            finally:
                del outcome  # or its traceback would lead to itself, in a cycle
        return outcome

    def abandon(self) -> None:
        """Give the request up: it is not sent, or if it has been, the server is told."""
        self._stream.abandon(self)

    def _wait(self) -> Outcome | None:
        """Wait for the outcome; None: there was none in time."""
        try:
            left_s = max(0.0, self.deadline - time.monotonic())
            return self._outcomes.get(timeout=min(left_s, threading.TIMEOUT_MAX))
        except Empty:
            return None


class Stream:
    """One AttendStream at a time, for requests of any number of threads.

    It is opened for the first request, and again when it has ended before all were answered. A
    message carries what is ready when the one before has been written: nothing waits for company.

    Two threads serve it: gRPC's own takes the messages, and one of ours reads the replies.
    """

    def __init__(self, open_call: Callable[[Iterator[bytes]], _Call], target: str) -> None:
        self._open_call = open_call
        self.target = target
        """As the client was given it."""
        self._ids = count(1)
        self._pending = PendingRequests(target)
        self._news = threading.Condition()  # its lock is that of everything here
        self._reader: threading.Thread | None = None
        self._call: _Call | None = None
        self._is_closed = False
        self._pid = os.getpid()
        self._wake: SimpleQueue[None] = SimpleQueue()

    @property
    def is_forked(self) -> bool:
        """Whether this process is a fork of that which made the stream, where its threads are.

        Locks that they held at that moment are never released here.
        """
        return os.getpid() != self._pid

    def send(self, call: PreparedCall, timeout_s: float) -> AttentionResult:
        """Send a request and wait for its result. Raises PolyheadError."""
        return self.submit(call, timeout_s).result()

    def submit(self, call: PreparedCall, timeout_s: float) -> BlockingRequest:
        """Send a request as soon as possible. Who does not wait for its result must abandon it."""
        if self.is_forked:
            raise made_elsewhere()
        waited = BlockingRequest(self, next(self._ids), call, timeout_s)
        with self._news:
            if self._is_closed:
                raise ClientClosedError("this Client is closed: make a new one")
            if self._reader is None:
                reader = threading.Thread(target=self._run, name="polyhead-stream", daemon=True)
                reader.start()
                self._reader = reader
            self._pending.add(waited)
            self._news.notify()
        return waited

    def abandon(self, call: BlockingRequest) -> None:
        """Give a request up, as the request itself puts it."""
        with self._news:
            self._pending.abandon(call)
            self._news.notify()

    def close(self) -> None:
        """End the stream; requests under way end with RequestCancelledError."""
        self.stop()
        with self._news:
            self._pending.cancel()
            reader = self._reader
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def stop(self) -> None:
        """End the stream soon.

        The garbage collector may call this anywhere, in a thread that holds any lock: a
        SimpleQueue's put may interrupt itself, an Event's set may not.
        """
        if self.is_forked:
            return
        self._is_closed = True
        self._wake.put(None)
        if (call := self._call) is not None:
            call.cancel()

    def _run(self) -> None:
        """Open streams as long as there is anything to be answered."""
        try:
            while True:
                pause = self._run_once()
                with suppress(Empty):
                    self._wake.get(timeout=pause)
                with self._news:
                    if self._is_closed:
                        self._pending.cancel()
                    if not self._pending.unanswered:
                        self._reader = None
                        return
        except BaseException:  # nobody foresaw it: nobody shall wait for what will not come
            with self._news:
                self._pending.cancel()
                self._reader = None
            raise

    def _run_once(self) -> float:
        """Open a stream and serve it until it ends; give the seconds to wait before the next."""
        messages = _Messages(self._news, self._pending)
        error: grpc.RpcError | ServerError | None = None
        self._call = call = self._open_call(messages)
        try:
            if self._is_closed:  # and perhaps found no call to cancel
                call.cancel()
            for data in call:
                with self._news:
                    self._pending.dispatch(data)
                    if self._pending.sends_one_at_a_time:
                        self._news.notify_all()  # the next may be written
                del data  # which may be large, and is not to wait here for the next
        except (grpc.RpcError, ServerError) as raised:
            error = raised
        finally:
            self._call = None
            call.cancel()
            messages.end()
        try:
            with self._news:
                return self._pending.end(error)
        finally:
            del error, call  # a traceback leads here: a cycle


class _Messages:
    """What gRPC's thread writes to one stream: it asks for a message when it has written one."""

    def __init__(self, news: threading.Condition, pending: PendingRequests) -> None:
        self._news = news
        self._pending = pending
        self._has_ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._news:
            while not self._has_ended:
                if message := self._pending.take_message():
                    return message
                self._news.wait()
        raise StopIteration

    def end(self) -> None:
        """Let gRPC's thread go."""
        with self._news:
            self._has_ended = True
            self._news.notify_all()
