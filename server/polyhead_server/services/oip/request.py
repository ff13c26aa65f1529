"""ModelInferRequests of attention blocks: bytes -> the domain's values, and back.

As in polyhead_server.codec.request numbers are not copied, and what was read of a request is found
again by its skeleton: all of it but the raw contents and the id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from polyhead.wire.protobuf import Lifter, UnusualError, tag
from polyhead.wire.tensors import encode_elements
from polyhead_server.call import TENSORS
from polyhead_server.codec.request import Received, canonical_bytes, parse
from polyhead_server.codec.request_fields import read_call
from polyhead_server.codec.response import tensors_of
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.services.oip.datatypes import NAMES
from polyhead_server.services.oip.response import Output, write_response
from polyhead_server.services.oip.to_attend_request import (
    KV_LENGTHS,
    OUTPUTS,
    attend_request,
    timeout_of,
    wanted_outputs,
)
from polyhead_server.services.oip.typed_contents import as_raw, refuse_shared_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.v1.attention_pb2 import DataType
    from polyhead.wire.protobuf import Skeleton
    from polyhead_server.call import AttentionCall, AttentionOutputs, Timing
    from polyhead_server.codec.response import Reply
    from polyhead_server.engine.runtime import Model

__all__ = ["InferCall", "InferRequest"]

_MAX_RAWS = 32
_ID = _MAX_RAWS
_LIFTER = Lifter(
    {
        tag(pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER): tuple(range(_MAX_RAWS)),
        tag(pb.ModelInferRequest.ID_FIELD_NUMBER): _ID,
    },
    _MAX_RAWS + 1,
)
_NO_SPAN = 0, 0


class InferCall(NamedTuple):
    """What all requests of one form ask for."""

    call: AttentionCall
    raws: tuple[int, ...]
    """Of each of TENSORS which of the raw contents it is; -1: it is not there."""
    num_inputs: int
    outputs: tuple[str, ...]
    """In the order in which they are wanted."""
    timeout_us: int
    """The caller's own, beside that of the call; 0: none."""


class Reading(Protocol):
    """What all requests of one form ask of a graph that polyhead did not export."""

    @property
    def num_inputs(self) -> int:
        """How many raw contents there are to be."""

    @property
    def timeout_us(self) -> int:
        """As InferCall has it."""

    @property
    def model_name(self) -> str:
        """For the log."""

    def check_sizes(self, raws: Sequence[tuple[int, int]]) -> None:
        """Compare the sizes of the raw contents. Raises InvalidRequestError."""


class InferRequest(Received):
    """A ModelInferRequest. Raises InvalidRequestError when made of bytes that are none."""

    __slots__ = ("_meta", "_outputs", "_raws", "model_name", "timeout_us")

    _id_field = "id"

    def __init__(self, data: bytes) -> None:
        self.model_name = ""
        """Known once it was accepted."""
        self._data, self._meta, self._raws = _lifted(data)
        self._start = 0 if self._data is data else -1
        self.request_id = self._read_id(self._raws[_ID])
        self.skeleton = self._meta
        """What tells forms apart."""
        if KV_LENGTHS.encode() in self._meta:  # what is to be done depends on them
            lengths = self._lengths(parse(pb.ModelInferRequest, self._meta))
            # no other two can be joined to the same
            self.skeleton += lengths + len(lengths).to_bytes(8, "little")

    @property
    def message(self) -> pb.ModelInferRequest:
        """All but the numbers, anew each time. Raises InvalidRequestError."""
        request = parse(pb.ModelInferRequest, self._meta)
        refuse_shared_memory(request)
        for given in request.inputs:
            if given.HasField("contents"):
                raise InvalidRequestError(
                    f"{given.name}.contents",
                    "are given beside raw_input_contents: send all inputs the one way or the other",
                    "MIXED",
                )
        return request

    @property
    def data(self) -> bytes:
        """What the raw contents lie in."""
        return self._data

    @property
    def raws(self) -> list[tuple[int, int]]:
        """Where the raw contents lie, in the order of the inputs; what follows is not theirs."""
        return self._raws

    def read_call(self) -> InferCall:
        """Read what is asked of an attention block. Raises as AttendRequest.read_call does."""
        request = self.message
        outputs = wanted_outputs(request, OUTPUTS) or ["output"]
        names = [given.name for given in request.inputs]
        call = read_call(attend_request(request, outputs, self._lengths(request)))
        raws = tuple(names.index(name) if name in names else -1 for name in TENSORS)
        return InferCall(call, raws, len(names), tuple(outputs), timeout_of(request))

    def accept(self, reading: InferCall | Reading) -> None:  # type: ignore[override]  # its own
        """Take what was read, here or of an earlier request of the same form. Raises as there."""
        raws = self._raws
        num_raws = sum(1 for _, end in raws[:_MAX_RAWS] if end)
        if num_raws != reading.num_inputs:
            raise InvalidRequestError(
                "raw_input_contents",
                f"expected one for each of the {reading.num_inputs} inputs; got {num_raws}",
                "COUNT_MISMATCH",
            )
        self.timeout_us = reading.timeout_us
        if isinstance(reading, InferCall):
            self._outputs = reading.outputs
            self._spans = [raws[place] if place >= 0 else _NO_SPAN for place in reading.raws]
            self.model_name = reading.call.model
            super().accept(reading.call)
            return
        self.model_name = reading.model_name
        reading.check_sizes(raws)

    def log_fields(self) -> dict[str, object]:
        """What to tell of it in the log."""
        return {"request_id": self.request_id, "model": self.model_name}

    def reply(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> bytes:
        """Write the ModelInferResponse."""
        return self.write(model, outputs, timing).joined()

    def write(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> Reply:  # noqa: ARG002
        """Write the ModelInferResponse in parts; those with numbers are no bytes objects."""
        tensors = {name: (array, dtype) for name, array, dtype in tensors_of(self.call, outputs)}
        return write_response(
            model.name,
            model.version,
            self.request_id,
            [_output(name, *tensors[name]) for name in self._outputs],
        )

    def _lengths(self, request: pb.ModelInferRequest) -> bytes:
        """Give the elements of the input of key lengths; none, if it is not there."""
        for given, (start, end) in zip(request.inputs, self._raws, strict=False):
            if given.name == KV_LENGTHS:
                return self._data[start:end]
        return b""


def _output(name: str, array: NDArray[Any], dtype: DataType.ValueType) -> Output:
    elements = encode_elements(array, dtype)
    return name, NAMES[dtype], elements.shape, elements.data


def _lifted(data: bytes) -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """Take raw contents and id out of a request; typed contents are made raw before.

    Gives the bytes that they lie in, what is left, and where they are.
    """
    try:
        lifted = _LIFTER.lift(data, 0, len(data))
    except UnusualError:
        data = canonical_bytes(pb.ModelInferRequest, data)
        lifted = _lifted_again(data)
    if not lifted.spans[0][1]:
        request = parse(pb.ModelInferRequest, data)
        if request.inputs:
            data = as_raw(request).SerializeToString()
            lifted = _lifted_again(data)
    return data, lifted.data, lifted.spans


def _lifted_again(data: bytes) -> Skeleton:
    try:
        return _LIFTER.lift(data, 0, len(data))
    except UnusualError:
        raise InvalidRequestError(
            "raw_input_contents", f"expected at most {_MAX_RAWS}", "TOO_MANY"
        ) from None
