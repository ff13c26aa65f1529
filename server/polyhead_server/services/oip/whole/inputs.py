"""What the inputs of a ModelInferRequest for a whole model hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead.v1 import tensor_pb2
from polyhead.wire.tensors import TensorError, TensorLayout
from polyhead_server.codec.request_fields import refused_tensor
from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.oip.datatypes import BYTES, DATATYPES
from polyhead_server.services.oip.onnx_request import check_shape
from polyhead_server.services.oip.to_attend_request import named_inputs
from polyhead_server.services.oip.typed_contents import unpack_bytes
from polyhead_server.services.oip.whole.signature import MAX_BATCH_SIZE, WholeInput, inputs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.wire.protobuf import Span
    from polyhead.wire.template import Match
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = ["GivenInputs"]

_DATATYPES = {
    BYTES: (BYTES,),
    "INT64": ("INT64", "INT32"),
    "FP32": ("FP32", "FP16", "BF16", "FP64"),
}
"""The types that an input may have, by the one that its specification names."""
_MASKS = {"attention_mask": "lengths", "decoder_attention_mask": "decoder_lengths"}
"""The lengths of a ForwardCall that masks are."""


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
        self._check_alternatives(model, known)
        self._check_masks()
        self.has_texts = "text" in self._inputs
        self.stacks = frozenset(given.input.stack for given in self._inputs.values())
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
        given = self._inputs.values()
        return {each.input.field: each.read(match) for each in given if each.input.field}

    def lengths(self, match: Match[Any]) -> dict[str, tuple[int, ...]]:
        """Return the lengths of a request's sequences. Raises InvalidRequestError."""
        return {
            field: _lengths_of(mask, self._inputs[mask].read(match))
            for mask, field in _MASKS.items()
            if mask in self._inputs
        }

    def _check_alternatives(self, model: WholeModel, known: dict[str, WholeInput]) -> None:
        """Raise InvalidRequestError unless one input enters, besides those of a decoder."""
        decoder = model.config.stacks[-1].name if model.config.has_memory else None
        names = [name for name, each in known.items() if not each.masks and each.stack != decoder]
        given = [name for name in names if name in self._inputs]
        if len(given) != 1:
            expected = f"one of {', '.join(names)}" if len(names) > 1 else names[0]
            got = " and ".join(given) or "no such input"
            raise InvalidRequestError("inputs", f"expected {expected}; got {got}", "REQUIRED")

    def _check_masks(self) -> None:
        """Raise InvalidRequestError for a mask without its tokens, or of another shape."""
        for name, given in self._inputs.items():
            masked = given.input.masks
            if masked and masked not in self._inputs:
                raise InvalidRequestError(
                    name,
                    f"says which tokens of {masked} are valid, and {masked} is not given; leave "
                    "it out",
                    "NOT_APPLICABLE",
                )
            if masked and given.shape != self._inputs[masked].shape:
                raise InvalidRequestError(
                    f"{name}.shape",
                    f"expected {list(self._inputs[masked].shape)}, the shape of {masked}; got "
                    f"{list(given.shape)}",
                    "SHAPE_MISMATCH",
                )


def _check_input(
    place: int, tensor: pb.ModelInferRequest.InferInputTensor, known: WholeInput
) -> _GivenInput:
    """Check type and shape of an input. Raises InvalidRequestError."""
    name, datatypes = tensor.name, _DATATYPES[known.spec.datatype]
    if tensor.datatype not in datatypes:
        raise InvalidRequestError(
            f"{name}.datatype",
            f"expected {' or '.join(datatypes)}; got {tensor.datatype or 'none'}",
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
