"""Check arrays: embeddings, masks, lengths, positions, token ids. _checks.py describes the errors.

Checks of dtype and shape alone take an ArraySpec, so that request.py runs them once for all calls
with arrays of this dtype and shape.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead._checks import bad_value, invalid
from polyhead.wire.protobuf import MAX_MESSAGE_BYTES
from polyhead.wire.tensors import FLOAT_NAMES, MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from polyhead.errors import InvalidArgumentError

_MAX_ARRAYS_BYTES = MAX_MESSAGE_BYTES - 2**20  # leaves room for the request's other fields
_MAX_POSITION = 2**24  # beyond it float32 does not hold every whole number
_LENGTHS = ("kv_lengths", "lengths", "decoder_lengths", "memory_lengths")
_TOKEN_IDS = ("token_ids", "token_type_ids", "decoder_token_ids")
_INTEGERS = frozenset((*_LENGTHS, *_TOKEN_IDS, "positions", "key_positions"))
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


class ArraySpec(NamedTuple):
    """An array's dtype and shape."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """Convert an argument to an array of any dtype and shape; lists of floats become float32."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list; a tensor on a GPU
        expected = "integers" if name in _INTEGERS else "an array"
        advice = ""
        if name in _TOKEN_IDS and "inhomogeneous" in str(error):
            advice = ": pad the shorter sequences, and give their lengths"
        elif "BFloat16" in str(error):  # a torch tensor, whose type NumPy does not have
            advice = f": give {name}.float(), which holds the same numbers as float32"
        raise bad_value(name, f"expected {expected}{advice}; NumPy says: {error}") from error
    if isinstance(value, list | tuple) and name not in _INTEGERS:
        return _numbers_to_float32(name, value, array)
    return array


def _numbers_to_float32(name: str, value: object, array: NDArray[Any]) -> NDArray[Any]:
    """Convert an array to float32 if it was made of Python's numbers, which have no precision."""
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    is_embedding = array.ndim > 2 and name != "attn_mask"  # others may be token ids or bools
    if type(first) in (int, float) and (array.dtype == np.float64 or is_embedding):
        return array.astype(np.float32)
    return array


def check_embeddings(
    name: str,
    array: ArraySpec,
    *,
    num_axes: int | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
) -> None:
    """Refuse ``query``, ``key`` or ``value`` unless its dtype is a float and no axis is empty.

    It must have three axes, or four if it holds heads for a model without input projections.
    ``num_axes``, ``batch_size`` and ``seq_len``: the expected values; None for any value.
    """
    check_is_embedding(name, array)
    _check_dtype(name, array, accepted=FLOAT_NAMES, convert=".astype('float32')")
    shape, expected, advice = array.shape, "", ""
    if len(shape) == 2:
        expected, advice = f"3 axes {_AXES[name]}", f": add the batch axis, {name}[None]"
    elif len(shape) not in (3, 4) or 0 in shape:
        heads = f"heads {_HEAD_AXES[name]} for a model without input projections"
        expected = f"3 axes {_AXES[name]}, or {heads}, none empty"
    elif num_axes not in (None, len(shape)):
        expected = f"as many axes as query has, {num_axes}"
    elif batch_size not in (None, shape[0]):
        expected = f"the batch_size of query, {batch_size}"
    elif seq_len not in (None, shape[-2]):
        expected = f"the kv_seq_len of key, {seq_len}"
    if expected:
        raise _bad_shape(name, array, f"expected {expected}; got shape {shape}{advice}")


def check_is_embedding(name: str, array: ArraySpec) -> None:
    """Refuse texts and token ids, and name the call that takes them; refuse Python objects."""
    if array.dtype.kind == "O":
        raise _bad_dtype(name, "expected an array of numbers; got objects of Python, such as None")
    if array.dtype.kind in "US":
        raise _bad_dtype(
            name,
            "expected embeddings, numbers for each token; got text, which a whole model takes: "
            "client.forward(text, model=...)",
        )
    if array.dtype.kind in "iu" and len(array.shape) <= 2:
        raise _bad_dtype(
            name,
            f"expected embeddings, numbers for each token; got {array.dtype} of shape "
            f"{array.shape}: if these are token ids, a whole model takes them, "
            "client.forward(token_ids=..., model=...); else convert with .astype('float32')",
        )


def check_size(arrays: Iterable[ArraySpec], name: str = "query") -> None:
    """Refuse arrays that together exceed the size of a gRPC message."""
    if (size := sum(array.nbytes for array in arrays)) > _MAX_ARRAYS_BYTES:
        raise bad_value(
            name,
            f"the request's arrays take {size:,} bytes; expected at most {_MAX_ARRAYS_BYTES:,}, "
            "what one message holds: send fewer sequences at once",
        )


