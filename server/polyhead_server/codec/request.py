"""Requests of an attention block: bytes -> domain values. Above this module there is no protobuf.

Arrays are views of the request's bytes, without a copy. The rest of a request is parsed once for
each template (polyhead.wire.template).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from polyhead.wire.tensors import TensorError
from polyhead_server.codec.message_format import ATTEND, ATTEND_ROWS, STREAMED
from polyhead_server.codec.request_fields import tensor_error
from polyhead_server.codec.response import Response, rows_block, streamed_responses, write_response
from polyhead_server.errors import prefix_field_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead.wire.protobuf import Span
    from polyhead.wire.template import Match
    from polyhead_server.call import (
        Arrays,
        AttentionCall,
        AttentionOutputs,
        ExecutionInfo,
        RunTimes,
        Timing,
    )

__all__ = [
    "AttendRequest",
    "AttendRowsRequest",
    "DecodedRequest",
    "SingleRequest",
    "StreamedRequests",
    "check_payload_sizes",
]

_JOINED_FROM_BYTES = 16 << 10


def check_payload_sizes(call: AttentionCall, spans: Sequence[Span]) -> None:
    """Raise InvalidRequestError (BYTE_SIZE_MISMATCH) if a tensor's bytes do not fit its shape."""
    for index, name, layout in call.tensors:
        start, end = spans[index]
        try:
            layout.check_size(end - start)
        except TensorError as error:
            raise tensor_error(name, error) from error


class DecodedRequest:
    """One or several requests of one template: their call, and the spans of their arrays."""

    __slots__ = ("call", "count", "match", "request_id", "times")

    message_format = ATTEND

    def __init__(self, match: Match[Any], call: AttentionCall) -> None:
        """Raise InvalidRequestError for an id that is not text."""
        self.match = match
        self.count = match.count
        """Number of requests."""
        self.call = call
        self.request_id = self.message_format.read_request_id(
            match.payload(self.message_format.request_id)
        )
        self.times: RunTimes | None = None
        """The times of the requests' run; None before."""

    @property
    def nbytes(self) -> int:
        """Size of all the requests in bytes."""
        return self.match.count * self.match.size

    def arrays(self) -> Arrays:
        """Return the arrays of all the requests, one after the other along the first axis.

        The arrays of a single request are views of its bytes. Raises InvalidRequestError for a bool
        that is not 0 or 1.
        """
        match, arrays = self.match, {}
        for index, name, layout in self.call.tensors:
            try:
                if match.count == 1:
                    arrays[name] = layout.read(match.data, match.offset(index))
                else:
                    arrays[name] = layout.times(match.count).read(b"".join(match.column(index)))
            except TensorError as error:
                raise tensor_error(name, error) from error
        return arrays

    def log_fields(self) -> dict[str, object]:
        """Return the fields of each request for the log."""
        return {"request_id": self.request_id, "model": self.call.model}


class SingleRequest(DecodedRequest, ABC):
    """A request with one response, which is a message of its own."""

    __slots__ = ()

    @abstractmethod
    def write(
        self, executed_by: ExecutionInfo, outputs: AttentionOutputs, timing: Timing
    ) -> Response:
        """Write the response in parts. The parts of arrays are views of the outputs."""

    def respond(
        self, executed_by: ExecutionInfo, outputs: AttentionOutputs, timing: Timing
    ) -> bytes:
        """Write the response."""
        return self.write(executed_by, outputs, timing).joined()


class AttendRequest(SingleRequest):
    """An AttendRequest."""

    __slots__ = ()

    def write(
        self, executed_by: ExecutionInfo, outputs: AttentionOutputs, timing: Timing
    ) -> Response:
        """Write the AttendResponse in parts."""
        return write_response(self.call, self.request_id, executed_by, outputs, timing)


class StreamedRequests(DecodedRequest):
    """Requests of an AttendStream: a group of one message, or a single one."""

    __slots__ = ("ids",)

    message_format = STREAMED

    def __init__(self, match: Match[Any], call: AttentionCall, ids: list[bytes]) -> None:
        """``ids``: the requests' ids in the stream, as the varints that were sent."""
        nbytes = match.count * match.size
        if 2 * nbytes < len(match.data):  # views would keep the whole message in memory
            match = match.detached()
        super().__init__(match, call)
        self.ids = ids

    def respond(
        self, executed_by: ExecutionInfo, outputs: AttentionOutputs, timing: Timing
    ) -> Response:
        """Write an AttendStreamResponse with a response to each request."""
        response = write_response(
            self.call, self.request_id, executed_by, outputs, timing, count=self.count
        )
        response = streamed_responses(self.ids, response)
        # The parts would keep ONNX Runtime's memory until they are sent. It never gives it back.
        return response if response.size < _JOINED_FROM_BYTES else Response.of(response.joined())

    def part(self, first: int, count: int) -> StreamedRequests:
        """Return ``count`` of these requests, from request ``first`` on."""
        ids = self.ids[first : first + count]
        return StreamedRequests(self.match.part(first, count), self.call, ids)

    def split(self) -> list[StreamedRequests]:
        """Return each request by itself."""
        return [self.part(index, 1) for index in range(self.count)]

    def without(self, stream_id: bytes) -> list[StreamedRequests]:
        """Return the requests before and after the request with this id."""
        index = self.ids.index(stream_id)
        parts = (0, index), (index + 1, self.count - index - 1)
        return [self.part(first, count) for first, count in parts if count]


class AttendRowsRequest(DecodedRequest):
    """An AttendRowsRequest."""

    __slots__ = ()

    message_format = ATTEND_ROWS

    def arrays(self) -> Arrays:
        """Return the arrays. Raises as DecodedRequest does."""
        with prefix_field_path("call"):
            return super().arrays()

    def respond(
        self, executed_by: ExecutionInfo, first_row: int, outputs: AttentionOutputs, timing: Timing
    ) -> bytes:
        """Write an AttendRowsResponse: a block of rows."""
        block = write_response(self.call, self.request_id, executed_by, outputs, timing)
        return rows_block(first_row, block).joined()
