"""The unwritten and unanswered requests of a stream. Nothing here sends or waits.

Each client's stream (async_stream.py, sync_stream.py) has a PendingRequests. It fills messages with
the unwritten requests, gives each reply to its request in any order, and decides after the end of a
stream which requests are sent again.
"""

from __future__ import annotations

import random
import re
from collections import deque
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from polyhead._calls.response import parse_attend_responses
from polyhead._rpc_errors import from_rpc_error, from_rpc_status
from polyhead._stream.messages import cancelled_ids, read_replies
from polyhead.errors import (
    PolyheadError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    UnsupportedOperationError,
)
from polyhead.v1 import errors_pb2
from polyhead.wire.limits import MAX_CANCELLED_IDS, MAX_STREAMED_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from polyhead._stream.messages import Outcome, PendingRequest, ReplyGroup

_MAX_MESSAGE_BYTES = 2**20
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""Statuses of streams that ended because the server is gone; as for unary calls (channel.py)."""
_MAX_ATTEMPTS = 4
"""Number of streams that may end before a request fails; as for unary calls (channel.py)."""
_MIN_HALVED_BYTES = 16 << 10
"""If a message would have at least so many bytes, and few other requests are unanswered, it carries
half of the requests, so that server and client work at the same time. One AsyncClient with 16
callers got 1.45 times the answers (16 tokens of width 64). Halving repeatedly gave 0.73 times the
answers with 64 callers."""
_SIZE = re.compile(r"[0-9]{1,20}")
_MAX_ABANDONED = 64
"""Most abandoned requests that stay among the unwritten ones, besides one per unanswered one."""
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.1, 1.6
"""Pause between two streams in seconds. Four attempts take two seconds, in which a server starts on
a machine that has other work as well."""


class PendingRequests:
    """The requests of one stream that are not answered yet."""

    def __init__(self, target: str) -> None:
        self.unanswered: dict[bytes, PendingRequest] = {}
        """Requests by their ids, oldest first."""
        self._unwritten: deque[PendingRequest] = deque()
        self._cancelled_ids: list[bytes] = []
        self._max_message_bytes = _MAX_MESSAGE_BYTES
        self._target = target
        self._streams_without_reply = 0
        """Number of streams in a row that have ended without a reply."""
        self._last_suspect_id = 0
        """Id of the youngest request that was unanswered when a stream ended unexplained."""

    @property
    def sends_one_at_a_time(self) -> bool:
        """Whether each request is sent only when the one before is answered.

        This isolates a request that ends streams, after a stream has ended without a reason.
        """
        oldest = next(iter(self.unanswered.values()), None)
        return oldest is not None and oldest.number <= self._last_suspect_id

    def add(self, call: PendingRequest) -> None:
        """Add a request that is to be written."""
        self.unanswered[call.id] = call
        self._unwritten.append(call)

    def abandon(self, call: PendingRequest) -> None:
        """Stop waiting for a request's reply, and cancel it on the server if it was written."""
        if self._pop(call.id) is not None and call.is_written:
            self._cancelled_ids.append(call.id)
        if len(self._unwritten) > 2 * len(self.unanswered) + _MAX_ABANDONED:
            # Most are abandoned. They would accumulate if the server does not read.
            self._unwritten = deque(c for c in self._unwritten if c.id in self.unanswered)

    def take_message(self) -> bytes:
        """Return the next message to write; empty if there is nothing to write."""
        frames: list[bytes] = []
        room = self._max_message_bytes
        if self.sends_one_at_a_time:
            room = 0
            if any(call.is_written for call in self.unanswered.values()):
                return b""
        max_requests = self._max_requests_in_message()
        while self._unwritten and (
            not frames or (len(self._unwritten[0].frame) <= room and len(frames) < max_requests)
        ):
            call = self._unwritten.popleft()
            if call.id in self.unanswered:
                frames.append(call.frame)
                room -= len(call.frame)
                call.is_written = True
        if self._cancelled_ids:
            frames.append(cancelled_ids(self._cancelled_ids[:MAX_CANCELLED_IDS]))
            del self._cancelled_ids[:MAX_CANCELLED_IDS]
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _max_requests_in_message(self) -> int:
        """Return the number for the next message: all, or half of them (see _MIN_HALVED_BYTES)."""
        count = min(len(self._unwritten), MAX_STREAMED_REQUESTS)
        num_others = len(self.unanswered) - len(self._unwritten)
        has_few_others = num_others < count // 2
        if has_few_others and count * len(self._unwritten[0].frame) >= _MIN_HALVED_BYTES:
            return -(-count // 2)
        return count

    def dispatch(self, data: bytes) -> None:
        """Give each reply of a message to its request; drop replies to abandoned requests.

        Raises ServerError for bytes that are not an AttendStreamResponse.
        """
        self._streams_without_reply = 0
        for group in read_replies(data):
            requests = [self._pop(stream_id) for stream_id in group.ids]
            for request, outcome in zip(requests, self._outcomes(group, requests), strict=True):
                if request is not None and outcome is not None:
                    request.resolve(outcome)

    def _outcomes(
        self, group: ReplyGroup, requests: Sequence[PendingRequest | None]
    ) -> Sequence[Outcome | None]:
        """Read replies; None for a reply to an abandoned request."""
        if group.match is not None and group.error is None:
            expected = [None if request is None else request.expected for request in requests]
            return parse_attend_responses(expected, group.match)
        [request] = requests
        if request is None:
            return [None]
        if isinstance(group.error, ServerError):
            return [group.error]
        return [self._read_error(group.error or b"", request)]

    def end(self, error: grpc.RpcError | ServerError | None) -> float:
        """Handle the end of a stream: prepare unanswered requests for the next one, or fail them.

        ``error``: why the stream ended; None means OK. Returns the seconds to wait before the next
        stream.
        """
        self._cancelled_ids.clear()
        waiting = list(self.unanswered.values())
        limit = self._message_limit(error)
        if not (error is None or _is_lost(error) or limit):
            self._fail(waiting, error)
            return 0.0
        has_no_reason = error is not None and is_unexplained(error)
        if has_no_reason:
            self._last_suspect_id = max((call.number for call in waiting), default=0)
        for call in waiting:
            # a server that ends a stream with OK has answered every request that it has read
            call.attempts += call.is_written or (error is not None and not has_no_reason)
        self._fail([call for call in waiting if call.attempts >= _MAX_ATTEMPTS], error)
        if 0 < limit < self._max_message_bytes:
            self._max_message_bytes = limit  # each request may fit a message of its own
        elif limit:
            self._fail([call for call in waiting if len(call.frame) > limit], error)
        for call in self.unanswered.values():
            call.reset_for_resend()
        self._unwritten = deque(self.unanswered.values())
        self._streams_without_reply += 1
        if error is None and self._streams_without_reply == 1:
            return 0.0
        pause = min(_MIN_PAUSE_S * 4.0 ** (self._streams_without_reply - 1), _MAX_PAUSE_S)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - clients must not reconnect at once

    def cancel(self) -> None:
        """Fail all unanswered requests, because the client is being closed."""
        for call in list(self.unanswered.values()):
            self._pop(call.id)
            call.resolve(RequestCancelledError("close() ended the call", code="CANCELLED"))

    def _fail(
        self, calls: Iterable[PendingRequest], error: grpc.RpcError | ServerError | None
    ) -> None:
        for call in calls:
            if self._pop(call.id) is not None:
                call.resolve(self._explain(error, call))

    def _pop(self, call_id: bytes) -> PendingRequest | None:
        """Remove a request from the unanswered ones, and return it if it was there."""
        call = self.unanswered.pop(call_id, None)
        if call is not None:
            call.frame = b""  # it may be large, and a traceback may refer to the request
        return call

    def _explain(
        self, error: grpc.RpcError | ServerError | None, call: PendingRequest
    ) -> PolyheadError:
        """Make the error of a request from the end of its stream."""
        if error is None:
            return ServerUnavailableError(
                f"the server at {self._target} ended {_MAX_ATTEMPTS} streams without an answer",
                code="UNAVAILABLE",
            )
        if isinstance(error, ServerError):
            return ServerError(str(error))
        explained = from_rpc_error(error, target=self._target, timeout_s=call.timeout_s)
        if isinstance(explained, UnsupportedOperationError):
            explained = UnsupportedOperationError(
                f"the server at {self._target} does not know AttendStream, as older ones do not: "
                'use Client(..., transport="unary"), and attend in place of attend_many',
                code=explained.code,
            )
        explained.__cause__ = error
        return explained

    def _read_error(self, data: bytes, call: PendingRequest) -> PolyheadError:
        try:
            status = errors_pb2.RpcStatus.FromString(data)
        except DecodeError:
            return ServerError("the server's reply could not be read")
        return from_rpc_status(status, target=self._target, timeout_s=call.timeout_s)

    def _message_limit(self, error: grpc.RpcError | ServerError | None) -> int:
        """Return the server's message limit if a larger message ended the stream, or else 0."""
        if not isinstance(error, grpc.RpcError):
            return 0
        explained = from_rpc_error(error, target=self._target, timeout_s=0.0)
        if explained.reason != "REQUEST_TOO_LARGE":
            return 0
        # another server may send the reason without these figures
        limit = explained.figures.get("expected", "")
        return 2 * int(limit) if _SIZE.fullmatch(limit) else 0  # 2: as _rpc_errors.py says


def is_unexplained(error: grpc.RpcError | ServerError) -> bool:
    """Whether gRPC lost the reason for a stream's end, as it does if a write was under way."""
    return isinstance(error, grpc.RpcError) and error.details() == "Internal error from Core"


def _is_lost(error: grpc.RpcError | ServerError) -> bool:
    is_gone = isinstance(error, grpc.RpcError) and error.code() in _GONE
    return is_gone or is_unexplained(error)
