"""Check and read the inputs of a ModelInferRequest for a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead.v1 import tensor_pb2
from polyhead.wire.tensors import TensorError, TensorLayout
from polyhead_server.codec.request_fields import tensor_error
from polyhead_server.errors import InvalidRequestError, listed
from polyhead_server.services.oip.datatypes import BYTES, DATATYPES
from polyhead_server.services.oip.onnx_request import check_shape
from polyhead_server.services.oip.parameters import read_layer
from polyhead_server.services.oip.to_attend_request import checked_inputs
from polyhead_server.services.oip.typed_contents import unpack_bytes
from polyhead_server.services.oip.whole.signature import (
    MAX_BATCH_SIZE,
    TEXT_PAIR,
    TYPE_IDS,
    WholeInput,
    inputs_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.wire.protobuf import Span
    from polyhead.wire.template import Match
    from polyhead_server.call import LayerName
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = ["RequestInputs"]

_DATATYPES = {
    BYTES: (BYTES,),
    "INT64": ("INT64", "INT32"),
    "FP32": ("FP32", "FP16", "BF16", "FP64"),
}
"""The datatypes that an input may have, by the datatype of its specification."""


_DESCRIPTIONS = {TYPE_IDS: "has the types", TEXT_PAIR: "has the second texts"}
"""What inputs are of those that they describe; all others are masks."""


class _RequestInput(NamedTuple):
    """One input of a request."""

    input: WholeInput
    shape: tuple[int, ...]
    layout: TensorLayout | None
    """None if the input is texts."""
    content_index: int
    """Index of its raw contents."""

    def read(self, match: Match[Any]) -> NDArray[Any]:
        """Return the elements. Raises InvalidRequestError."""
        if self.layout is None:
            return unpack_bytes(self.input.spec.name, match.payload(self.content_index), self.shape)
        return self.layout.read(match.data, match.offset(self.content_index))


class RequestInputs:
    """The inputs that all requests of one template share."""

    def __init__(self, request: pb.ModelInferRequest, model: WholeModel) -> None:
        """Raise InvalidRequestError if they do not fit the model or each other."""
        model_inputs = inputs_of(model)
        self._inputs = {
            tensor.name: _check_input(index, tensor, model_inputs[tensor.name])
            for index, tensor in enumerate(checked_inputs(request, model_inputs))
        }
        self.first_layer = _first_layer(request)
        """The layer that hidden states enter, as the request names it."""
        self._check_alternatives(model, model_inputs)
        self._check_described()
        self.has_texts = "text" in self._inputs
        entered = self.first_layer.stack if self.first_layer else ""
        self.stacks = frozenset(
            tensor_input.input.stack or entered or model.config.stacks[0].name
            for tensor_input in self._inputs.values()
            if not tensor_input.input.describes
        )
        """The stacks that run."""

    def check_sizes(self, raw_contents: Sequence[Span]) -> None:
        """Raise InvalidRequestError if raw contents do not fit their shape.

        Texts are checked when they are read.
        """
        for name, tensor_input in self._inputs.items():
            start, end = raw_contents[tensor_input.content_index]
            if tensor_input.layout is not None:
                try:
                    tensor_input.layout.check_size(end - start)
                except TensorError as error:
                    raise tensor_error(name, error) from error

    def texts(self, match: Match[Any]) -> tuple[str, ...]:
        """Return the texts of a request. Raises InvalidRequestError."""
        return self._read_texts("text", match)

    def text_pairs(self, match: Match[Any]) -> tuple[str, ...]:
        """Return the second texts of a request. Raises InvalidRequestError."""
        return self._read_texts(TEXT_PAIR, match)

    def _read_texts(self, name: str, match: Match[Any]) -> tuple[str, ...]:
        return tuple(self._inputs[name].read(match).ravel()) if name in self._inputs else ()

    def arrays(self, match: Match[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a request by the names that a ForwardCall has for them."""
        return {
            each.input.field: each.read(match)
            for each in self._inputs.values()
            if each.layout is not None and not each.input.is_mask
        }

    def lengths(self, match: Match[Any]) -> dict[str, tuple[int, ...]]:
        """Return the lengths of a request's sequences. Raises InvalidRequestError."""
        return {
            each.input.field: _lengths_of(name, each.read(match))
            for name, each in self._inputs.items()
            if each.input.is_mask
        }

    def _check_alternatives(self, model: WholeModel, inputs: dict[str, WholeInput]) -> None:
        """Raise InvalidRequestError unless there is one input, besides those of a decoder."""
        config = model.config
        decoder = config.stacks[-1].name if config.has_memory else None
        names = [
            name for name, each in inputs.items() if not each.describes and each.stack != decoder
        ]
        present = [name for name in names if name in self._inputs]
        is_decoding = {"encoder_hidden_states", "decoder_input_ids"} <= self._inputs.keys()
        if len(present) > 1 or not (present or is_decoding):
            expected = f"one of {', '.join(names)}"
            if decoder:
                expected += ", or encoder_hidden_states with decoder_input_ids"
            got = " and ".join(present) or "no such input"
            if len(config.stacks) > 1 and not decoder and present:
                got += ": a request runs one tower, so send one for each"
            raise InvalidRequestError("inputs", f"expected {expected}; got {got}", "REQUIRED")

    def _check_described(self) -> None:
        """Raise InvalidRequestError for a mask without its tokens, or one of another shape."""
        for name, tensor_input in self._inputs.items():
            described = tensor_input.input.describes
            if not described:
                continue
            given = next((each for each in described if each in self._inputs), None)
            if given is None:
                is_what = _DESCRIPTIONS.get(name, "is the mask")
                raise InvalidRequestError(
                    name,
                    f"{is_what} of {' or '.join(described)}, which is not given; leave it out",
                    "NOT_APPLICABLE",
                )
            shape = self._inputs[given].shape[:2]
            if tensor_input.shape != shape:
                raise InvalidRequestError(
                    f"{name}.shape",
                    f"expected {list(shape)}, as {given} has; got {list(tensor_input.shape)}",
                    "SHAPE_MISMATCH",
                )


