"""The client's own view of arguments: what cannot be right is refused before anything is sent.

What only the server knows, such as a model's widths and number of heads, is left to the server.
Every function here raises InvalidArgumentError with the argument's name, expected and got.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead._channel import MAX_MESSAGE_BYTES
from polyhead.errors import InvalidArgumentError
from polyhead.tensors import TensorError, parse_dtype
from polyhead.types import AttnWeights
from polyhead.v1.attention_pb2 import DataType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "check_size",
    "checked_attn_mask",
    "checked_embeddings",
    "checked_kv_lengths",
    "checked_output_dtype",
    "checked_request_id",
    "checked_selection",
    "checked_text",
    "checked_version",
]

MAX_REQUEST_ID_BYTES = 256
_MAX_INDEX = 2**31  # beyond what the contract's int32 holds
_MAX_ARRAYS_BYTES = MAX_MESSAGE_BYTES - 2**20  # leaves room for everything else in a request
_FLOATS = ("float32", "float16", "bfloat16", "float64")
_AXES = {
    "query": "(batch_size, q_seq_len, embed_dim)",
    "key": "(batch_size, kv_seq_len, kdim)",
    "value": "(batch_size, kv_seq_len, vdim)",
}


def checked_embeddings(
    name: str, value: ArrayLike, *, batch_size: int | None = None, seq_len: int | None = None
) -> NDArray[Any]:
    """Give ``query``, ``key`` or ``value`` as a float array of three axes, none empty.

    ``batch_size`` and ``seq_len`` are those it must agree with, if there are any.
    """
    axes = _AXES[name]
    array = _as_array(name, value, accepted=_FLOATS, convert=".astype('float32')")
    if array.ndim == 2:
        raise _bad_shape(
            name,
            f"expected 3 axes {axes}; got shape {array.shape}: add the batch axis, {name}[None]",
        )
    if array.ndim != 3 or 0 in array.shape:
        raise _bad_shape(name, f"expected 3 axes {axes}, none empty; got shape {array.shape}")
    if batch_size not in (None, array.shape[0]):
        raise _bad_shape(
            name, f"expected the batch_size of query, {batch_size}; got shape {array.shape}"
        )
    if seq_len not in (None, array.shape[1]):
        raise _bad_shape(
            name,
            f"expected the kv_seq_len of key (of query if there is no key), {seq_len}; got shape "
            f"{array.shape}",
        )
    return array


def check_size(arrays: Iterable[NDArray[Any]]) -> None:
    """Refuse what no gRPC message can hold."""
    if (size := sum(array.nbytes for array in arrays)) > _MAX_ARRAYS_BYTES:
        raise _bad_value(
            "query",
            f"the request's arrays take {size:,} bytes; expected at most {_MAX_ARRAYS_BYTES:,}, "
            "what one message holds: send fewer sequences at once",
        )


def checked_attn_mask(value: ArrayLike, query: NDArray[Any], kv_seq_len: int) -> NDArray[Any]:
    """Give a mask that broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len).

    num_heads is the model's, so that axis may have any length here.
    """
    array = _as_array(
        "attn_mask",
        value,
        accepted=("bool", *_FLOATS),
        convert=".astype(bool), True where a query may attend",
    )
    batch_size, q_seq_len, _ = query.shape
    known = (batch_size, None, q_seq_len, kv_seq_len)[-array.ndim :]  # None: not known here
    fits = 1 <= array.ndim <= 4 and all(
        got in (1, want) or (want is None and got > 0)
        for got, want in zip(array.shape, known, strict=True)
    )
    if not fits:
        raise _bad_shape(
            "attn_mask",
            "expected 1 to 4 axes that broadcast to (batch_size, num_heads, q_seq_len, "
            f"kv_seq_len) = ({batch_size}, num_heads, {q_seq_len}, {kv_seq_len}); got shape "
            f"{array.shape}",
        )
    return array


def checked_kv_lengths(value: ArrayLike, batch_size: int, kv_seq_len: int) -> list[int]:
    """Give the number of valid keys of each sequence."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise _bad_value("kv_lengths", f"expected integers; NumPy says: {error}") from None
    if array.shape != (batch_size,) or array.dtype.kind not in "iu":
        raise _bad_value(
            "kv_lengths",
            f"expected {batch_size} integers, one for each sequence; got {array.dtype} of shape "
            f"{array.shape}",
        )
    lengths: list[int] = array.tolist()
    for index, length in enumerate(lengths):
        if not 0 <= length <= kv_seq_len:
            raise _bad_value(
                "kv_lengths",
                f"expected lengths from 0 to kv_seq_len = {kv_seq_len}; got {length} for "
                f"sequence {index}",
            )
    return lengths


