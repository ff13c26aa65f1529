"""What both clients do: build a request from arrays, read a response. Pure functions."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from polyhead import _arguments as arguments
from polyhead import types
from polyhead.errors import DeadlineExceededError, ServerError
from polyhead.tensors import TensorError, fill_tensor, to_array
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "HEALTH_CHECK",
    "POLL_INTERVAL_S",
    "SERVING",
    "build_attend_request",
    "build_get_model_request",
    "not_ready_within",
    "parse_attend_response",
    "parse_model",
    "parse_server_info",
]

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
"""Asked with an empty message, which means the server as a whole."""
SERVING = b"\x08\x01"
"""The one answer that means ready: HealthCheckResponse(status=SERVING)."""
POLL_INTERVAL_S = 0.1
"""Pause between two questions whether the server is ready."""

_KERNELS = {
    pb.ATTENTION_KERNEL_FUSED: "fused",
    pb.ATTENTION_KERNEL_EXPLICIT: "explicit",
}


def build_attend_request(
    query: ArrayLike,
    *,
    model: str,
    version: int | None = None,
    key: ArrayLike | None = None,
    value: ArrayLike | None = None,
    attn_mask: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    need_weights: bool | types.AttnWeights = False,
    output_dtype: DTypeLike | None = None,
    request_id: str | None = None,
) -> pb.AttendRequest:
    """Make the message for a call; Client.attend documents the arguments.

    Raises InvalidArgumentError for whatever cannot be right for any model.
    """
    request = pb.AttendRequest(
        model=arguments.checked_text("model", model),
        model_version=arguments.checked_version(version),
        request_id=arguments.checked_request_id(request_id),
    )
    arrays = _checked_arrays(query, key, value, attn_mask)
    batch_size, q_seq_len, _ = arrays["query"].shape
    kv_seq_len = arrays.get("key", arrays["query"]).shape[1]
    if kv_lengths is not None:
        lengths = arguments.checked_kv_lengths(kv_lengths, batch_size, kv_seq_len)
        request.kv_lengths.extend(lengths)
    if selection := arguments.checked_selection(need_weights, q_seq_len):
        request.attn_weights.SetInParent()  # present even if it selects everything
        request.attn_weights.heads.extend(selection.heads)
        request.attn_weights.queries.extend(selection.queries)
    if output_dtype is not None:
        request.output_dtype = arguments.checked_output_dtype(output_dtype)
    for name, array in arrays.items():
        fill_tensor(getattr(request, name), array)
    return request


def _checked_arrays(
    query: ArrayLike,
    key: ArrayLike | None,
    value: ArrayLike | None,
    attn_mask: ArrayLike | None,
) -> dict[str, NDArray[Any]]:
    """Arrays by the field they go into, each right in itself and agreeing with the others."""
    arrays = {"query": arguments.checked_embeddings("query", query)}
    batch_size, kv_seq_len, _ = arrays["query"].shape
    if key is not None:
        arrays["key"] = arguments.checked_embeddings("key", key, batch_size=batch_size)
        kv_seq_len = arrays["key"].shape[1]
    if value is not None:
        arrays["value"] = arguments.checked_embeddings(
            "value", value, batch_size=batch_size, seq_len=kv_seq_len
        )
    if attn_mask is not None:
        arrays["attn_mask"] = arguments.checked_attn_mask(attn_mask, arrays["query"], kv_seq_len)
    arguments.check_size(arrays.values())
    return arrays


def parse_attend_response(
    response: pb.AttendResponse, *, query: ArrayLike, output_dtype: DTypeLike | None
) -> types.AttentionResult:
    """Read what a call gave; ``query`` and ``output_dtype`` are the call's.

    Raises ServerError if the response holds no result.
    """
    bfloat16 = _bfloat16_among(output_dtype, getattr(query, "dtype", None))
    has_weights = response.HasField("attn_weights")
    return types.AttentionResult(
        output=_read(response.output, bfloat16),
        attn_weights=_read(response.attn_weights, bfloat16) if has_weights else None,
        request_id=response.request_id,
        execution=types.Execution(
            model=response.execution.model,
            model_version=response.execution.model_version,
            provider=response.execution.provider,
            kernel=_KERNELS.get(response.execution.kernel, ""),
            queue_ms=response.execution.queue_ms,
            compute_ms=response.execution.compute_ms,
            batch_size=response.execution.batch_size,
        ),
    )


def build_get_model_request(name: str, version: int | None) -> pb.GetModelRequest:
    """Make the message that asks for one model. Raises InvalidArgumentError."""
    return pb.GetModelRequest(
        name=arguments.checked_text("name", name), version=arguments.checked_version(version)
    )


def parse_model(model: pb.Model) -> types.ModelInfo:
    """Read the description of a model."""
    return types.ModelInfo(
        name=model.name,
        version=model.version,
        is_ready=model.state == pb.MODEL_STATE_READY,
        state_reason=model.state_reason,
        spec=_copied(types.AttentionSpec, model.spec) if model.HasField("spec") else None,
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


def _bfloat16_among(*dtypes: object) -> np.dtype[Any] | None:
    """Find ml_dtypes' bfloat16, which this package does not import, among a caller's dtypes."""
    candidates = (np.dtype(dtype) for dtype in dtypes if isinstance(dtype, np.dtype | type))
    return next((dtype for dtype in candidates if dtype.name == "bfloat16"), None)


def _read(tensor: pb.Tensor, bfloat16: np.dtype[Any] | None) -> NDArray[Any]:
    try:
        array = to_array(tensor)
    except TensorError as error:
        raise ServerError(f"the server's reply holds no array: {error}") from error
    if bfloat16 and tensor.dtype == pb.DATA_TYPE_BFLOAT16:
        array = array.astype(bfloat16)
        array.flags.writeable = False
    return array


_Copy = TypeVar("_Copy", types.AttentionSpec, types.Provenance, types.ServerLimits)


def _copied(cls: type[_Copy], message: Message) -> _Copy:
    """Copy a flat message into the dataclass that has its fields."""
    return cls(**{field.name: getattr(message, field.name) for field in fields(cls)})
