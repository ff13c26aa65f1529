"""A call against its model and the server's limits: all that can be known before computing.

Sizes are compared before anything of that size is allocated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.tensors import itemsize
from polyhead_server.call import AttentionInputs
from polyhead_server.errors import InvalidRequestError, LimitExceededError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionCall
    from polyhead_server.settings import ServerSettings

__all__ = ["prepare"]

_MESSAGE_OVERHEAD_BYTES = 1024
"""More than an AttendResponse takes beside its tensors' elements."""


def prepare(
    call: AttentionCall, config: AttentionConfig, limits: ServerSettings
) -> AttentionInputs:
    """Check a call, and convert it to the model's precision.

    Raises InvalidRequestError, with the path of the field, or LimitExceededError.
    """
    query, key, value = _embeddings(call, config)
    batch_size, q_seq_len, kv_seq_len = len(query), query.shape[1], key.shape[1]
    scores_shape = (batch_size, config.num_heads, q_seq_len, kv_seq_len)
    _check_mask(call.attn_mask, scores_shape)
    kv_lengths = _kv_lengths(call.kv_lengths, batch_size, kv_seq_len)
    if call.weights is not None:
        _check_selection("heads", call.weights.heads, config.num_heads, "num_heads")
        _check_selection("queries", call.weights.queries, q_seq_len, "q_seq_len")
    runs_fused = (
        config.runs_fused(
            need_weights=call.weights is not None,
            has_mask=call.attn_mask is not None,
            q_seq_len=q_seq_len,
            kv_seq_len=length,
        )
        # each length runs on its own, and 0 takes no matrix worth counting
        for length in set(call.kv_lengths) - {0} or {kv_seq_len}
    )
    if not all(runs_fused):
        _check_scores_size(scores_shape, limits.max_scores_bytes, is_causal=config.is_causal)
    _check_response_size(call, config, kv_seq_len, limits.max_response_bytes)

    queries = _converted("query", query, limits)
    keys = queries if key is query else _converted("key", key, limits)
    values = keys if value is key else _converted("value", value, limits)
    return AttentionInputs(
        query=queries,
        key=keys,
        value=values,
        attn_mask=None if call.attn_mask is None else _additive(call.attn_mask),
        kv_lengths=kv_lengths,
        weights=call.weights,
    )