def _first_layer(request: pb.ModelInferRequest) -> LayerName | None:
    """Return the layer that hidden states enter, if the request names it."""
    parameters = request.parameters
    if "first_layer" not in parameters:
        return None
    return read_layer("first_layer", parameters["first_layer"])


def _check_input(
    index: int, tensor: pb.ModelInferRequest.InferInputTensor, model_input: WholeInput
) -> _RequestInput:
    """Check type and shape of an input. Raises InvalidRequestError."""
    name, datatypes = tensor.name, _DATATYPES[model_input.spec.datatype]
    if tensor.datatype not in datatypes:
        raise InvalidRequestError(
            f"{name}.datatype",
            f"expected {' or '.join(datatypes)}; got {listed([tensor.datatype or 'none'])}",
            "UNSUPPORTED_DTYPE",
        )
    spec, shape = model_input.spec, tuple(tensor.shape)
    if spec.datatype == BYTES and len(shape) == 1:
        spec = spec._replace(shape=spec.shape[:1])
    check_shape(spec, shape)
    if not 0 < shape[0] <= MAX_BATCH_SIZE:
        raise InvalidRequestError(
            f"{name}.shape",
            f"expected a batch size from 1 to {MAX_BATCH_SIZE}; got {shape[0]}",
            "SHAPE_MISMATCH",
        )
    if spec.datatype == BYTES:
        return _RequestInput(model_input, shape, None, index)
    dtype = DATATYPES[tensor.datatype]
    try:
        layout = TensorLayout.of(tensor_pb2.Tensor(dtype=dtype, shape=shape))
    except TensorError as error:
        raise tensor_error(name, error) from error
    return _RequestInput(model_input, shape, layout, index)


def _lengths_of(name: str, mask: NDArray[Any]) -> tuple[int, ...]:
    """Return the number of valid tokens of each sequence. Raises InvalidRequestError."""
    lengths = np.count_nonzero(mask, axis=1)
    wrong = np.flatnonzero((mask != (np.arange(mask.shape[1]) < lengths[:, None])).any(1))
    if wrong.size:
        raise InvalidRequestError(
            f"{name}[{wrong[0]}]",
            "expected ones and then zeros, because padding follows the tokens; pad on the right",
            "INVALID_VALUE",
        )
    if not lengths.all():
        raise InvalidRequestError(
            f"{name}[{lengths.argmin()}]",
            "expected at least one token; got zeros only",
            "OUT_OF_RANGE",
        )
    values: list[int] = lengths.tolist()
    return tuple(values)
