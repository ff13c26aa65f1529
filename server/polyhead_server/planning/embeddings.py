"""Checks the shapes of query, key and value, and converts their values to the model's precision.

A model with input projections takes embeddings, (batch_size, seq_len, width). A model without them
takes heads: side by side in that shape, or one by one, (batch_size, heads, seq_len, width), which
are put side by side here.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.wire.tensors import TensorLayout
    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import Arrays, AttentionCall

    Embeddings = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

__all__ = ["check_embeddings", "check_shape", "convert_embeddings", "is_finite"]

_ANY = -1
"""Length of an axis that may have any."""
_AXES = {
    "query": ("num_heads", "q_seq_len", "head_dim", "embed_dim"),
    "key": ("num_kv_heads", "kv_seq_len", "head_dim", "kdim"),
    "value": ("num_kv_heads", "kv_seq_len", "v_head_dim", "vdim"),
}
"""Names of each field's axes: number of heads, length, width of one head, width of all heads."""


def check_embeddings(call: AttentionCall, config: AttentionConfig) -> None:
    """Compare the shapes of query, key and value with the model and each other.

    Raises InvalidRequestError.
    """
    query = call.query
    is_by_head = query.ndim == 4 and not config.has_in_proj
    check_shape("query", query, _axes("query", config, is_by_head), _advice(query, config))
    if call.key is None and call.value is not None:
        raise InvalidRequestError("value", "is set without key; set key as well", "REQUIRED")
    if call.key is None and config.kdim != config.embed_dim:
        raise InvalidRequestError(
            "key",
            f"is required: the model's keys are {config.kdim} wide and its queries "
            f"{config.embed_dim}",
            "REQUIRED",
        )
    key = call.key or query
    check_shape("key", key, _axes("key", config, is_by_head, call.batch_size))
    if call.value is None and config.vdim != config.kdim:
        raise InvalidRequestError(
            "value",
            f"is required: the model's values are {config.vdim} wide and its keys {config.kdim}",
            "REQUIRED",
        )
    axes = _axes("value", config, is_by_head, call.batch_size, call.kv_seq_len)
    check_shape("value", call.value or key, axes)


def convert_embeddings(
    arrays: Arrays, config: AttentionConfig, *, allow_non_finite: bool
) -> Embeddings:
    """Convert query, key and value to (batch_size, seq_len, width) and the model's dtype.

    ``key`` defaults to ``query``, ``value`` to ``key``. An array is converted once. Raises
    InvalidRequestError (NON_FINITE) for NaN, infinity and numbers too large for the dtype.
    """
    convert = partial(_converted, np.dtype(config.dtype), allow_non_finite=allow_non_finite)
    converted = {name: convert(name, arrays[name]) for name in _AXES if name in arrays}
    query = converted["query"]
    key = converted.get("key", query)
    return query, key, converted.get("value", key)


def check_shape(field: str, layout: TensorLayout, axes: dict[str, int], more: str = "") -> None:
    """Compare a tensor's shape with named axes; -1 matches any length.

    Raises InvalidRequestError (SHAPE_MISMATCH), whose message ends with ``more``.
    """
    names = ", ".join(name if size == _ANY else f"{name}={size}" for name, size in axes.items())
    fits = layout.ndim == len(axes) and all(
        length in (_ANY, got) for length, got in zip(axes.values(), layout.shape, strict=True)
    )
    if not fits:
        got = list(layout.shape)
        raise InvalidRequestError(
            f"{field}.shape",
            f"expected ({names}); got {got}{more}",
            "SHAPE_MISMATCH",
            expected=names,
            got=got,
        )


def _axes(
    field: str,
    config: AttentionConfig,
    is_by_head: bool,  # noqa: FBT001 - private, and named at every call
    batch_size: int = _ANY,
    seq_len: int = _ANY,
) -> dict[str, int]:
    """Return the axes that a field must have: names and lengths."""
    heads, sequence, head_width, width = _AXES[field]
    if is_by_head:
        names = {"batch_size": batch_size, heads: getattr(config, heads), sequence: seq_len}
        return names | {head_width: getattr(config, head_width)}
    return {"batch_size": batch_size, sequence: seq_len, width: getattr(config, width)}


def _advice(query: TensorLayout, config: AttentionConfig) -> str:
    """Return advice for a query of another shape than expected."""
    if config.has_in_proj:
        is_by_head = query.ndim == 4
        return "; only models without input projections take heads one by one" * is_by_head
    if query.ndim == 4:
        return f"; or send the heads side by side, (batch_size, q_seq_len, {config.embed_dim})"
    return (
        f"; or send the heads one by one, (batch_size, {config.num_heads}, q_seq_len, "
        f"{config.head_dim})"
    )


def _converted(
    dtype: np.dtype[Any], field: str, array: NDArray[Any], *, allow_non_finite: bool
) -> NDArray[Any]:
    converted = array
    if array.dtype is not dtype or array.ndim == 4:
        by_token = array.transpose(0, 2, 1, 3) if array.ndim == 4 else array
        with np.errstate(over="ignore"):  # numbers beyond the range become infinite: found below
            contiguous = by_token.astype(dtype, order="C", copy=False)
        converted = contiguous.reshape(*contiguous.shape[:2], -1)
    if allow_non_finite or is_finite(converted):
        return converted
    problem = f"a number beyond {dtype.name}, which the model computes with"
    if not np.isfinite(array).all():
        problem = "a NaN or an infinity"
    raise InvalidRequestError(
        f"{field}.data", f"expected finite numbers; got {problem}", "NON_FINITE"
    )


def is_finite(array: NDArray[Any]) -> bool:
    """Whether an array has neither NaN nor infinity."""
    # The array's dot product with itself is not finite if one of its numbers is not. It takes half
    # the time of the sum and allocates nothing. Large finite numbers may overflow it, so the
    # numbers themselves are checked then. For float16 that check alone takes a third of the time.
    is_single = array.dtype == np.float32
    return (is_single and math.isfinite(np.vdot(array, array))) or bool(np.isfinite(array).all())
