"""Requests of an attention block: bytes -> the domain's values. Protobuf stops here.

Arrays are not copied: what a request asks for is read from its skeleton
(polyhead.wire.protobuf), which is the same for all requests of one form, and its arrays are views
of its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import Lifter, Payloads, UnusualError, canonical, tag
from polyhead.wire.tensors import TensorError
from polyhead_server.call import TENSORS, AttentionCall
from polyhead_server.codec.parse_limits import check_bounds
from polyhead_server.codec.request_fields import read_call, refused_tensor
from polyhead_server.codec.response import Reply, rows_block, streamed, write_reply
from polyhead_server.errors import InvalidRequestError, within

if TYPE_CHECKING:
    from polyhead.wire.template import Span
    from polyhead_server.call import Arrays, AttentionOutputs, Timing
    from polyhead_server.engine.runtime import Model

__all__ = [
    "AttendRequest",
    "AttendRowsRequest",
    "Received",
    "StreamedPlace",
    "StreamedRequest",
    "canonical_bytes",
    "parse",
]

_M = TypeVar("_M", bound=Message)

_MAX_REQUEST_ID_BYTES = 256
_JOINED_FROM_BYTES = 16 << 10
_ID_SPAN = len(TENSORS)


def _payloads() -> Payloads:
    """An AttendRequest's payloads: the tensors' data in the order of TENSORS, and request_id.

    The id is no number, and would make every skeleton another.
    """
    numbers = pb.AttendRequest.DESCRIPTOR.fields_by_name
    data = tag(pb.Tensor.DATA_FIELD_NUMBER)
    payloads: dict[int, int | Payloads] = {
        tag(numbers[name].number): {data: index} for index, name in enumerate(TENSORS)
    }
    return payloads | {tag(numbers["request_id"].number): _ID_SPAN}


_ATTEND = Lifter(_payloads(), _ID_SPAN + 1)
_ATTEND_ROWS = Lifter({tag(pb.AttendRowsRequest.CALL_FIELD_NUMBER): _payloads()}, _ID_SPAN + 1)


def parse(message_type: type[_M], data: bytes) -> _M:
    """Parse a message.

    Raises InvalidRequestError for bytes that are none (MALFORMED), or too many things (TOO_MANY).
    """
    check_bounds(message_type, data)
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise _malformed(message_type) from None


class Received:
    """A request as it came: its bytes, and where in them its numbers are."""

    __slots__ = ("_data", "_spans", "_start", "call", "request_id", "skeleton")

    call: AttentionCall
    _id_field = "request_id"

    def __init__(
        self, message_type: type[Message], lifter: Lifter, data: bytes, start: int, end: int
    ) -> None:
        self._start = start
        try:
            skeleton = lifter.lift(data, start, end)
        except UnusualError:
            data = canonical_bytes(message_type, data[start:end])
            skeleton = lifter.lift(data, 0, len(data))
            self._start = -1
        self._data = data
        self.skeleton, self._spans = skeleton
        """All but the numbers and the id, as a message: the same for all requests of one form."""
        self.request_id = self._read_id(self._spans[_ID_SPAN]) if self._spans[_ID_SPAN][1] else ""

    def accept(self, call: AttentionCall) -> None:
        """Take what was read from the skeleton, here or of an earlier request of the same form.

        Raises InvalidRequestError (BYTE_SIZE_MISMATCH) if a tensor's bytes are not what its shape
        takes.
        """
        self.call = call
        for place, name, layout in call.tensors:
            start, end = self._spans[place]
            try:
                layout.check_size(end - start)
            except TensorError as error:
                raise refused_tensor(name, error) from error

    def arrays(self) -> Arrays:
        """View the arrays where they lie. Raises InvalidRequestError for a bool not 0 or 1."""
        arrays = {}
        for place, name, layout in self.call.tensors:
            try:
                arrays[name] = layout.read(self._data, self._spans[place][0])
            except TensorError as error:
                raise refused_tensor(name, error) from error
        return arrays

    @property
    def tensor_spans(self) -> dict[str, Span] | None:
        """Where in the call its tensors' numbers lie, by name.

        None if it had to be written anew, and lies nowhere.
        """
        begin = self._start
        if begin < 0:
            return None
        spans = [(name, self._spans[place]) for place, name, _ in self.call.tensors]
        return {name: (start - begin, end - begin) for name, (start, end) in spans}

    def log_fields(self) -> dict[str, object]:
        """What to tell of it in the log."""
        model = self.call.model if hasattr(self, "call") else ""
        return {"request_id": self.request_id, "model": model}

    def _read_id(self, span: Span) -> str:
        start, end = span
        if end - start > _MAX_REQUEST_ID_BYTES:
            raise InvalidRequestError(
                self._id_field, f"expected at most {_MAX_REQUEST_ID_BYTES} bytes", "INVALID_VALUE"
            )
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            raise _malformed(pb.AttendRequest) from None


class _SingleRequest(Received):
    """What is, or holds, nothing but an AttendRequest."""

    __slots__ = ()

    def read_call(self) -> AttentionCall:
        """Read the skeleton.

        Raises InvalidRequestError for a message that contradicts itself; whether it fits a model is
        for validation to say.
        """
        return read_call(parse(pb.AttendRequest, self.skeleton))


class AttendRequest(_SingleRequest):
    """An AttendRequest. Raises InvalidRequestError when made of bytes that are none."""

    __slots__ = ()

    def __init__(self, data: bytes) -> None:
        super().__init__(pb.AttendRequest, _ATTEND, data, 0, len(data))

    def reply(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> bytes:
        """Write the AttendResponse."""
        return self.write(model, outputs, timing).joined()

    def write(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> Reply:
        """Write the AttendResponse in parts; those with numbers are no bytes objects."""
        return write_reply(self.call, self.request_id, model, outputs, timing)


class StreamedPlace(NamedTuple):
    """Where in a message of a stream a request lies, and what is said beside it."""

    id: bytes
    """The varint that the caller knows it by, as he wrote it."""
    timeout_us: int
    start: int
    end: int


class StreamedRequest(_SingleRequest):
    """An AttendRequest within an AttendStream."""

    __slots__ = ("ids", "size")

    def __init__(self, place: StreamedPlace, data: bytes) -> None:
        start, end = place.start, place.end
        self.ids = [place.id]
        self.size = end - start
        """In bytes."""
        if 2 * self.size < len(data):  # else it would keep the rest of the message while it waits
            data, start, end = data[start:end], 0, self.size
        super().__init__(pb.AttendRequest, _ATTEND, data, start, end)

    def reply(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> Reply:
        """Write an AttendStreamResponse with this one reply."""
        reply = streamed(
            self.ids[0], write_reply(self.call, self.request_id, model, outputs, timing)
        )
        # until it is sent, its parts would keep ONNX Runtime's memory, which nothing gives back
        return reply if reply.size < _JOINED_FROM_BYTES else Reply([reply.joined()], reply.size)


class AttendRowsRequest(Received):
    """An AttendRowsRequest. Raises InvalidRequestError when made of bytes that are none."""

    __slots__ = ()

    _id_field = "call.request_id"

    def __init__(self, data: bytes) -> None:
        super().__init__(pb.AttendRowsRequest, _ATTEND_ROWS, data, 0, len(data))

    def read_call(self) -> tuple[AttentionCall, int]:
        """Read the skeleton: the call, and how many rows a block shall have."""
        message = parse(pb.AttendRowsRequest, self.skeleton)
        with within("call"):
            return read_call(message.call), message.rows_per_block

    def accept(self, call: AttentionCall) -> None:
        """Take the call. Raises as AttendRequest does."""
        with within("call"):
            super().accept(call)

    def arrays(self) -> Arrays:
        """View the arrays where they lie. Raises as AttendRequest does."""
        with within("call"):
            return super().arrays()

    def reply(
        self, model: Model, first_row: int, outputs: AttentionOutputs, timing: Timing
    ) -> bytes:
        """Write an AttendRowsResponse: a block of rows."""
        block = write_reply(self.call, self.request_id, model, outputs, timing)
        return rows_block(first_row, block).joined()


def canonical_bytes(message_type: type[Message], data: bytes) -> bytes:
    """Write a message as protobuf does. Raises as parse does."""
    check_bounds(message_type, data)
    try:
        return canonical(message_type, data)
    except DecodeError:
        raise _malformed(message_type) from None


def _malformed(message_type: type[Message]) -> InvalidRequestError:
    name = message_type.DESCRIPTOR.full_name
    return InvalidRequestError(
        "request", f"expected a serialized {name}; the bytes are not one", "MALFORMED"
    )