def _embeddings(
    call: AttentionCall, config: AttentionConfig
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Query, key and value, the absent ones filled in, with shapes that fit each other."""
    query = call.query
    _check_shape("query", query, {"batch_size": -1, "q_seq_len": -1, "embed_dim": config.embed_dim})
    if call.key is None and call.value is not None:
        raise InvalidRequestError("value", "is set without key; set key as well", "REQUIRED")
    if call.key is None and config.kdim != config.embed_dim:
        raise InvalidRequestError(
            "key",
            f"is required: the model's keys are {config.kdim} wide and its queries "
            f"{config.embed_dim}",
            "REQUIRED",
        )
    key = query if call.key is None else call.key
    _check_shape("key", key, {"batch_size": len(query), "kv_seq_len": -1, "kdim": config.kdim})
    if call.value is None and config.vdim != config.kdim:
        raise InvalidRequestError(
            "value",
            f"is required: the model's values are {config.vdim} wide and its keys {config.kdim}",
            "REQUIRED",
        )
    value = key if call.value is None else call.value
    expected = {"batch_size": len(query), "kv_seq_len": key.shape[1], "vdim": config.vdim}
    _check_shape("value", value, expected)
    return query, key, value


def _check_shape(field: str, array: NDArray[Any], axes: dict[str, int]) -> None:
    """Compare an array's shape with named axes; -1 matches any length."""
    names = ", ".join(name if size < 0 else f"{name}={size}" for name, size in axes.items())
    fits = array.ndim == len(axes) and all(
        wanted in (-1, got) for wanted, got in zip(axes.values(), array.shape, strict=True)
    )
    if not fits:
        got = list(array.shape)
        raise InvalidRequestError(
            f"{field}.shape",
            f"expected ({names}); got {got}",
            "SHAPE_MISMATCH",
            expected=names,
            got=got,
        )


def _check_mask(mask: NDArray[Any] | None, scores_shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    aligned = scores_shape[-mask.ndim :]
    fits = mask.ndim <= len(scores_shape) and all(
        got in (1, wanted) for got, wanted in zip(mask.shape, aligned, strict=True)
    )
    if not fits:
        raise InvalidRequestError(
            "attn_mask.shape",
            "expected a shape that broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len) = "
            f"{list(scores_shape)}; got {list(mask.shape)}",
            "SHAPE_MISMATCH",
            expected=list(scores_shape),
            got=list(mask.shape),
        )


def _kv_lengths(
    lengths: tuple[int, ...], batch_size: int, kv_seq_len: int
) -> NDArray[np.int64] | None:
    if not lengths:
        return None
    if len(lengths) != batch_size:
        raise InvalidRequestError(
            "kv_lengths",
            f"expected one for each of the {batch_size} sequences; got {len(lengths)}",
            "SHAPE_MISMATCH",
            expected=batch_size,
            got=len(lengths),
        )
    for index, length in enumerate(lengths):
        if not 0 <= length <= kv_seq_len:
            raise InvalidRequestError(
                f"kv_lengths[{index}]",
                f"expected 0 to kv_seq_len = {kv_seq_len}; got {length}",
                "OUT_OF_RANGE",
            )
    if min(lengths) == kv_seq_len:
        return None
    return np.array(lengths, dtype=np.int64)


def _check_selection(field: str, indices: tuple[int, ...], count: int, counted: str) -> None:
    path = f"attn_weights.{field}"
    if len(indices) > count:
        raise InvalidRequestError(
            path, f"expected at most {counted} = {count} indices; got {len(indices)}", "TOO_MANY"
        )
    for position, index in enumerate(indices):
        if not 0 <= index < count:
            raise InvalidRequestError(
                f"{path}[{position}]",
                f"expected 0 to {counted} - 1 = {count - 1}; got {index}",
                "OUT_OF_RANGE",
            )
    if len(set(indices)) < len(indices):
        raise InvalidRequestError(path, "expected no index twice", "DUPLICATE")


def _check_scores_size(scores_shape: tuple[int, ...], limit: int, *, is_causal: bool) -> None:
    needed = math.prod(scores_shape) * np.dtype(np.float32).itemsize
    if needed <= limit:
        return
    batch_size, _, q_seq_len, _ = scores_shape
    sequences, rows = limit * batch_size // needed, limit * batch_size * q_seq_len // needed
    if sequences:
        advice = f"send at most {sequences} sequences at a time"
    elif rows and not is_causal:  # where a query's keys depend on its place, it cannot go alone
        advice = f"send one sequence, and at most {rows} queries at a time against all its keys"
    else:
        advice = "send shorter sequences"
    raise LimitExceededError(
        "max_scores_bytes",
        "attention weights, a mask, or causality with other numbers of keys than queries take a "
        "matrix of scores (batch_size, num_heads, q_seq_len, kv_seq_len)"
        f" = {list(scores_shape)}, {needed} bytes, over this server's {limit}; {advice}, or raise "
        "its --max-scores-bytes",
        "SCORES_TOO_LARGE",
        expected=limit,
        got=needed,
    )


def _check_response_size(
    call: AttentionCall, config: AttentionConfig, kv_seq_len: int, limit: int
) -> None:
    batch_size, q_seq_len, _ = call.query.shape
    item = itemsize(call.output_dtype)
    size = batch_size * q_seq_len * config.output_dim * item + _MESSAGE_OVERHEAD_BYTES
    advice = "send a smaller batch, or ask for output_dtype FLOAT16"
    if call.weights is not None:
        heads = len(call.weights.heads) or config.num_heads
        row = batch_size * heads * kv_seq_len * item
        rows = max(0, limit - size) // row
        size += row * (len(call.weights.queries) or q_seq_len)
        if rows:
            advice = f"select at most {rows} queries of these {heads} heads in attn_weights"
    if size > limit:
        raise LimitExceededError(
            "max_response_bytes",
            f"the response would take {size} bytes, over this server's {limit}; {advice}, or "
            "raise its --max-response-bytes",
            "OUTPUT_TOO_LARGE",
            expected=limit,
            got=size,
        )


def _converted(field: str, array: NDArray[Any], limits: ServerSettings) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # float64 beyond float32's range: found below
        converted = array.astype(np.float32, copy=False)
    if limits.allow_non_finite or _is_finite(converted):
        return converted
    what = "a NaN or an infinity" if not np.isfinite(array).all() else "a number beyond FLOAT"
    raise InvalidRequestError(f"{field}.data", f"expected finite numbers; got {what}", "NON_FINITE")


def _is_finite(array: NDArray[np.float32]) -> bool:
    # A NaN or an infinity makes the sum one too, and summing allocates nothing; large finite
    # numbers may overflow it, hence the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def _additive(mask: NDArray[Any]) -> NDArray[np.float32]:
    """A mask as numbers to add to the scores, with 4 axes."""
    if mask.dtype == bool:
        numbers = np.where(mask, np.float32(0), np.float32(-np.inf))
    else:
        with np.errstate(over="ignore"):  # float64's lowest becomes minus infinity: the same
            numbers = mask.astype(np.float32, copy=False)
        if not (numbers < np.inf).all():  # which NaN is not either
            raise InvalidRequestError(
                "attn_mask.data",
                "expected numbers or minus infinity; got NaN, plus infinity or a number beyond "
                "FLOAT",
                "NON_FINITE",
            )
    return numbers.reshape((1,) * (4 - mask.ndim) + mask.shape)
