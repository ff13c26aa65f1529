"""Checks, reads and answers ModelInferRequests for graphs that polyhead did not export."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead_server.engine.onnx_model import ANY
from polyhead_server.errors import InvalidRequestError, LimitExceededError, listed
from polyhead_server.planning.prepared_call import PreparedGraph
from polyhead_server.services.oip.datatypes import BYTES, DTYPES
from polyhead_server.services.oip.infer_format import INFER
from polyhead_server.services.oip.parameters import timeout_us_of
from polyhead_server.services.oip.response import Output, write_response
from polyhead_server.services.oip.to_attend_request import (
    checked_inputs,
    requested_outputs,
)
from polyhead_server.services.oip.typed_contents import pack_bytes, unpack_bytes

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from polyhead.wire.protobuf import Span
    from polyhead.wire.template import Match
    from polyhead_server.call import Arrays, ExecutionInfo, RunTimes, Timing
    from polyhead_server.engine.onnx_model import OnnxModel, TensorSpec
    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = ["GraphCall", "GraphRequest", "check_shape"]

_MAX_AXES = 64
"""Most axes that an array of NumPy has."""
_MAX_PRODUCT = 2**60 - 1
"""Largest product of the axes' lengths, zeros left out, that NumPy accepts for 8-byte elements."""


class _Input(NamedTuple):
    """An input of a request."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    def check_size(self, size: int) -> None:
        """Raise InvalidRequestError unless the elements have this size in bytes."""
        expected = self.num_elements * DTYPES[self.datatype].itemsize
        if size != expected:
            raise InvalidRequestError(
                f"{self.name}.data",
                f"shape {list(self.shape)} of {self.datatype} takes {expected} bytes; got {size}",
                "BYTE_SIZE_MISMATCH",
            )

    def read(self, data: bytes, start: int, end: int) -> NDArray[Any]:
        """View the elements, or copy them if they are strings. Raises InvalidRequestError."""
        if self.datatype == BYTES:
            return unpack_bytes(self.name, data[start:end], self.shape)
        dtype = DTYPES[self.datatype]
        if start == end:
            return np.empty(self.shape, dtype)
        array: NDArray[Any] = np.ndarray(self.shape, dtype, data, start)
        if self.datatype == "BOOL" and array.view(np.uint8).max() > 1:
            raise InvalidRequestError(
                f"{self.name}.data", "a bool is one byte, 0 or 1; got another", "INVALID_VALUE"
            )
        return array


@dataclass(frozen=True, slots=True)
class GraphCall:
    """The call that all requests of one template share: inputs and outputs of a graph."""

    prepared: PreparedGraph
    inputs: tuple[_Input, ...]
    """Inputs in the order of the raw contents."""
    outputs: tuple[TensorSpec, ...]
    """Requested outputs in the order of the response."""
    timeout_us: int
    """Microseconds that the caller waits, in addition to the RPC's deadline; 0: not set."""
    max_response_bytes: int

    @classmethod
    def of(
        cls, request: pb.ModelInferRequest, model: OnnxModel, max_response_bytes: int
    ) -> GraphCall:
        """Check all of a request but its raw contents. Raises InvalidRequestError."""
        specs = {spec.name: spec for spec in model.inputs}
        inputs = {
            tensor.name: _check_input(tensor, specs[tensor.name])
            for tensor in checked_inputs(request, specs)
        }
        for spec in model.inputs:
            if spec.name not in inputs and not spec.is_optional:
                raise InvalidRequestError(spec.name, "is required, and not given", "REQUIRED")
        outputs = {spec.name: spec for spec in model.outputs}
        names = tuple(requested_outputs(request, [*outputs]) or outputs)
        ordered = tuple(inputs.values())
        batch_size = _batch_size(ordered, model.max_batch_size)
        batch_key: Hashable | None = None
        if batch_size < model.max_batch_size:
            shapes = frozenset((name, shape[1:]) for name, _, shape in ordered)
            batch_key = model, shapes, names
        return cls(
            PreparedGraph(model, batch_key, names, batch_size),
            ordered,
            tuple(outputs[name] for name in names),
            timeout_us_of(request),
            max_response_bytes,
        )

    def check_sizes(self, raw_contents: Sequence[Span]) -> None:
        """Raise InvalidRequestError if raw contents do not fit their shape.

        Strings are checked when they are read.
        """
        for tensor, (start, end) in zip(self.inputs, raw_contents, strict=False):
            if tensor.datatype != BYTES:
                tensor.check_size(end - start)

    bound_bytes = 0  # because such calls are never bound

    def request(self, match: Match[Any]) -> GraphRequest:
        """Make the request of one message."""
        return GraphRequest(match, self)


