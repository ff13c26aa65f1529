"""Check and write the outputs that a ModelInferRequest for a whole model names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead.v1 import attention_pb2 as v1
from polyhead.wire.tensors import encode_elements
from polyhead_server.codec.request_fields import read_selection
from polyhead_server.errors import InvalidRequestError, prefix_field_path
from polyhead_server.forward_call import RequestedVectors, RequestedWeights
from polyhead_server.head_vectors import VectorsSelection
from polyhead_server.services.oip.datatypes import BYTES
from polyhead_server.services.oip.parameters import named_selections, set_selection
from polyhead_server.services.oip.to_attend_request import VECTORS, requested_outputs
from polyhead_server.services.oip.typed_contents import pack_bytes
from polyhead_server.services.oip.whole.signature import WholeOutput, inputs_of, outputs_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from polyhead_server.call import LayerName
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardOutputs
    from polyhead_server.inference import grpc_inference_pb2 as pb
    from polyhead_server.services.oip.response import Output
    from polyhead_server.services.oip.whole.inputs import RequestInputs

__all__ = ["RequestedOutputs"]

_WEIGHTS, _TEXTS = ("attn_weights", "top_keys", "queries"), ("tokens", "input_ids")


class _RequestedOutput(NamedTuple):
    """An output that a request names."""

    output: WholeOutput
    weights: int
    """Index of the weights that it belongs to; -1 if it belongs to none."""


class RequestedOutputs:
    """The outputs that all requests of one template name; `output` if they name none."""

    def __init__(
        self, request: pb.ModelInferRequest, model: WholeModel, inputs: RequestInputs
    ) -> None:
        """Raise InvalidRequestError for outputs that do not exist, or need other inputs."""
        model_outputs = outputs_of(model)
        names = requested_outputs(request, model_outputs, _summary(model_outputs)) or ["output"]
        self.weights: list[RequestedWeights] = []
        """The attention weights that these outputs belong to."""
        self.fields: list[str] = []
        """The field that selects each of these weights in the request, for error messages."""
        self._kinds: dict[LayerName, list[str]] = {}
        """Kinds of heads' vectors among these outputs, by layer."""
        self._outputs: list[_RequestedOutput] = []
        for index, name in enumerate(names):
            field, output = f"outputs[{index}]", model_outputs[name]
            _check_inputs(f"{field}.name", output, model, inputs)
            if output.kind == "output" and self.need_output:
                raise InvalidRequestError(
                    f"{field}.name",
                    "output and last_hidden_state are the same; name one of them",
                    "DUPLICATE",
                )
            weights = self._weights(field, output, request, index)
            if output.kind in VECTORS and output.layer is not None:
                self._kinds.setdefault(output.layer, []).append(VECTORS[output.kind])
            self._outputs.append(_RequestedOutput(output, weights))
        _check_selections("", request.parameters, has_weights=bool(self.weights))

    @property
    def need_output(self) -> bool:
        """Whether the model's output is requested."""
        return any(requested.output.kind == "output" for requested in self._outputs)

    @property
    def pads_tokens(self) -> bool:
        """Whether an array with an entry for each token is requested."""
        return any(requested.output.kind in _TEXTS for requested in self._outputs)

    @property
    def hidden_states(self) -> tuple[LayerName, ...]:
        """The layers whose hidden states are requested."""
        return tuple(
            requested.output.layer
            for requested in self._outputs
            if requested.output.kind == "hidden_states" and requested.output.layer
        )

    @property
    def vectors(self) -> tuple[RequestedVectors, ...]:
        """The vectors of heads among these outputs: one entry for each layer."""
        return tuple(
            RequestedVectors(f"head_vectors[{index}]", layer, VectorsSelection(tuple(kinds)))
            for index, (layer, kinds) in enumerate(self._kinds.items())
        )

    def write(self, outputs: ForwardOutputs) -> list[Output]:
        """Write the outputs in the order of the request."""
        layers = [*self._kinds]
        return [_write(requested, outputs, layers) for requested in self._outputs]

    def _weights(
        self, field: str, output: WholeOutput, request: pb.ModelInferRequest, index: int
    ) -> int:
        """Return the index of the weights that an output belongs to; -1 if it belongs to none."""
        output_parameters = request.outputs[index].parameters if request.outputs else {}
        is_weights = output.kind in _WEIGHTS
        _check_selections(f"{field}.", output_parameters, has_weights=is_weights)
        if not is_weights:
            return -1
        assert output.layer is not None
        message, words = v1.AttnWeightsSelection(), list[str]()
        set_selection(message, request.parameters, words)
        with prefix_field_path(field):
            set_selection(message, output_parameters, words)
        for kind, is_set, needed in (
            ("top_keys", message.top_k > 0, "the parameter top_k"),
            ("queries", bool(words), "words in the parameter queries"),
        ):
            if output.kind == kind and not is_set:
                raise InvalidRequestError(
                    f"{field}.name", f"exists only with {needed}: set it", "REQUIRED"
                )
        path = f"{field}.parameters" if named_selections(output_parameters) else "parameters"
        selection = read_selection(path, message)
        for number, weights in enumerate(self.weights):
            existing = weights.layer, weights.selection, weights.words
            if existing == (output.layer, selection, tuple(words)):
                return number
        name = f"attn_weights[{len(self.weights)}]"
        self.weights.append(RequestedWeights(name, output.layer, selection, tuple(words)))
        self.fields.append(path)
        return len(self.weights) - 1


