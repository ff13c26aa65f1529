"""Arrays as arguments: embeddings, masks, lengths and positions; see _arguments.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead._arguments import bad_value, invalid
from polyhead._channel import MAX_MESSAGE_BYTES
from polyhead.tensors import FLOAT_NAMES, MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from polyhead.errors import InvalidArgumentError

__all__ = [
    "check_size",
    "checked_attn_mask",
    "checked_embeddings",
    "checked_kv_lengths",
    "checked_positions",
]

_MAX_ARRAYS_BYTES = MAX_MESSAGE_BYTES - 2**20  # leaves room for everything else in a request
_MAX_POSITION = 2**24  # beyond it float32 does not hold every whole number
_AXES = {
    "query": "(batch_size, q_seq_len, embed_dim)",
    "key": "(batch_size, kv_seq_len, kdim)",
    "value": "(batch_size, kv_seq_len, vdim)",
}
_HEAD_AXES = {
    "query": "(batch_size, num_heads, q_seq_len, head_dim)",
    "key": "(batch_size, num_kv_heads, kv_seq_len, head_dim)",
    "value": "(batch_size, num_kv_heads, kv_seq_len, v_head_dim)",
}


def checked_embeddings(
    name: str,
    value: ArrayLike,
    *,
    num_axes: int | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
) -> NDArray[Any]:
    """Give ``query``, ``key`` or ``value`` as a float array, none of its axes empty.

    Its axes are three, or four if it holds heads for a model without input projections.
    ``num_axes``, ``batch_size`` and ``seq_len`` are those it must agree with, if there are any.
    """
    array = _as_array(name, value, accepted=FLOAT_NAMES, convert=".astype('float32')")
    if array.ndim == 2:
        raise _bad_shape(
            name,
            array,
            f"expected 3 axes {_AXES[name]}; got shape {array.shape}: add the batch axis, "
            f"{name}[None]",
        )
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise _bad_shape(
            name,
            array,
            f"expected 3 axes {_AXES[name]}, or heads {_HEAD_AXES[name]} for a model without "
            f"input projections, none empty; got shape {array.shape}",
        )
    if num_axes not in (None, array.ndim):
        raise _bad_shape(
            name,
            array,
            f"expected as many axes as query has, {num_axes}; got shape {array.shape}",
        )
    if batch_size not in (None, array.shape[0]):
        raise _bad_shape(
            name,
            array,
            f"expected the batch_size of query, {batch_size}; got shape {array.shape}",
        )
    if seq_len not in (None, array.shape[-2]):
        raise _bad_shape(
            name, array, f"expected the kv_seq_len of key, {seq_len}; got shape {array.shape}"
        )
    return array


def check_size(arrays: Iterable[NDArray[Any]]) -> None:
    """Refuse what no gRPC message can hold."""
    if (size := sum(array.nbytes for array in arrays)) > _MAX_ARRAYS_BYTES:
        raise bad_value(
            "query",
            f"the request's arrays take {size:,} bytes; expected at most {_MAX_ARRAYS_BYTES:,}, "
            "what one message holds: send fewer sequences at once",
        )


def checked_attn_mask(
    value: ArrayLike, batch_size: int, q_seq_len: int, kv_seq_len: int
) -> NDArray[Any]:
    """Give a mask that broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len).

    num_heads is the model's, so that axis may have any length here.
    """
    array = _as_array(
        "attn_mask",
        value,
        accepted=("bool", *FLOAT_NAMES),
        convert=".astype(bool), True where a query may attend",
    )
    known = (batch_size, None, q_seq_len, kv_seq_len)[-array.ndim :]  # None: not known here
    fits = 1 <= array.ndim <= 4 and all(
        got in (1, want) or (want is None and got > 0)
        for got, want in zip(array.shape, known, strict=True)
    )
    if not fits:
        raise _bad_shape(
            "attn_mask",
            array,
            "expected 1 to 4 axes that broadcast to (batch_size, num_heads, q_seq_len, "
            f"kv_seq_len) = ({batch_size}, num_heads, {q_seq_len}, {kv_seq_len}); got shape "
            f"{array.shape}",
        )
    return array


def checked_kv_lengths(value: ArrayLike, batch_size: int, kv_seq_len: int) -> list[int]:
    """Give the number of valid keys of each sequence."""
    array = _from_numpy("kv_lengths", value, "integers")
    if array.dtype.kind not in "iu":
        raise bad_value("kv_lengths", f"expected integers; got {array.dtype}")
    if array.shape != (batch_size,):
        raise invalid(
            "kv_lengths",
            f"expected {batch_size} integers, one for each sequence; got shape {array.shape}",
            "kv_lengths",
            "SHAPE_MISMATCH",
        )
    lengths: list[int] = array.tolist()
    for index, length in enumerate(lengths):
        if not 0 <= length <= kv_seq_len:
            raise invalid(
                "kv_lengths",
                f"expected lengths from 0 to kv_seq_len = {kv_seq_len}; got {length} for "
                f"sequence {index}",
                f"kv_lengths[{index}]",
                "OUT_OF_RANGE",
            )
    return lengths


def checked_positions(
    name: str, value: ArrayLike, batch_size: int, seq_len: int
) -> NDArray[np.int32]:
    """Give the positions of queries or keys, (seq_len,) or (batch_size, seq_len)."""
    array = _from_numpy(name, value, "integers")
    if array.dtype.kind not in "iu":
        raise _bad_dtype(name, f"expected integers; got {array.dtype} of shape {array.shape}")
    if array.shape not in ((seq_len,), (batch_size, seq_len)):
        raise _bad_shape(
            name,
            array,
            f"expected ({seq_len},), the same for all sequences, or ({batch_size}, {seq_len}); "
            f"got shape {array.shape}",
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= _MAX_POSITION:
        raise invalid(
            name,
            f"expected positions from 0 to below {_MAX_POSITION}; got {low if low < 0 else high}",
            f"{name}.data",
            "OUT_OF_RANGE",
        )
    return array.astype(np.int32)


def _as_array(
    name: str, value: ArrayLike, *, accepted: Sequence[str], convert: str
) -> NDArray[Any]:
    array = _from_numpy(name, value, "an array")
    if array.dtype.name not in accepted:
        raise _bad_dtype(
            name,
            f"expected one of {', '.join(accepted)}; got {array.dtype}: convert with {convert}",
        )
    return array


def _from_numpy(name: str, value: ArrayLike, expected: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list; a tensor on a GPU
        raise bad_value(name, f"expected {expected}; NumPy says: {error}") from error


def _bad_dtype(name: str, message: str) -> InvalidArgumentError:
    return invalid(name, message, f"{name}.dtype", "UNSUPPORTED_DTYPE")


def _bad_shape(name: str, array: NDArray[Any], message: str) -> InvalidArgumentError:
    """Make the error of a shape that is none of a tensor, or that of another one."""
    is_of_a_tensor = 0 < array.ndim <= MAX_RANK and 0 not in array.shape
    reason = "SHAPE_MISMATCH" if is_of_a_tensor else "INVALID_SHAPE"
    return invalid(name, message, f"{name}.shape", reason)
