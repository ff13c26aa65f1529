"""Requests of an attention block: bytes -> the domain's values. Protobuf stops here.

Numbers are not copied: what a request asks for is read from its skeleton (polyhead.framing), which
is the same for all requests of one form, and its arrays are views of its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from polyhead.framing import Lifter, Payloads, UnusualError, canonical, tag
from polyhead.tensors import TensorError, TensorLayout
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.bounds import check_bounds
from polyhead_server.call import TENSORS, AttentionCall, Stage, WeightsSelection
from polyhead_server.errors import InvalidRequestError, within
from polyhead_server.replies import Reply, rows_block, streamed, write_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead.alike import Span
    from polyhead_server.call import AttentionOutputs, Numbers, Timing
    from polyhead_server.engine import Model

    _DataTypes = frozenset[pb.DataType.ValueType]

__all__ = [
    "AttendRequest",
    "AttendRowsRequest",
    "MAX_ENTRIES",
    "Received",
    "StreamedPlace",
    "StreamedRequest",
    "canonical_bytes",
    "parse",
    "read_call",
]

_M = TypeVar("_M", bound=Message)

_MAX_REQUEST_ID_BYTES = 256
_JOINED_FROM_BYTES = 16 << 10
MAX_ENTRIES = 1 << 20
"""Most entries of a repeated field: more than a batch has sequences, and copied in no time."""
_FLOATS: _DataTypes = frozenset(
    (pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE)
)
_MASKS: _DataTypes = _FLOATS | {pb.DATA_TYPE_BOOL}
_POSITIONS: _DataTypes = frozenset((pb.DATA_TYPE_INT32, pb.DATA_TYPE_INT64))
_NAMES = {_FLOATS: "FLOAT, FLOAT16, BFLOAT16 or DOUBLE", _POSITIONS: "INT32 or INT64"}
_NAMES[_MASKS] = f"BOOL, {_NAMES[_FLOATS]}"


_DTYPES = dict.fromkeys(TENSORS, _FLOATS)
_DTYPES |= {"attn_mask": _MASKS, "positions": _POSITIONS, "key_positions": _POSITIONS}
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
                raise _refused_tensor(name, error) from error

    def numbers(self) -> Numbers:
        """View the arrays where they lie. Raises InvalidRequestError for a bool not 0 or 1."""
        arrays = {}
        for place, name, layout in self.call.tensors:
            try:
                arrays[name] = layout.read(self._data, self._spans[place][0])
            except TensorError as error:
                raise _refused_tensor(name, error) from error
        return arrays

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
        return write_reply(self.call, self.request_id, model, outputs, timing).joined()


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

    def numbers(self) -> Numbers:
        """View the arrays where they lie. Raises as AttendRequest does."""
        with within("call"):
            return super().numbers()

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


def _refused_tensor(field: str, error: TensorError) -> InvalidRequestError:
    return InvalidRequestError(f"{field}.{error.field}", str(error), error.reason)


def read_call(request: pb.AttendRequest) -> AttentionCall:
    """Read what is asked for. Raises InvalidRequestError for what contradicts itself."""
    layouts = {name: _layout(request, name, dtypes) for name, dtypes in _DTYPES.items()}
    query = layouts.pop("query")
    if query is None:
        raise InvalidRequestError("query", "is required, and not set", "REQUIRED")
    output_dtype = request.output_dtype or query.dtype
    _check_dtype("output_dtype", output_dtype, _FLOATS)
    return AttentionCall(
        model=request.model,
        model_version=request.model_version,
        query=query,
        kv_lengths=_entries("kv_lengths", request.kv_lengths),
        weights=_selection(request.attn_weights) if request.HasField("attn_weights") else None,
        output_dtype=output_dtype,
        need_output=not request.omit_output,
        **layouts,
    )


def _layout(request: pb.AttendRequest, field: str, dtypes: _DataTypes) -> TensorLayout | None:
    """Read one of the request's tensors, but for its data; None if it is not set."""
    if not request.HasField(field):  # type: ignore[arg-type]  # one of its tensor fields
        return None
    tensor: pb.Tensor = getattr(request, field)
    _check_dtype(f"{field}.dtype", tensor.dtype, dtypes)
    try:
        return TensorLayout.of(tensor)
    except TensorError as error:
        raise _refused_tensor(field, error) from error


def _selection(selection: pb.AttnWeightsSelection) -> WeightsSelection:
    try:
        stage = Stage(selection.stage or Stage.WEIGHTS)
    except ValueError:
        known = ", ".join(stage.name for stage in Stage)
        raise InvalidRequestError(
            "attn_weights.stage",
            f"expected one of {known}; got {selection.stage}",
            "INVALID_VALUE",
        ) from None
    if selection.dtype:
        _check_dtype("attn_weights.dtype", selection.dtype, _FLOATS)
    return WeightsSelection(
        heads=_entries("attn_weights.heads", selection.heads),
        queries=_entries("attn_weights.queries", selection.queries),
        top_k=selection.top_k,
        average_heads=selection.average_heads,
        stage=stage,
        dtype=selection.dtype or None,
    )


def _entries(field: str, values: Sequence[int]) -> tuple[int, ...]:
    if len(values) > MAX_ENTRIES:
        raise InvalidRequestError(
            field, f"expected at most {MAX_ENTRIES} entries; got {len(values)}", "TOO_MANY"
        )
    return tuple(values)


def _check_dtype(field: str, dtype: pb.DataType.ValueType, expected: _DataTypes) -> None:
    if dtype in expected:
        return
    known = pb.DataType.DESCRIPTOR.values_by_number.get(dtype)
    got = known.name.removeprefix("DATA_TYPE_") if known and dtype else dtype or "none"
    raise InvalidRequestError(field, f"expected {_NAMES[expected]}; got {got}", "UNSUPPORTED_DTYPE")