def _check_inputs(
    field: str, output: WholeOutput, model: WholeModel, inputs: RequestInputs
) -> None:
    """Raise InvalidRequestError for an output that needs another input."""
    needed = ""
    if output.kind in _TEXTS and not inputs.has_texts:
        needed = "text"
    elif output.layer and output.layer.stack not in inputs.stacks:
        needed = " or ".join(
            each.spec.name
            for each in inputs_of(model).values()
            if each.stack == output.layer.stack and each.field != "memory"
        )
    if needed:
        raise InvalidRequestError(
            field, f"{output.spec.name!r} needs the input {needed}, which is not given", "REQUIRED"
        )


def _check_selections(prefix: str, parameters: Any, *, has_weights: bool) -> None:  # noqa: ANN401 - protobuf's map
    for name in named_selections(parameters):
        if not has_weights:
            raise InvalidRequestError(
                f"{prefix}parameters.{name}",
                "is about attention weights, and none are asked for here: name attn_weights of a "
                "layer among the outputs",
                "UNEXPECTED",
            )


def _summary(names: Iterable[str]) -> str:
    """Describe the outputs, a range for each kind, because there may be hundreds of layers."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        stem, _, number = name.rpartition(".")
        numbers.setdefault(stem or name, []).append(number if stem else "")
    return ", ".join(
        f"{stem}.{layers[0]} to {stem}.{layers[-1]}" if layers[0] else stem
        for stem, layers in numbers.items()
    )


def _write(requested: _RequestedOutput, outputs: ForwardOutputs, layers: list[LayerName]) -> Output:
    """Write an output. ``layers``: the layers whose vectors are requested, in the call's order."""
    spec, kind, layer = requested.output
    if kind == "tokens":
        rows = [[text.encode() for text in tokens.spellings] for tokens in outputs.tokens]
        width = max(map(len, rows))
        packed = pack_bytes(text for row in rows for text in (*row, *[b""] * (width - len(row))))
        return spec.name, BYTES, (len(rows), width), packed
    array: NDArray[Any] | None
    match kind:
        case "output":
            array = outputs.output
        case "hidden_states":
            assert layer is not None
            array = outputs.hidden_states[layer]
        case "attn_weights":
            array = outputs.weights[requested.weights].attn_weights
        case "top_keys":
            array = outputs.weights[requested.weights].top_keys
        case "queries":
            array = outputs.weights[requested.weights].queries
        case "lengths":
            array = np.array(outputs.lengths, np.int64)
        case "input_ids":
            array = _token_ids(outputs)
        case kind if kind in VECTORS:
            assert layer is not None
            array = outputs.vectors[layers.index(layer)][VECTORS[kind]]
    assert array is not None
    elements = encode_elements(array, v1.DATA_TYPE_FLOAT if spec.datatype == "FP32" else None)
    return spec.name, spec.datatype, elements.shape, elements.data


def _token_ids(outputs: ForwardOutputs) -> NDArray[np.int64]:
    """Return the ids of the texts' tokens, padded with zeros."""
    longest = max(tokens.num_tokens for tokens in outputs.tokens)
    ids = np.zeros((len(outputs.tokens), longest), np.int64)
    for row, tokens in zip(ids, outputs.tokens, strict=True):
        row[: tokens.num_tokens] = tokens.ids
    return ids