class GraphRequest:
    """A ModelInferRequest for a graph."""

    __slots__ = ("_call", "_match", "request_id", "times")

    count = 1

    def __init__(self, match: Match[Any], call: GraphCall) -> None:
        """Raise InvalidRequestError if the id is not UTF-8."""
        self._match = match
        self._call = call
        self.request_id = INFER.read_request_id(match.payload(INFER.request_id))
        self.times: RunTimes | None = None
        """The times of the run; None before."""

    @property
    def prepared(self) -> PreparedGraph:
        """The prepared call."""
        return self._call.prepared

    def arrays(self) -> Arrays:
        """Return the inputs. Raises InvalidRequestError."""
        match = self._match
        return {
            tensor.name: tensor.read(match.data, *match.span(index))
            for index, tensor in enumerate(self._call.inputs)
        }

    def respond(
        self,
        executed_by: ExecutionInfo,
        outputs: Sequence[NDArray[Any]],
        timing: Timing,  # noqa: ARG002 - the response has no field for it
    ) -> bytes:
        """Write the ModelInferResponse. Raises LimitExceededError."""
        call = self._call
        _check_size(outputs, call.max_response_bytes)
        encoded = [
            _encode_output(spec, array) for spec, array in zip(call.outputs, outputs, strict=True)
        ]
        return write_response(executed_by, self.request_id, encoded).joined()

    def run_bound(self) -> None:
        """Return None, because such graphs are never bound."""

    def log_fields(self) -> dict[str, object]:
        """Return the request's fields for the log."""
        return {"request_id": self.request_id, "model": self._call.prepared.model.name}


def _check_size(outputs: Sequence[NDArray[Any]], limit: int) -> None:
    size = sum(output.nbytes for output in outputs)
    if size > limit:
        raise LimitExceededError(
            "max_response_bytes",
            f"the outputs are {size} bytes, over this server's {limit}; ask for fewer outputs or "
            "send less, or raise its --max-response-bytes",
            "RESPONSE_TOO_LARGE",
            expected=limit,
            got=size,
        )


def _check_input(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> _Input:
    if tensor.datatype != spec.datatype:
        raise InvalidRequestError(
            f"{spec.name}.datatype",
            f"expected {spec.datatype}; got {listed([tensor.datatype or 'none'])}",
            "UNSUPPORTED_DTYPE",
        )
    shape = tuple(tensor.shape)
    check_shape(spec, shape)
    return _Input(spec.name, spec.datatype, shape)


def check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Raise InvalidRequestError for a shape that does not fit, or that no array can have."""
    _check_axes(f"{spec.name}.shape", shape)
    # a shape without axes means a scalar, or that the graph does not specify the shape
    fits = not spec.shape or (
        len(shape) == len(spec.shape)
        and all(length in (ANY, got) for got, length in zip(shape, spec.shape, strict=True))
    )
    if not fits:
        raise InvalidRequestError(
            f"{spec.name}.shape",
            f"expected {list(spec.shape)}, where -1 is any length; got {list(shape)}",
            "SHAPE_MISMATCH",
        )


def _check_axes(field: str, shape: tuple[int, ...]) -> None:
    """Raise InvalidRequestError for a shape that no array can have."""
    problem = ""
    if len(shape) > _MAX_AXES:
        problem = f"expected at most {_MAX_AXES} axes; got {len(shape)}"
    elif min(shape, default=0) < 0:
        problem = f"expected lengths of 0 or more; got {list(shape)}"
    elif math.prod(filter(None, shape)) > _MAX_PRODUCT:  # without elements, too: (0, 2**61)
        problem = f"expected lengths whose product without zeros is below 2**60; got {list(shape)}"
    if problem:
        raise InvalidRequestError(field, problem, "INVALID_SHAPE")


def _batch_size(inputs: Sequence[_Input], max_batch_size: int) -> int:
    if not max_batch_size:
        return 1
    sizes = {tensor.name: tensor.shape[0] if tensor.shape else 0 for tensor in inputs}
    if len({*sizes.values()}) > 1:
        raise InvalidRequestError(
            "inputs",
            f"expected first axes of one length, the batch size; got {sizes}",
            "SHAPE_MISMATCH",
        )
    batch_size = max(sizes.values(), default=0)
    if not 0 < batch_size <= max_batch_size:
        raise InvalidRequestError(
            "inputs",
            f"expected a batch size from 1 to {max_batch_size}; got {batch_size}",
            "SHAPE_MISMATCH",
        )
    return batch_size


def _encode_output(spec: TensorSpec, array: NDArray[Any]) -> Output:
    if spec.datatype == BYTES:
        packed = pack_bytes(str(text).encode() for text in array.ravel())
        return spec.name, spec.datatype, array.shape, packed
    elements = np.ascontiguousarray(array, DTYPES[spec.datatype])
    # array.shape, because ascontiguousarray adds an axis to scalars; an empty view has no bytes
    return spec.name, spec.datatype, array.shape, elements.data if elements.nbytes else b""
