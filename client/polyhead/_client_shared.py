"""What both clients do: build requests from arrays, read descriptions. Pure functions.

What calls of an attention block give is read in _replies.py.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from polyhead import _arguments as arguments
from polyhead import types
from polyhead._array_arguments import (
    check_size,
    checked_attn_mask,
    checked_embeddings,
    checked_kv_lengths,
    checked_positions,
)
from polyhead._replies import facts_of
from polyhead._weights_arguments import checked_need_output, checked_selection
from polyhead.errors import DeadlineExceededError
from polyhead.tensors import fill_tensor
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from polyhead._replies import CallFacts
    from polyhead.results import Weights

__all__ = [
    "HEALTH_CHECK",
    "POLL_INTERVAL_S",
    "SERVING",
    "build_attend_rows_request",
    "build_get_model_request",
    "not_ready_within",
    "parse_model",
    "parse_server_info",
    "prepare_call",
]

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
"""Asked with an empty message, which means the server as a whole."""
SERVING = b"\x08\x01"
"""The one answer that means ready: HealthCheckResponse(status=SERVING)."""
POLL_INTERVAL_S = 0.1
"""Pause between two questions whether the server is ready."""


def prepare_call(
    query: ArrayLike,
    *,
    model: str,
    version: int | None = None,
    key: ArrayLike | None = None,
    value: ArrayLike | None = None,
    attn_mask: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    key_positions: ArrayLike | None = None,
    need_weights: bool | Weights = False,
    need_output: bool = True,
    output_dtype: DTypeLike | None = None,
    request_id: str | None = None,
) -> tuple[pb.AttendRequest, CallFacts]:
    """Make the message for a call, and note what its reply is read with.

    Client.attend documents the arguments. Raises InvalidArgumentError for whatever cannot be right
    for any model.
    """
    request = pb.AttendRequest(
        model=arguments.checked_text("model", model),
        model_version=arguments.checked_version(version, "model_version"),
        request_id=arguments.checked_request_id(request_id),
    )
    embeddings = _checked_embeddings(query, key, value)
    batch_size, q_seq_len = embeddings["query"].shape[0], embeddings["query"].shape[-2]
    kv_seq_len = embeddings.get("key", embeddings["query"]).shape[-2]
    arrays = dict(embeddings)
    if attn_mask is not None:
        arrays["attn_mask"] = checked_attn_mask(attn_mask, batch_size, q_seq_len, kv_seq_len)
    if positions is not None:
        arrays["positions"] = checked_positions("positions", positions, batch_size, q_seq_len)
    if key_positions is not None:
        arrays["key_positions"] = checked_positions(
            "key_positions", key_positions, batch_size, kv_seq_len
        )
    check_size(arrays.values())
    if kv_lengths is not None:
        request.kv_lengths.extend(checked_kv_lengths(kv_lengths, batch_size, kv_seq_len))
    selection = checked_selection(need_weights, q_seq_len)
    if selection is not None:
        request.attn_weights.CopyFrom(selection)  # present even if it selects everything
    request.omit_output = not checked_need_output(need_output, has_weights=selection is not None)
    if output_dtype is not None:
        request.output_dtype = arguments.checked_float_dtype("output_dtype", output_dtype)
    for name, array in arrays.items():
        fill_tensor(getattr(request, name), array)
    facts = facts_of(
        request, query=query, key=key, need_weights=need_weights, output_dtype=output_dtype
    )
    return request, facts


def build_attend_rows_request(
    call: pb.AttendRequest, rows_per_block: int | None
) -> pb.AttendRowsRequest:
    """Make the message that asks for a call's answer in blocks. Raises InvalidArgumentError."""
    request = pb.AttendRowsRequest(
        rows_per_block=arguments.checked_count(
            "rows_per_block", rows_per_block, "as many as the server finds fit"
        )
    )
    request.call.CopyFrom(call)
    return request


def _checked_embeddings(
    query: ArrayLike, key: ArrayLike | None, value: ArrayLike | None
) -> dict[str, NDArray[Any]]:
    """Arrays by the field they go into, each right in itself and agreeing with the others."""
    array = checked_embeddings("query", query)
    num_axes, batch_size, kv_seq_len = array.ndim, array.shape[0], array.shape[-2]
    arrays = {"query": array}
    if key is not None:
        arrays["key"] = checked_embeddings("key", key, num_axes=num_axes, batch_size=batch_size)
        kv_seq_len = arrays["key"].shape[-2]
    elif value is not None:
        message = "is given without key: expected key as well"
        raise arguments.invalid("value", message, "value", "REQUIRED")
    if value is not None:
        arrays["value"] = checked_embeddings(
            "value", value, num_axes=num_axes, batch_size=batch_size, seq_len=kv_seq_len
        )
    return arrays


def build_get_model_request(name: str, version: int | None) -> pb.GetModelRequest:
    """Make the message that asks for one model. Raises InvalidArgumentError."""
    return pb.GetModelRequest(
        name=arguments.checked_text("name", name),
        version=arguments.checked_version(version, "version"),
    )


def parse_model(model: pb.Model) -> types.ModelInfo:
    """Read the description of a model."""
    return types.ModelInfo(
        name=model.name,
        version=model.version,
        is_ready=model.state == pb.MODEL_STATE_READY,
        state_reason=model.state_reason,
        spec=_parse_spec(model.spec) if model.HasField("spec") else None,
        provenance=(
            _copied(types.Provenance, model.provenance) if model.HasField("provenance") else None
        ),
        providers=tuple(model.providers),
    )


def parse_server_info(response: pb.GetServerInfoResponse) -> types.ServerInfo:
    """Read the description of a server."""
    return types.ServerInfo(
        version=response.version,
        onnxruntime_version=response.onnxruntime_version,
        providers=tuple(response.providers),
        limits=_copied(types.ServerLimits, response.limits),
    )


def not_ready_within(timeout_s: float, target: str) -> DeadlineExceededError:
    """Make the error of having waited in vain."""
    return DeadlineExceededError(
        f"the server at {target} was not ready within {timeout_s:g} s: check that it runs there "
        "(polyhead serve), and its log"
    )


def _parse_spec(spec: pb.AttentionSpec) -> types.AttentionSpec:
    rotary = _copied(types.RotarySpec, spec.rotary) if spec.HasField("rotary") else None
    return _copied(types.AttentionSpec, spec, rotary=rotary)


_Copy = TypeVar(
    "_Copy", types.AttentionSpec, types.Provenance, types.RotarySpec, types.ServerLimits
)


def _copied(cls: type[_Copy], message: Message, **parsed: object) -> _Copy:
    """Copy a message into the dataclass that has its fields.

    ``parsed``: what to take for fields that are messages themselves.
    """
    values = {field.name: getattr(message, field.name) for field in fields(cls)}
    return cls(**(values | parsed))
