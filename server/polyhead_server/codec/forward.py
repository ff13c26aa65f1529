"""A ForwardRequest's bytes -> a ForwardCall, and a whole model's outputs -> a ForwardResponse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyhead.v1 import forward_pb2 as pb
from polyhead.v1 import tensor_pb2
from polyhead.wire.protobuf import header
from polyhead.wire.tensors import TensorError, encode_elements, tensor_head, to_array
from polyhead_server.call import LayerName, WeightsSelection
from polyhead_server.codec.message_format import parse
from polyhead_server.codec.request_fields import (
    FLOATS,
    check_dtype,
    entries,
    read_layer,
    read_selection,
    read_vectors,
    tensor_error,
)
from polyhead_server.codec.response import (
    Response,
    nested,
    write_execution,
    write_vectors,
)
from polyhead_server.errors import InvalidRequestError
from polyhead_server.forward_call import ForwardCall, RequestedVectors, RequestedWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_server.call import ExecutionInfo, RunTimes, Timing
    from polyhead_server.forward_call import ForwardOutputs, TokenizedText

__all__ = ["ForwardRequest", "read_forward_call"]

_INTEGERS = frozenset((tensor_pb2.DATA_TYPE_INT32, tensor_pb2.DATA_TYPE_INT64))
_TENSORS = {
    "token_ids": _INTEGERS,
    "token_type_ids": _INTEGERS,
    "decoder_token_ids": _INTEGERS,
    **dict.fromkeys(["pixel_values", "input_features", "hidden_states", "memory"], FLOATS),
}
_LENGTHS = ("lengths", "memory_lengths", "decoder_lengths")
_MAX_REQUEST_ID_BYTES = 256
_MAX_LAYERS = 4096
"""Most layers that a request may name."""


def read_forward_call(data: bytes) -> ForwardCall:
    """Read a request. Raises InvalidRequestError if it contradicts itself."""
    request = parse(pb.ForwardRequest, data)
    if len(request.request_id.encode()) > _MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(
            "request_id", f"expected at most {_MAX_REQUEST_ID_BYTES} bytes", "INVALID_VALUE"
        )
    output_dtype = request.output_dtype or tensor_pb2.DATA_TYPE_FLOAT
    check_dtype("output_dtype", output_dtype, FLOATS)
    for field in ("hidden_states_wanted", "attn_weights", "head_vectors"):
        if len(getattr(request, field)) > _MAX_LAYERS:
            raise InvalidRequestError(field, f"expected at most {_MAX_LAYERS} entries", "TOO_MANY")
    if request.all_hidden_states and request.hidden_states_wanted:
        raise InvalidRequestError(
            "hidden_states_wanted",
            "names layers, and all_hidden_states asks for all; leave one of them out",
            "NOT_APPLICABLE",
        )
    return ForwardCall(
        model=request.model,
        model_version=request.model_version,
        request_id=request.request_id,
        texts=tuple(request.texts),
        text_pairs=tuple(request.text_pairs),
        arrays={
            name: _array(request, name, dtypes)
            for name, dtypes in _TENSORS.items()
            if request.HasField(name)  # type: ignore[arg-type]  # one of its tensors
        },
        lengths={name: entries(name, getattr(request, name)) for name in _LENGTHS},
        first_layer=_states_of("first_layer", request.first_layer)
        if request.HasField("first_layer")
        else None,
        truncate=request.truncate,
        need_output=not request.omit_output,
        hidden_states=tuple(
            _states_of(f"hidden_states_wanted[{index}]", layer)
            for index, layer in enumerate(request.hidden_states_wanted)
        ),
        has_all_hidden_states=request.all_hidden_states,
        weights=tuple(
            _requested_weights(f"attn_weights[{index}]", requested)
            for index, requested in enumerate(request.attn_weights)
        ),
        vectors=tuple(
            _requested_vectors(f"head_vectors[{index}]", requested)
            for index, requested in enumerate(request.head_vectors)
        ),
        last_layer=request.last_layer if request.HasField("last_layer") else None,
        output_dtype=output_dtype,
    )


def _states_of(field: str, layer: pb.LayerRef) -> LayerName:
    """Read the name of a layer that hidden states belong to."""
    if layer.kind:
        raise InvalidRequestError(
            f"{field}.kind", "is for attention, and hidden states have none; leave it out",
            "NOT_APPLICABLE",
        )  # fmt: skip
    return LayerName(layer.stack, layer.layer)


def _array(
    request: pb.ForwardRequest, field: str, dtypes: frozenset[tensor_pb2.DataType.ValueType]
) -> NDArray[Any]:
    tensor: tensor_pb2.Tensor = getattr(request, field)
    check_dtype(f"{field}.dtype", tensor.dtype, dtypes)
    try:
        return to_array(tensor)
    except TensorError as error:
        raise tensor_error(field, error) from error


def _requested_weights(field: str, requested: pb.LayerWeights) -> RequestedWeights:
    selection = WeightsSelection()
    if requested.HasField("selection"):
        selection = read_selection(f"{field}.selection", requested.selection)
    layer = read_layer(requested.layer) if requested.HasField("layer") else None
    return RequestedWeights(field, layer, selection, tuple(requested.query_words))


def _requested_vectors(field: str, requested: pb.LayerHeadVectors) -> RequestedVectors:
    selection = read_vectors(f"{field}.selection", requested.selection)
    layer = read_layer(requested.layer) if requested.HasField("layer") else None
    return RequestedVectors(field, layer, selection)


@dataclass(slots=True)
class ForwardRequest:
    """A ForwardRequest."""

    call: ForwardCall
    times: RunTimes | None = None
    """The times of the run; None before."""

    def read(self) -> ForwardCall:
        """Return the call that the request describes."""
        return self.call

    def respond(
        self,
        call: ForwardCall,
        executed_by: ExecutionInfo,
        outputs: ForwardOutputs,
        timing: Timing,
    ) -> bytes:
        """Write the ForwardResponse."""
        return _write_response(call, executed_by, outputs, timing)

    def log_fields(self) -> dict[str, object]:
        """Return the request's fields for the log."""
        return {"request_id": self.call.request_id, "model": self.call.model}


