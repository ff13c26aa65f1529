"""What the inputs of a ModelInferRequest for a whole model hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead.v1 import tensor_pb2
from polyhead.wire.tensors import TensorError, TensorLayout
from polyhead_server.codec.request_fields import refused_tensor
from polyhead_server.errors import InvalidRequestError, listed
from polyhead_server.services.oip.datatypes import BYTES, DATATYPES
from polyhead_server.services.oip.onnx_request import check_shape
from polyhead_server.services.oip.parameters import read_layer
from polyhead_server.services.oip.to_attend_request import named_inputs
from polyhead_server.services.oip.typed_contents import unpack_bytes
from polyhead_server.services.oip.whole.signature import MAX_BATCH_SIZE, WholeInput, inputs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.wire.protobuf import Span
    from polyhead.wire.template import Match
    from polyhead_server.call import LayerName
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = ["GivenInputs"]

_DATATYPES = {
    BYTES: (BYTES,),
    "INT64": ("INT64", "INT32"),
    "FP32": ("FP32", "FP16", "BF16", "FP64"),
}
"""The types that an input may have, by the one that its specification names."""


class _GivenInput(NamedTuple):
    """An input that a request has."""

    input: WholeInput
    shape: tuple[int, ...]
    layout: TensorLayout | None
    """None: it is texts."""
    place: int
    """Index of its raw contents."""

    def read(self, match: Match[Any]) -> NDArray[Any]:
        """Return its elements. Raises InvalidRequestError."""
        if self.layout is None:
            return unpack_bytes(self.input.spec.name, match.payload(self.place), self.shape)
        return self.layout.read(match.data, match.offset(self.place))


class GivenInputs:
    """The inputs that all requests of one template have."""

    def __init__(self, request: pb.ModelInferRequest, model: WholeModel) -> None:
        """Raise InvalidRequestError if they do not fit the model or each other."""
        known = inputs_of(model)
        self._inputs = {
            tensor.name: _check_input(place, tensor, known[tensor.name])
            for place, tensor in enumerate(named_inputs(request, known))
        }
        self.first_layer = _first_layer(request)
        """The layer that hidden states enter, as the request names it."""
        self._check_alternatives(model, known)
        self._check_masks()
        self.has_texts = "text" in self._inputs
        entered = self.first_layer.stack if self.first_layer else ""
        self.stacks = frozenset(
            given.input.stack or entered or model.config.stacks[0].name
            for given in self._inputs.values()
            if not given.input.masks
        )
        """The stacks that run."""

    def check_sizes(self, raw_contents: Sequence[Span]) -> None:
        """Raise InvalidRequestError if raw contents do not fit their shape.

        Texts are checked when they are read.
        """
        for name, given in self._inputs.items():
            start, end = raw_contents[given.place]
            if given.layout is not None:
                try:
                    given.layout.check_size(end - start)
                except TensorError as error:
                    raise refused_tensor(name, error) from error

    def texts(self, match: Match[Any]) -> tuple[str, ...]:
        """Return the texts of a request. Raises InvalidRequestError."""
        return tuple(self._inputs["text"].read(match).ravel()) if self.has_texts else ()

    def arrays(self, match: Match[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a request by the names that a ForwardCall has for them."""
        return {
            each.input.field: each.read(match)
            for each in self._inputs.values()
            if each.layout is not None and not each.input.masks
        }

    def lengths(self, match: Match[Any]) -> dict[str, tuple[int, ...]]:
        """Return the lengths of a request's sequences. Raises InvalidRequestError."""
        return {
            each.input.field: _lengths_of(name, each.read(match))
            for name, each in self._inputs.items()
            if each.input.masks
        }

    def _check_alternatives(self, model: WholeModel, known: dict[str, WholeInput]) -> None:
        """Raise InvalidRequestError unless one input enters, besides those of a decoder."""
        config = model.config
        decoder = config.stacks[-1].name if config.has_memory else None
        names = [name for name, each in known.items() if not each.masks and each.stack != decoder]
        given = [name for name in names if name in self._inputs]
        is_decoding = {"encoder_hidden_states", "decoder_input_ids"} <= self._inputs.keys()
        if len(given) > 1 or not (given or is_decoding):
            expected = f"one of {', '.join(names)}"
            if decoder:
                expected += ", or encoder_hidden_states with decoder_input_ids"
            got = " and ".join(given) or "no such input"
            if len(config.stacks) > 1 and not decoder and given:
                got += ": a request runs one tower, so send one for each"
            raise InvalidRequestError("inputs", f"expected {expected}; got {got}", "REQUIRED")

    def _check_masks(self) -> None:
        """Raise InvalidRequestError for a mask without its tokens, or of another shape."""
        for name, given in self._inputs.items():
            if not given.input.masks:
                continue
            masked = next((each for each in given.input.masks if each in self._inputs), None)
            if masked is None:
                known = " or ".join(given.input.masks)
                raise InvalidRequestError(
                    name,
                    f"says what of {known} is valid, and that is not given; leave it out",
                    "NOT_APPLICABLE",
                )
            shape = self._inputs[masked].shape[:2]
            if given.shape != shape:
                raise InvalidRequestError(
                    f"{name}.shape",
                    f"expected {list(shape)}, as {masked} has; got {list(given.shape)}",
                    "SHAPE_MISMATCH",
                )


def _first_layer(request: pb.ModelInferRequest) -> LayerName | None:
    """Return the layer that hidden states enter, if the request names it."""
    parameters = request.parameters
    if "first_layer" not in parameters:
        return None
    return read_layer("first_layer", parameters["first_layer"])


def _check_input(
    place: int, tensor: pb.ModelInferRequest.InferInputTensor, known: WholeInput
) -> _GivenInput:
    """Check type and shape of an input. Raises InvalidRequestError."""
    name, datatypes = tensor.name, _DATATYPES[known.spec.datatype]
    if tensor.datatype not in datatypes:
        raise InvalidRequestError(
            f"{name}.datatype",
            f"expected {' or '.join(datatypes)}; got {listed([tensor.datatype or 'none'])}",
            "UNSUPPORTED_DTYPE",
        )
    spec, shape = known.spec, tuple(tensor.shape)
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
        return _GivenInput(known, shape, None, place)
    dtype = DATATYPES[tensor.datatype]
    try:
        layout = TensorLayout.of(tensor_pb2.Tensor(dtype=dtype, shape=shape))
    except TensorError as error:
        raise refused_tensor(name, error) from error
    return _GivenInput(known, shape, layout, place)


def _lengths_of(name: str, mask: NDArray[Any]) -> tuple[int, ...]:
    """Return how many tokens of each sequence are valid. Raises InvalidRequestError."""
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
    found: list[int] = lengths.tolist()
    return tuple(found)
