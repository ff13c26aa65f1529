"""ModelInferRequests of graphs that polyhead did not export: checked, read and answered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead_server.engine.onnx_model import ANY
from polyhead_server.errors import InvalidRequestError
from polyhead_server.scheduling.onnx_job import OnnxJob
from polyhead_server.services.oip.datatypes import BYTES, DTYPES
from polyhead_server.services.oip.response import Output, write_response
from polyhead_server.services.oip.to_attend_request import named_inputs, timeout_of, wanted_outputs
from polyhead_server.services.oip.typed_contents import pack_bytes, unpack_bytes

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.onnx_model import OnnxModel, TensorSpec
    from polyhead_server.inference import grpc_inference_pb2 as pb
    from polyhead_server.services.oip.request import InferRequest

__all__ = ["OnnxCall", "OnnxForm"]


class _Input(NamedTuple):
    """An input that is given."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    def check_size(self, size: int) -> None:
        """Raise InvalidRequestError if its elements cannot lie in so many bytes."""
        expected = self.num_elements * DTYPES[self.datatype].itemsize
        if size != expected:
            raise InvalidRequestError(
                f"{self.name}.data",
                f"shape {list(self.shape)} of {self.datatype} takes {expected} bytes; got {size}",
                "BYTE_SIZE_MISMATCH",
            )

    def read(self, data: bytes, start: int, end: int) -> NDArray[Any]:
        """View the elements, or make them, if they are strings. Raises InvalidRequestError."""
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


class OnnxCall(NamedTuple):
    """What all requests of one form ask of a graph."""

    model: OnnxModel
    inputs: tuple[_Input, ...]
    """In the order of the raw contents."""
    outputs: tuple[TensorSpec, ...]
    """In the order in which they are wanted."""
    batch_size: int
    """Length of the batch axis; 1 for models without."""
    timeout_us: int

    @property
    def num_inputs(self) -> int:
        """How many raw contents there are to be."""
        return len(self.inputs)

    @property
    def model_name(self) -> str:
        """For the log."""
        return self.model.name

    def check_sizes(self, raws: Sequence[tuple[int, int]]) -> None:
        """Compare the sizes of the raw contents; strings tell theirs as they are read."""
        for given, (start, end) in zip(self.inputs, raws, strict=False):
            if given.datatype != BYTES:
                given.check_size(end - start)

    @classmethod
    def of(cls, request: pb.ModelInferRequest, model: OnnxModel) -> OnnxCall:
        """Check all of a request but its numbers. Raises InvalidRequestError."""
        known = {spec.name: spec for spec in model.inputs}
        inputs = {
            given.name: _checked(given, known[given.name]) for given in named_inputs(request, known)
        }
        for spec in model.inputs:
            if spec.name not in inputs and not spec.is_optional:
                raise InvalidRequestError(spec.name, "is required, and not given", "REQUIRED")
        outputs = {spec.name: spec for spec in model.outputs}
        names = wanted_outputs(request, [*outputs]) or [*outputs]
        ordered = tuple(inputs.values())
        return cls(
            model,
            ordered,
            tuple(outputs[name] for name in names),
            _batch_size(ordered, model.max_batch_size),
            timeout_of(request),
        )

    @property
    def batch_key(self) -> Hashable | None:
        """What it has in common with calls that it can share a run with; None: with none."""
        if self.batch_size >= self.model.max_batch_size:
            return None
        shapes = frozenset((name, shape[1:]) for name, _, shape in self.inputs)
        return self.model, shapes, self.outputs


class OnnxForm(NamedTuple):
    """Requests of a graph that differ in nothing but their numbers and ids."""

    reading: OnnxCall
    outputs: tuple[str, ...]
    """Names of those that are wanted."""
    batch_key: Hashable | None
    """As OnnxCall has it."""
    max_response_bytes: int

    @classmethod
    def of(cls, call: OnnxCall, max_response_bytes: int) -> OnnxForm:
        """Note what all jobs of such calls have in common."""
        return cls(
            call, tuple(spec.name for spec in call.outputs), call.batch_key, max_response_bytes
        )

    def job(self, request: InferRequest, deadline: Deadline) -> OnnxJob[bytes]:
        """Make what runs a request of this form."""
        call = self.reading
        return OnnxJob(
            call.model,
            _OnnxRequest(call, request),
            deadline,
            outputs=self.outputs,
            batch_size=call.batch_size,
            batch_key=self.batch_key,
            max_response_bytes=self.max_response_bytes,
        )


class _OnnxRequest:
    """A request and what was read of its form."""

    def __init__(self, call: OnnxCall, request: InferRequest) -> None:
        self._call = call
        self._request = request

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Read the inputs. Raises InvalidRequestError."""
        data = self._request.data
        spans = zip(self._call.inputs, self._request.raws, strict=False)
        return {given.name: given.read(data, *span) for given, span in spans}

    def respond(self, outputs: Sequence[NDArray[Any]]) -> bytes:
        """Write the ModelInferResponse."""
        call = self._call
        written = [_written(spec, array) for spec, array in zip(call.outputs, outputs, strict=True)]
        request_id = self._request.request_id
        return write_response(call.model.name, call.model.version, request_id, written).joined()


def _checked(given: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> _Input:
    if given.datatype != spec.datatype:
        raise InvalidRequestError(
            f"{spec.name}.datatype",
            f"expected {spec.datatype}; got {given.datatype or 'none'}",
            "UNSUPPORTED_DTYPE",
        )
    shape = tuple(given.shape)
    # a shape without axes stands for scalars, and for shapes that the graph says nothing of
    fits = not spec.shape or (
        len(shape) == len(spec.shape)
        and all(wanted in (ANY, got) for got, wanted in zip(shape, spec.shape, strict=True))
    )
    if not fits or min(shape, default=0) < 0:
        raise InvalidRequestError(
            f"{spec.name}.shape",
            f"expected {list(spec.shape)}, where -1 is any length; got {list(shape)}",
            "SHAPE_MISMATCH",
        )
    return _Input(spec.name, spec.datatype, shape)


def _batch_size(inputs: Sequence[_Input], max_batch_size: int) -> int:
    if not max_batch_size:
        return 1
    sizes = {given.name: given.shape[0] if given.shape else 0 for given in inputs}
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


def _written(spec: TensorSpec, array: NDArray[Any]) -> Output:
    if spec.datatype == BYTES:
        packed = pack_bytes(str(text).encode() for text in array.ravel())
        return spec.name, spec.datatype, array.shape, packed
    elements = np.ascontiguousarray(array, DTYPES[spec.datatype])
    # a view of nothing has no bytes to give; ascontiguousarray makes an axis of none
    return spec.name, spec.datatype, array.shape, elements.data if elements.nbytes else b""