def _write_response(
    call: ForwardCall, executed_by: ExecutionInfo, outputs: ForwardOutputs, timing: Timing
) -> bytes:
    """Write a ForwardResponse. Each array is copied once.

    ``call``: the call of the ForwardPlan, with the full names of all requested layers.
    """
    fields, dtype = pb.ForwardResponse.DESCRIPTOR.fields_by_name, call.output_dtype
    parts: list[Response] = []
    if outputs.output is not None:
        parts.append(_tensor(fields["output"].number, outputs.output, dtype))
    for layer in call.hidden_states:
        layer_field = _layer(layer, outputs, has_kind=False)
        inner = [layer_field, _tensor(2, outputs.hidden_states[layer], dtype)]
        parts.append(nested(fields["hidden_states"].number, inner))
    for index, weights in sorted(outputs.weights.items()):
        requested = call.weights[index]
        weights_dtype = requested.selection.dtype or dtype
        assert requested.layer is not None  # it is a full name
        layer_field = _layer(requested.layer, outputs)
        inner = [layer_field, _tensor(2, weights.attn_weights, weights_dtype)]
        if weights.top_keys is not None:
            inner.append(_tensor(3, weights.top_keys, tensor_pb2.DATA_TYPE_INT32))
        if weights.queries is not None:
            inner.append(_tensor(4, weights.queries, tensor_pb2.DATA_TYPE_INT32))
        parts.append(nested(fields["attn_weights"].number, inner))
    for index, vectors in sorted(outputs.vectors.items()):
        requested_vectors = call.vectors[index]
        assert requested_vectors.layer is not None  # it is a full name
        vectors_field = write_vectors(vectors, requested_vectors.selection.dtype or dtype)
        number = pb.LayerVectors.HEAD_VECTORS_FIELD_NUMBER
        inner = [_layer(requested_vectors.layer, outputs), nested(number, [vectors_field])]
        parts.append(nested(fields["head_vectors"].number, inner))
    rest = pb.ForwardResponse(
        request_id=call.request_id,
        lengths=outputs.lengths,
        layers_run=[pb.LayersRun(**run._asdict()) for run in outputs.layers_run],
    )
    for tokens in outputs.tokens:
        _add_tokens(rest.tokens.add(), tokens)
    parts.append(Response.of(rest.SerializeToString()))
    parts.append(
        nested(
            fields["execution"].number,
            [Response.of(write_execution(executed_by, outputs.is_fused, timing))],
        )
    )
    return b"".join(part for response in parts for part in response.parts)


def _add_tokens(message: pb.TokenizedText, text: TokenizedText) -> None:
    """Add the tokens of a text. Messages that are made first and then copied take twice as long."""
    add = message.tokens.add
    columns = text.spans.tolist(), text.text_indices.tolist(), text.type_ids.tolist()
    for spelling, number, (start, end), index, type_id in zip(
        text.spellings, text.ids.tolist(), *columns, strict=True
    ):
        add(text=spelling, id=number, start=start, end=end, text_index=index, type_id=type_id)


def _tensor(number: int, array: NDArray[Any], dtype: tensor_pb2.DataType.ValueType) -> Response:
    elements = encode_elements(array, dtype)
    head = tensor_head(number, dtype, array.shape)
    return Response([head, elements.data], len(head) + elements.nbytes)


def _layer(layer: LayerName, outputs: ForwardOutputs, *, has_kind: bool = True) -> Response:
    kind = layer.kind if has_kind else ""
    stack = layer.stack if outputs.has_stacks else ""
    data = pb.LayerRef(stack=stack, layer=layer.layer, kind=kind).SerializeToString()
    return Response.of(header(1, len(data)) + data)