def check_attn_mask(array: ArraySpec, batch_size: int, q_seq_len: int, kv_seq_len: int) -> None:
    """Refuse a mask that does not broadcast to (batch_size, num_heads, q_seq_len, kv_seq_len).

    num_heads is not known without the model, so this axis may have any length.
    """
    _check_dtype(
        "attn_mask",
        array,
        accepted=("bool", *FLOAT_NAMES),
        convert=".astype(bool), True where a query may attend",
    )
    num_axes = len(array.shape)
    lengths = (batch_size, None, q_seq_len, kv_seq_len)[-num_axes:]  # None means any length
    fits = 1 <= num_axes <= 4 and all(
        got in (1, expected) or (expected is None and got > 0)
        for got, expected in zip(array.shape, lengths, strict=True)
    )
    if not fits:
        is_of_padding = array.shape == (batch_size, kv_seq_len)
        advice = ": give a mask of padding as key_padding_mask" if is_of_padding else ""
        raise _bad_shape(
            "attn_mask",
            array,
            "expected 1 to 4 axes that broadcast to (batch_size, num_heads, q_seq_len, "
            f"kv_seq_len) = ({batch_size}, num_heads, {q_seq_len}, {kv_seq_len}), of which two are "
            f"(q_seq_len, kv_seq_len); got shape {array.shape}{advice}",
        )


def checked_kv_lengths(value: ArrayLike, batch_size: int, kv_seq_len: int) -> list[int]:
    """Return the number of valid keys of each sequence."""
    return checked_lengths("kv_lengths", value, batch_size, (0, kv_seq_len), "kv_seq_len")


def checked_lengths(
    name: str, value: ArrayLike, batch_size: int, limits: tuple[int, int], limit_name: str
) -> list[int]:
    """Return the lengths of the sequences, if they are within the limits.

    ``limit_name``: the name of the upper limit, for errors.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        raise bad_value(name, f"expected integers; got {array.dtype}")
    if array.shape != (batch_size,):
        raise invalid(
            name,
            f"expected {batch_size} integers, one for each sequence; got shape {array.shape}",
            name,
            "SHAPE_MISMATCH",
        )
    lengths: list[int] = array.tolist()
    low, high = limits
    for index, length in enumerate(lengths):
        if not low <= length <= high:
            raise invalid(
                name,
                f"expected lengths from {low} to {limit_name} = {high}; got {length} for "
                f"sequence {index}",
                f"{name}[{index}]",
                "OUT_OF_RANGE",
            )
    return lengths


def checked_token_ids(name: str, value: ArrayLike) -> NDArray[Any]:
    """Return token ids as int32 or int64. The server refuses ids that the model does not have."""
    array = as_array(name, value)
    if array.size:  # NumPy makes floats of an empty list
        _check_integers(name, array)
    _check_axes(name, array, "(batch_size, seq_len)")
    return array.astype(
        np.int32 if array.dtype.itemsize <= 4 and array.dtype != np.uint32 else np.int64
    )


def checked_floats(name: str, value: ArrayLike, axes: str) -> NDArray[Any]:
    """Return an array of floats with these axes, such as ``(batch_size, bins, frames)``."""
    array = as_array(name, value)
    spec = ArraySpec(array.dtype, array.shape)
    _check_dtype(name, spec, accepted=FLOAT_NAMES, convert=".astype(np.float32)")
    _check_axes(name, array, axes)
    return array


def _check_axes(name: str, array: NDArray[Any], axes: str) -> None:
    num_axes = axes.count(",") + 1
    if array.ndim != num_axes or 0 in array.shape:
        advice = f": add the batch axis, {name}[None]" if array.ndim == num_axes - 1 else ""
        spec = ArraySpec(array.dtype, array.shape)
        message = f"expected {num_axes} axes {axes}, none empty; got shape {array.shape}{advice}"
        raise _bad_shape(name, spec, message)


def check_positions(name: str, array: ArraySpec, batch_size: int, seq_len: int) -> None:
    """Refuse positions of queries or keys unless (seq_len,) or (batch_size, seq_len) integers."""
    _check_integers(name, array)
    if array.shape not in ((seq_len,), (batch_size, seq_len)):
        raise _bad_shape(
            name,
            array,
            f"expected ({seq_len},), the same for all sequences, or ({batch_size}, {seq_len}); "
            f"got shape {array.shape}",
        )


def int32_positions(name: str, array: NDArray[Any]) -> NDArray[np.int32]:
    """Convert positions that check_positions has accepted to int32, the contract's dtype."""
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= _MAX_POSITION:
        raise invalid(
            name,
            f"expected positions from 0 to below {_MAX_POSITION}; got {low if low < 0 else high}",
            f"{name}.data",
            "OUT_OF_RANGE",
        )
    return array.astype(np.int32)


def _check_integers(name: str, array: ArraySpec | NDArray[Any]) -> None:
    if array.dtype.kind not in "iu":
        raise _bad_dtype(
            name,
            f"expected integers; got {array.dtype} of shape {array.shape}: convert with "
            ".astype(np.int64)",
        )


def _check_dtype(name: str, array: ArraySpec, *, accepted: Sequence[str], convert: str) -> None:
    if array.dtype.name not in accepted:
        raise _bad_dtype(
            name,
            f"expected one of {', '.join(accepted)}; got {array.dtype}: convert with {convert}",
        )


def _bad_dtype(name: str, message: str) -> InvalidArgumentError:
    return invalid(name, message, f"{name}.dtype", "UNSUPPORTED_DTYPE")


def _bad_shape(name: str, array: ArraySpec, message: str) -> InvalidArgumentError:
    """Make the error for a shape that no tensor can have, or that contradicts other arguments."""
    can_be_sent = 0 < len(array.shape) <= MAX_RANK and 0 not in array.shape
    reason = "SHAPE_MISMATCH" if can_be_sent else "INVALID_SHAPE"
    return invalid(name, message, f"{name}.shape", reason)