def checked_selection(need_weights: object, q_seq_len: int) -> AttnWeights | None:
    """Give the attention weights that are wanted; None: none."""
    if isinstance(need_weights, bool | np.bool_):
        return AttnWeights() if need_weights else None
    if isinstance(need_weights, AttnWeights):
        heads = _checked_indices("heads", need_weights.heads, _MAX_INDEX, "num_heads")
        queries = _checked_indices(
            "queries", need_weights.queries, q_seq_len, f"q_seq_len = {q_seq_len}"
        )
        return AttnWeights(heads=heads, queries=queries)
    raise _invalid(
        "need_weights",
        "attn_weights",
        f"expected True, False or AttnWeights(heads=..., queries=...); got {need_weights!r}",
        "INVALID_VALUE",
    )


def checked_output_dtype(dtype: DTypeLike) -> DataType.ValueType:
    """Give the element type of the result."""
    try:
        parsed = parse_dtype(dtype)
    except TensorError as error:
        raise _bad_value("output_dtype", error.message) from None
    if parsed == DataType.DATA_TYPE_BOOL:
        raise _bad_value("output_dtype", "expected a float type; got bool")
    return parsed


def checked_text(name: str, value: object) -> str:
    """Give a str that UTF-8 can carry, not empty."""
    if not (isinstance(value, str) and value):
        raise _bad_value(name, f"expected a str that is not empty; got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad_value(name, f"expected text; {value!r} has lone surrogates") from None
    return value


def checked_request_id(value: object) -> str:
    """Give a request's id, which the contract bounds; None becomes empty."""
    if value is None:
        return ""
    text = checked_text("request_id", value)
    if (size := len(text.encode())) > MAX_REQUEST_ID_BYTES:
        raise _bad_value(
            "request_id", f"expected at most {MAX_REQUEST_ID_BYTES} bytes of UTF-8; got {size}"
        )
    return text


def checked_version(value: object) -> int:
    """Give a model's version; None becomes 0, which is the newest."""
    if value is None:
        return 0
    if isinstance(value, int | np.integer) and 0 < value < 2**63:
        return int(value)
    message = f"expected a whole number from 1, or None for the newest; got {value!r}"
    raise _invalid("version", "model_version", message, "INVALID_VALUE")


def _as_array(
    name: str, value: ArrayLike, *, accepted: Sequence[str], convert: str
) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list; a tensor on a GPU
        raise _bad_value(name, f"expected an array; NumPy says: {error}") from error
    if array.dtype.name not in accepted:
        names = ", ".join(accepted)
        raise _invalid(
            name,
            f"{name}.dtype",
            f"expected one of {names}; got {array.dtype}: convert with {convert}",
            "UNSUPPORTED_DTYPE",
        )
    return array


def _checked_indices(name: str, indices: Sequence[int], end: int, end_name: str) -> tuple[int, ...]:
    argument, field = f"need_weights.{name}", f"attn_weights.{name}"
    try:
        numbers = tuple(operator.index(index) for index in indices)
    except TypeError:
        message = f"expected a sequence of integers; got {indices!r}"
        raise _invalid(argument, field, message, "INVALID_VALUE") from None
    for index in numbers:
        if not 0 <= index < end:
            message = f"expected indices from 0 to below {end_name}; got {index}"
            raise _invalid(argument, field, message, "INVALID_VALUE")
    if len(set(numbers)) != len(numbers):
        message = f"expected each index once; got {numbers}"
        raise _invalid(argument, field, message, "INVALID_VALUE")
    return numbers


def _bad_shape(name: str, message: str) -> InvalidArgumentError:
    return _invalid(name, f"{name}.shape", message, "INVALID_SHAPE")


def _bad_value(name: str, message: str) -> InvalidArgumentError:
    return _invalid(name, name, message, "INVALID_VALUE")


def _invalid(argument: str, field: str, message: str, reason: str) -> InvalidArgumentError:
    """Name the argument as the caller wrote it, and the field as the contract calls it."""
    return InvalidArgumentError(f"{argument}: {message}", reason=reason, fields={field: message})
